"""Bias reduction (Gal et al. 2022, section 4.5 and Figure 8): what a category's word shows, and what a word
shows that was learned in its place from a small balanced set of images. The word is learned as any other, by
`textinv.invert` from the category's own word; here is the measurement.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm import InputError, LatentDiffusion
from textinv.editing.sheets import Row, sheet

Classifier = Callable[[Sequence[Image.Image]], Tensor]      # n images -> probabilities of k classes (n k)
RESAMPLES = 1000


def entropy(p: Tensor) -> Tensor:
    """-sum p log2 p over the last axis (... k), in bits: 0 where all is one class, log2 k where all k are as
    frequent."""
    return -torch.xlogy(p, p).sum(dim=-1) / torch.log(torch.tensor(2.0, dtype=p.dtype))


@dataclass(frozen=True, eq=False)
class Distribution:
    """What the n images of a prompt show: for each of k classes the share of images of which it is the most
    probable."""
    prompt: str
    images: list[Image.Image]
    classes: tuple[str, ...]
    labels: Tensor                      # n, the class of each image

    @property
    def shares(self) -> Tensor:
        """k, of sum 1."""
        return torch.bincount(self.labels, minlength=len(self.classes)).double() / len(self.labels)

    @property
    def entropy(self) -> float:
        """Of the shares, in bits."""
        return entropy(self.shares).item()

    def interval(self) -> tuple[float, float]:
        """A 95 % interval of the entropy: percentiles of bootstrap samples of the images."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(len(self.labels), (RESAMPLES, len(self.labels)), generator=generator)
        shares = F.one_hot(self.labels[rows], len(self.classes)).double().mean(dim=1)
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        low, high = torch.quantile(entropy(shares), ends).tolist()
        return low, high

    def __str__(self) -> str:
        """The prompt, the entropy, and the classes that appear, most frequent first."""
        order = self.shares.argsort(descending=True, stable=True).tolist()
        listed = ", ".join(f"{self.classes[i]} {self.shares[i]:.0%}" for i in order if self.shares[i] > 0)
        low, high = self.interval()
        return f"{self.prompt}: {self.entropy:.2f} bits ({low:.2f} to {high:.2f}); {listed}"


def distribution(model: LatentDiffusion, prompt: str, classify: Classifier, classes: Sequence[str], *,
                 n: int = 128, steps: int = 50, guidance: float = 5.0, seed: int = 0,
                 batch: int = 8) -> Distribution:
    """Generate n images of a prompt and classify them. To compare two prompts give both the same seeds.
    Raises InputError on values without meaning, and if the classifier knows another number of classes."""
    images = model.generate([prompt] * n, steps=steps, guidance=guidance, seed=seed, batch=batch)
    p = classify(images).cpu()
    if p.shape != (n, len(classes)):
        raise InputError(f"the classifier gave {list(p.shape)} probabilities for {n} images and "
                         f"{len(classes)} classes. Name the classes that it knows.")
    return Distribution(prompt, images, tuple(classes), p.argmax(dim=1))


def bias_sheet(distributions: Sequence[Distribution], columns: int = 16) -> Image.Image:
    """A row for each prompt: its first images, uncurated as in Figure 8, and its distribution."""
    return sheet([Row(str(one), one.images[:columns]) for one in distributions], side=64)
