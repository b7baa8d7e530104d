"""Bias reduction (Gal et al. 2022, section 4.5 and Figure 8): compare what a category's word shows with what
a replacement shows, a word learned from a small balanced set of images. The replacement is learned like any
other word, by `textinv.invert`, initialized from the category's own word; this file only measures.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ldm import InputError, LatentDiffusion
from textinv.editing.compositions import Z, share
from textinv.editing.sheets import Row, sheet

Classifier = Callable[[Sequence[Image.Image]], Tensor]      # n images -> probabilities of k classes (n k)


def entropy(p: Tensor) -> Tensor:
    """sum p log2 1/p over the last axis (... k), in bits: 0 if everything is one class, log2 k if all k
    classes are equally frequent."""
    return torch.xlogy(p, 1 / p).sum(dim=-1) / math.log(2)


def corrected_entropy(counts: Tensor) -> Tensor:
    """The entropy of counts (... k), in bits, plus its average underestimate to first order (Miller 1955):
    (classes seen - 1) / 2n nats."""
    n = counts.sum(dim=-1).clamp(min=1)
    return entropy(counts / n[..., None]) + ((counts > 0).sum(dim=-1) - 1) / (2 * n * math.log(2))


@dataclass(frozen=True, eq=False)
class Distribution:
    """What the n images of a prompt show: for each of k classes, the share of images for which it is the most
    probable class."""
    prompt: str
    images: list[Image.Image]
    classes: tuple[str, ...]
    labels: Tensor                      # n, the class of each image

    @property
    def shares(self) -> Tensor:
        """The share of each class (k), summing to 1."""
        return torch.bincount(self.labels, minlength=len(self.classes)).double() / len(self.labels)

    def entropy(self) -> tuple[float, float, float]:
        """The entropy, in bits, over all images the prompt could produce, and its 95% interval by jackknife
        (Efron and Stein 1981) of `corrected_entropy`. In simulations, the interval from 128 images held the
        true entropy 91 to 100% of the time, from 32 images 61 to 99%: 32 say little about rare classes."""
        n, top = len(self.labels), math.log2(len(self.classes))
        counts = torch.bincount(self.labels, minlength=len(self.classes)).double()
        seen = counts > 0
        without_one = corrected_entropy(counts - torch.eye(len(counts), dtype=counts.dtype)[seen])
        odds = counts[seen] / n
        mean = (odds * without_one).sum()
        value = (n * corrected_entropy(counts) - (n - 1) * mean).item()
        error = Z * ((n - 1) * odds * (without_one - mean).square()).sum().sqrt().item()
        value, low, high = (min(max(0.0, end), top) for end in (value, value - error, value + error))
        return value, low, high

    def __str__(self) -> str:
        """The prompt; the classes that appear, with the most frequent one first and with its interval; and
        the entropy."""
        first, *others = self.shares.argsort(descending=True, stable=True).tolist()
        listed = "".join(f", {self.classes[i]} {self.shares[i]:.0%}" for i in others if self.shares[i] > 0)
        value, low, high = self.entropy()
        return (f"{self.prompt}: {self.classes[first]} {share(self.labels == first)}{listed}; "
                f"{value:.2f} bits ({low:.2f} to {high:.2f})")


def distribution(model: LatentDiffusion, prompt: str, classify: Classifier, classes: Sequence[str], *,
                 n: int = 128, steps: int = 50, guidance: float = 5.0, seed: int = 0,
                 batch: int = 8) -> Distribution:
    """Generate n images of a prompt and classify them. To compare two prompts, give both the same seeds.
    Raises InputError on invalid values, and if the classifier has a different number of classes."""
    if n < 1:
        raise InputError(f"`n` is {n}. Use 1 or more.")
    images = model.generate([prompt] * n, steps=steps, guidance=guidance, seed=seed, batch=batch)
    p = classify(images).cpu()
    if p.shape != (n, len(classes)):
        raise InputError(f"the classifier returned probabilities of shape {list(p.shape)} for {n} images and "
                         f"{len(classes)} classes. Name the classes that it knows.")
    return Distribution(prompt, images, tuple(classes), p.argmax(dim=1))


def bias_sheet(distributions: Sequence[Distribution], columns: int = 16) -> Image.Image:
    """A row for each prompt: its first images, uncurated as in Figure 8, and its distribution."""
    return sheet([Row(str(one), one.images[:columns]) for one in distributions], side=64)
