"""The two metrics of the paper's evaluation (Gal et al. 2022, section 5.1), cosines in CLIP's space, where
every image and text is a unit vector:

    reconstruction  mean over all pairs of a generated image of "a photo of *" and a training image
    editability     cosine of the mean embedding of a prompt's images to the embedding of the prompt without
                    its placeholder, averaged over several prompts

A style is measured on "a painting in the style of *", and its prompts lose "in the style of *".

Intervals are 95% bootstrap intervals over the images.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """A metric with its 95% interval. If there are too few values, or all are the same, the interval is
    empty: low and high are equal."""
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = f" ({self.low:.3f} to {self.high:.3f})" if self.high - self.low > 1e-9 else ""
        return f"{self.value:.3f}{interval}"


@dataclass(frozen=True)
class Scores:
    """A word's two metrics, and the score of each prompt."""
    reconstruction: Score
    editability: Score
    prompts: dict[str, Score]           # editability is their mean


def reconstruction(generated: Tensor, training: Tensor) -> float:
    """Mean cosine over all pairs of n images (n d) and m training images (m d), both of length 1."""
    return (generated @ training.T).mean().item()


def mean_pairwise_similarity(training: Tensor) -> float | None:
    """Mean cosine over all pairs of different training images (m d): what a copy would score. None if there
    is only one."""
    m = len(training)
    if m < 2:
        return None
    return ((training @ training.T).sum() - training.square().sum()).item() / (m * (m - 1))


def editability(mean: Tensor, text: Tensor) -> Tensor:
    """Cosine between the mean of some images (... d) and a text (d): (...)."""
    return F.cosine_similarity(mean, text, dim=-1)


def resampled_means(generated: Tensor, seed: int) -> Tensor:
    """The means of bootstrap samples of n embeddings (n d): (RESAMPLES d). Each embedding is weighted by how
    often it is drawn: the samples themselves would take gigabytes for a thousand images."""
    generator, n = torch.Generator().manual_seed(seed), len(generated)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator)
    counts = torch.zeros(RESAMPLES, n).scatter_add_(1, drawn, torch.ones(RESAMPLES, n))
    return counts.to(generated) @ generated / n


def score(value: float, samples: Tensor) -> Score:
    """A value with the interval from its bootstrap samples (RESAMPLES)."""
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(samples.cpu().double(), ends).tolist()
    return Score(value, low, high)


def centered(value: float, samples: Tensor) -> Score:
    """The same with the samples' mean moved to the value. Editability is lower in samples, whose repeated
    images leave more noise in their mean, so of a few images the value would be at the interval's end."""
    return score(value, samples - samples.mean() + value)


def scores(plain: Tensor, edits: dict[str, Tensor], texts: dict[str, Tensor], training: Tensor) -> Scores:
    """Score embeddings. plain: images of "a photo of *" (n d). edits and texts: for each prompt, its images
    (n d) and its text without the placeholder (d). training: the training images (m d)."""
    # one seed for all prompts, since image i of each prompt was generated from the same noise
    samples = {prompt: editability(resampled_means(generated, 1), texts[prompt])
               for prompt, generated in edits.items()}
    prompts = {prompt: centered(editability(generated.mean(dim=0), texts[prompt]).item(), samples[prompt])
               for prompt, generated in edits.items()}
    mean = sum(one.value for one in prompts.values()) / len(prompts)
    return Scores(score(reconstruction(plain, training), resampled_means(plain, 0) @ training.mean(dim=0)),
                  centered(mean, torch.stack(list(samples.values())).mean(dim=0)), prompts)


def table_rows(results: dict[str, Scores], ceiling: float | None) -> list[list[str]]:
    """A table of the results with a row per score and a column per word. The first column holds the names;
    the last, if known, is what the training images score among themselves."""
    columns = [["", "reconstruction", "editability", *next(iter(results.values())).prompts]]
    columns += [[name, *map(str, (one.reconstruction, one.editability, *one.prompts.values()))]
                for name, one in results.items()]
    if ceiling is not None:
        columns.append(["training images to each other", f"{ceiling:.3f}", *[""] * (len(columns[0]) - 2)])
    return [list(row) for row in zip(*columns, strict=True)]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:], ""])
