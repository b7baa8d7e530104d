"""Two learned words in one prompt (Gal et al. 2022, Figure 7), or a learned thing in a learned style (Figure
6): how often both appear, according to tests that each look for one of them.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ldm import InputError, LatentDiffusion
from textinv.editing.sheets import Row, sheet

Test = Callable[[Sequence[Image.Image]], Tensor]            # n images -> n booleans: does it appear?
Z = 1.96                                                    # of a two-sided 95% interval


@dataclass(frozen=True)
class Share:
    """A share of n images, with its 95% interval."""
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.0%} ({self.low:.0%} to {self.high:.0%}, n = {self.n})"


def share(found: Tensor) -> Share:
    """The share of n booleans that are true, with the interval of Wilson (1927):
    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)."""
    n, p = len(found), found.double().mean().item()
    middle, width = p + Z ** 2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z ** 2 / (4 * n ** 2))
    low, high = ((middle + sign * width) / (1 + Z ** 2 / n) for sign in (-1, 1))
    return Share(p, max(low, 0.0), min(high, 1.0), n)


@dataclass(frozen=True, eq=False)
class Composition:
    """A prompt's images, and for each test, by name, which of them pass (n booleans)."""
    prompt: str
    images: list[Image.Image]
    found: dict[str, Tensor]

    def shares(self) -> dict[str, Share]:
        """The share of images that pass each test; "all" is the share that pass all of them."""
        return {name: share(found) for name, found in
                [*self.found.items(), ("all", torch.stack(list(self.found.values())).all(dim=0))]}


def compose(model: LatentDiffusion, prompt: str, tests: Mapping[str, Test], *, n: int = 16, steps: int = 50,
            guidance: float = 5.0, seed: int = 0, batch: int = 8) -> Composition:
    """Generate n images of a prompt and run the tests on them. The model must know the words.
    Raises InputError on invalid values."""
    if n < 1:
        raise InputError(f"`n` is {n}. Use 1 or more.")
    images = model.generate([prompt] * n, steps=steps, guidance=guidance, seed=seed, batch=batch)
    return Composition(prompt, images, {name: test(images).cpu().bool() for name, test in tests.items()})


def compositions_sheet(compositions: Sequence[Composition], columns: int = 8) -> Image.Image:
    """A row for each prompt: its shares and its first images, starting with those in which all was found."""
    rows = []
    for one in compositions:
        complete = torch.stack(list(one.found.values())).all(dim=0)
        order = complete.int().argsort(descending=True, stable=True)[:columns].tolist()
        shares = ", ".join(f"{name} {part.value:.0%}" for name, part in one.shares().items())
        rows.append(Row(f"{one.prompt}: {shares}", [one.images[i] for i in order]))
    return sheet(rows)
