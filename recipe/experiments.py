"""What the experiments of editing.py and image_edits.py share: the model, the judge's tests, words to teach,
and how shares are told.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import textinv
from ldm import LatentDiffusion
from recipe.artwork import Artwork, required
from recipe.captions import Scene
from recipe.objects import HELD_OUT
from recipe.resnet import INDEX, Recognizer, images_to_x
from recipe.scenery import SIZE
from recipe.sources import EXAMPLES
from recipe.world import draw
from textinv.editing.compositions import Composition, Test, share
from textinv.images import read_images
from weights.clip import Clip

THINGS = ("fox", "mushroom", "octopus", "panda")
# The crops in which the judge looks for a thing of a pair: enlarged, it is as large as a thing alone.
PARTS = tuple((left, top, left + 40, top + 40) for left in (0, 24) for top in (0, 12, 24))
Result = tuple[list[str], Image.Image]                  # lines, and a sheet


@dataclass(frozen=True)
class Bench:
    """What all experiments use."""
    model: LatentDiffusion
    judge: Recognizer
    images: int = 32                # per prompt; four times as many per category prompt
    things: tuple[str, ...] = THINGS
    artwork: Artwork | None = None  # for balanced sets and real images
    evaluator: Clip | None = None   # for the baselines

    def found(self, head: str, name: str, rank: int | None = None) -> Test:
        """A test that the judge gives a name p >= 0.5 or, given a rank, has it in its top `rank`."""
        def find(images: Sequence[Image.Image]) -> Tensor:
            p = self.judge.probabilities(images_to_x(images))[head]
            own = p[:, INDEX[head][name], None]
            return own[:, 0] >= 0.5 if rank is None else (p > own).sum(dim=1) < rank
        return find

    def found_in_a_part(self, thing: str) -> Test:
        """A test that the judge gives an object p >= 0.5 in one of the PARTS of an image."""
        whole = self.found("object", thing)

        def find(images: Sequence[Image.Image]) -> Tensor:
            small = [image.resize((SIZE, SIZE)) for image in images]
            return torch.stack([whole([image.crop(part) for image in small]) for part in PARTS]).any(dim=0)
        return find

    def composed(self, rng: np.random.Generator, scene: Scene) -> Image.Image:
        """A real image of the scene. Raises InputError if there is no artwork."""
        return Image.fromarray(draw(rng, scene, required(self.artwork)))

    def shown(self, thing: str) -> list[Image.Image]:
        """A thing's training images."""
        return [image.shown for image in read_images(EXAMPLES / thing, self.model.image_size)]

    @contextlib.contextmanager
    def taught(self, placeholder: str, folder: Path, init: str, style: bool = False) -> Iterator[None]:
        """Context manager: inside it the model knows a word learned from a folder."""
        config = textinv.InversionConfig(init=init, style=style, placeholder=placeholder)
        textinv.patch(self.model, textinv.invert(self.model, folder, config))
        try:
            yield
        finally:
            textinv.unpatch(self.model, placeholder)

    @contextlib.contextmanager
    def taught_things(self) -> Iterator[None]:
        """Context manager: inside it the model knows a word for each of the things, such as <fox>."""
        with contextlib.ExitStack() as words:
            for thing in self.things:
                words.enter_context(self.taught(f"<{thing}>", EXAMPLES / thing, HELD_OUT[thing].init))
            yield


def judged(prompt: str, tests: Mapping[str, Test], images: list[Image.Image]) -> Composition:
    """What the tests find in existing images."""
    return Composition(prompt, images, {name: test(images) for name, test in tests.items()})


def counted(found: Sequence[Composition], real: Sequence[Composition]) -> list[str]:
    """A line for each prompt, and one for all prompts: the shares that pass each test, and all tests, among
    the model's images and among real ones."""
    lines = [f"{one.prompt}: {told(one)}; real: {told(same)}" for one, same in zip(found, real, strict=True)]
    total = [share(torch.cat([torch.stack(list(one.found.values())).all(dim=0) for one in some]))
             for some in (found, real)]
    return [*lines, f"all {len(found)} prompts: {total[0]}; real: {total[1]}"]


def told(one: Composition) -> str:
    """The shares of a prompt's images that pass each test, and all tests."""
    return ", ".join(f"{name} {part}" for name, part in one.shares().items())
