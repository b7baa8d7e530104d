"""The two numbers of the paper's evaluation (Gal et al. 2022, section 5.1), cosines in CLIP's space, where
every picture and text is a vector of length 1:

    reconstruction  mean over all pairs of a picture of "a photo of *" and a training picture
    editability     for each of several prompts, between the mean embedding of its pictures and the embedding
                    of the prompt with the placeholder left out; averaged over the prompts

Intervals are percentiles of bootstrap samples of the pictures.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """A cosine with its 95 % interval, where pictures were drawn for it."""
    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})")


@dataclass(frozen=True)
class Scores:
    reconstruction: Score
    editability: Score
    prompts: dict[str, Score]           # of which editability is the mean


def reconstruction(drawn: Tensor, training: Tensor) -> float:
    """Mean cosine over all pairs of n pictures (n d) and m training pictures (m d), both of length 1."""
    return (drawn @ training.T).mean().item()


def among_themselves(training: Tensor) -> float | None:
    """Mean cosine over all pairs of two different training pictures (m d): what a copy would reach. None if
    there is only one."""
    m = len(training)
    if m < 2:
        return None
    return ((training @ training.T).sum() - training.square().sum()).item() / (m * (m - 1))


def editability(drawn: Tensor, text: Tensor) -> Tensor:
    """Cosine between the mean of n pictures (... n d) and a text (d)."""
    return F.cosine_similarity(drawn.mean(dim=-2), text, dim=-1)


def resampled(drawn: Tensor, seed: int) -> Tensor:
    """Bootstrap samples of n embeddings (n d): (RESAMPLES n d)."""
    rows = torch.randint(len(drawn), (RESAMPLES, len(drawn)), generator=torch.Generator().manual_seed(seed))
    return drawn[rows]


def score(value: float, samples: Tensor) -> Score:
    low, high = torch.quantile(samples.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Score(value, low, high)


def scores(plain: Tensor, edits: dict[str, Tensor], texts: dict[str, Tensor], training: Tensor) -> Scores:
    """plain: embeddings of "a photo of *" (n d); edits and texts: for each prompt those of its pictures (n d)
    and of itself without the placeholder (d); training: those of the training pictures (m d)."""
    samples = {prompt: editability(resampled(drawn, i), texts[prompt])
               for i, (prompt, drawn) in enumerate(edits.items(), 1)}
    prompts = {prompt: score(editability(drawn, texts[prompt]).item(), samples[prompt])
               for prompt, drawn in edits.items()}
    mean = sum(one.value for one in prompts.values()) / len(prompts)
    return Scores(score(reconstruction(plain, training), (resampled(plain, 0) @ training.T).mean(dim=(1, 2))),
                  score(mean, torch.stack(list(samples.values())).mean(dim=0)), prompts)


def cells(results: dict[str, Scores], ceiling: float | None) -> list[list[str]]:
    """A table of the results, a row a figure and a column a word, the first of names; the last is what the
    training pictures reach, where that is known."""
    columns = [["", "reconstruction", "editability", *next(iter(results.values())).prompts]]
    columns += [[name, *map(str, (one.reconstruction, one.editability, *one.prompts.values()))]
                for name, one in results.items()]
    if ceiling is not None:
        columns.append(["training pictures among themselves", f"{ceiling:.3f}",
                        *[""] * (len(columns[0]) - 2)])
    return [list(row) for row in zip(*columns)]


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:], ""])


def from_json(content: dict[str, Any]) -> Scores:
    """What `dataclasses.asdict` made of scores."""
    return Scores(Score(**content["reconstruction"]), Score(**content["editability"]),
                  {prompt: Score(**one) for prompt, one in content["prompts"].items()})
