"""One cell of a suite: a setup measured on a thing with a seed. Each finished cell is saved to its own file
with a hash of everything it depends on, so a suite can be killed at any moment and never mixes results.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ldm import InputError, LatentDiffusion
from textinv.concept import Concept, fingerprint, patch, unpatch
from textinv.evaluation.evaluate import EDITS, PLAIN, SampleSpec, Sampling, evaluate, without_word
from textinv.evaluation.scores import editability, mean_pairwise_similarity
from textinv.evaluation.setups import CAPTION, IMAGES, WORD, Setup, Thing
from textinv.images import TrainingImage, read_images
from textinv.inversion import Progress
from textinv.options import InversionConfig
from textinv.running.run import invert
from weights.clip import Clip
from weights.files import atomic_write

T = TypeVar("T")
DAMAGED = (OSError, ValueError, TypeError, KeyError, RecursionError)   # what reading a damaged file may raise
_JSON_TYPES = {"str": str, "int": int, "float": (int, float), "list[str]": list,
               "dict[str, str]": dict}


@dataclass(frozen=True)
class Plan:
    """What every cell of a suite depends on."""
    suite: str
    model: str                          # its `model_id`
    dtype: str
    clip: str                           # its `clip_id`
    train_steps: int
    n: int                              # images per prompt
    batch: int                          # for sampling
    steps: int                          # for sampling
    guidance: float


@dataclass(frozen=True)
class Cell:
    """A setup, a thing and a seed. The seed is used for both the word and the images."""
    name: str                           # the setup's
    setup: Setup
    thing: Thing
    seed: int

    @property
    def file(self) -> str:
        """The stem of the cell's file names."""
        return f"{self.name}-{self.thing.name}-{self.seed}".replace(" ", "-")


@dataclass(frozen=True)
class Result:
    """A cell's scores, measured with CLIP; `key` is the hash of everything the result depends on."""
    setup: str
    thing: str
    seed: int
    reconstruction: float
    editability: float
    key: str
    training: list[str]                 # hashes of the training images
    samples: dict[str, str]             # prompt -> name of its image folder; empty for image only


def from_json(cls: type[T], values: Any) -> T:
    """A dataclass from a JSON object. Raises TypeError if a field is missing, unknown or of another type."""
    made: Any = cls(**values)
    for field in fields(made):
        if not isinstance(value := getattr(made, field.name), _JSON_TYPES[str(field.type)]):
            raise TypeError(f"{field.name} is {value!r:.50}")
    return made


def _read_result(path: Path) -> Result:
    return from_json(Result, json.loads(path.read_text(encoding="utf-8")))


def read_results(folder: Path) -> list[Result]:
    """All results in a suite's folder. Raises InputError if one is damaged."""
    results = []
    for path in sorted((folder / "cells").glob("*.json")):
        try:
            results.append(_read_result(path))
        except DAMAGED as error:
            raise InputError(f"{path}: damaged ({error!r:.100}). Delete it, and run the suite again."
                             ) from error
    return results


class Bench:
    """Everything needed to measure cells."""

    def __init__(self, model: LatentDiffusion, evaluator: Clip, plan: Plan, folder: Path, source: str):
        self.model, self.evaluator, self.plan, self.folder = model, evaluator, plan, folder
        self.source = source            # where the model's weights came from
        self._images: dict[str, list[TrainingImage]] = {}

    def images(self, thing: Thing) -> list[TrainingImage]:
        """A thing's images. Raises InputError if there are none."""
        if thing.name not in self._images:
            self._images[thing.name] = read_images(thing.folder, self.model.image_size)
        return self._images[thing.name]

    def key(self, cell: Cell) -> str:
        """The hash of everything a cell's result depends on."""
        thing = {"init": cell.thing.init, "captions": dict(cell.thing.captions),
                 "images": [_content(image) for image in self.images(cell.thing)]}
        setup = {**asdict(cell.setup), "options": dict(cell.setup.options)}
        content = json.dumps([asdict(self.plan), setup, thing, cell.seed], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def path(self, cell: Cell) -> Path:
        """The path of a cell's result file."""
        return self.folder / "cells" / f"{cell.file}.json"

    def finished(self, cell: Cell) -> Result | None:
        """A cell's saved result, or None. Raises InputError if it is for other weights or settings."""
        path = self.path(cell)
        try:
            result = _read_result(path)
        except DAMAGED:                 # or missing: measure it again
            return None
        if result.key != self.key(cell):
            raise InputError(f"{path}: was measured with a different model, images or settings. Choose "
                             "another `out`, or delete it.")
        return result

    def measure(self, cell: Cell, on_step: Callable[[Progress], object]) -> Result:
        """Measure a cell and save the result. Raises InputError."""
        key, training = self.key(cell), self.images(cell.thing)
        shown = [image.shown for image in training]
        if cell.setup.kind == IMAGES:
            reconstruction, edit, samples = *self._images_alone(shown), {}
        else:
            reconstruction, edit, samples = self._generated(cell, key, shown, on_step)
        result = Result(cell.name, cell.thing.name, cell.seed, reconstruction=reconstruction,
                        editability=edit, key=key, training=[image.sha256 for image in training],
                        samples=samples)
        path = self.path(cell)
        with atomic_write(path) as partial:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
        return result

    def _images_alone(self, shown: list[Image.Image]) -> tuple[float, float]:
        """The training images' own scores: similarity to each other, and to the prompts."""
        embedded = self.evaluator.images(shown)
        texts = self.evaluator.texts([without_word(template) for template in EDITS])
        similarity = mean_pairwise_similarity(embedded)
        return (1.0 if similarity is None else similarity,
                editability(embedded.mean(dim=0), texts).mean().item())

    def _generated(self, cell: Cell, key: str, shown: list[Image.Image], on_step: Callable[[Progress], object]
                   ) -> tuple[float, float, dict[str, str]]:
        """The two metrics of a word, a caption or the bare prompt, and the image folder of each prompt."""
        plan, word, concept = self.plan, "", None
        if cell.setup.kind == WORD:
            concept = self._word(cell, key, on_step)
            word = concept.placeholder
            patch(self.model, concept)
        elif cell.setup.kind == CAPTION:
            word = cell.thing.captions[cell.setup.caption]
        try:
            spec = SampleSpec("", None if concept is None else fingerprint(concept), plan.model, plan.dtype,
                              steps=plan.steps, guidance=plan.guidance, seed=plan.n * cell.seed)
            scores, _ = evaluate(self.model, self.evaluator, word, spec=spec, training=shown,
                                 sampling=Sampling(plan.n, plan.batch, self.folder / "samples"))
        finally:
            if concept is not None:
                unpatch(self.model, concept.placeholder)
        names = {template: spec.of(template, word).name for template in (PLAIN, *EDITS)}
        return scores.reconstruction.value, scores.editability.value, names

    def _word(self, cell: Cell, key: str, on_step: Callable[[Progress], object]) -> Concept:
        """The cell's word: newly learned, or loaded if an interrupted suite had already saved it."""
        path = self.folder / "words" / f"{cell.file}.safetensors"
        with contextlib.suppress(InputError):           # missing or damaged: learn it again
            known = Concept.load(path)
            if known.info.get("cell") == key:
                return known
        paths = [image.path for image in self.images(cell.thing)][:cell.setup.images]
        learned = invert(self.model, paths, self.config(cell), progress=on_step)
        info = {**learned.info, "model": self.source, "cell": key}
        word = Concept(learned.placeholder, learned.vectors, info)
        path.parent.mkdir(parents=True, exist_ok=True)
        word.save(path)
        return word

    def config(self, cell: Cell) -> InversionConfig:
        """The options for learning a cell's word: the setup's own, with at most the plan's steps."""
        config = InversionConfig(**cell.setup.options)
        return replace(config, init=cell.thing.init, seed=cell.seed, eval_every=0,
                       steps=min(config.steps, self.plan.train_steps))


def _content(image: TrainingImage) -> list[str | None]:
    """Hashes of the image and its mask, and its caption."""
    mask = image.views[0].mask
    return [image.sha256, None if mask is None else hashlib.sha256(mask.numpy().tobytes()).hexdigest(),
            image.caption]
