"""Inside the vocabulary: how a vector being learned moves among the words that the model knows. The map has
its path in the plane of its own two principal components, with words as landmarks; the nearest words over
time; and its norm next to theirs, since plain inversion tends to leave the shell that the words lie in (as
Directional Textual Inversion, arXiv 2512.13672, observes).
"""
from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm import InputError, LatentDiffusion
from textinv.concept import Concept
from textinv.running.folder import read_record
from textinv.running.state import STATE, read_state

TIE = 1e-3              # weight of the words in choosing the plane, which the path alone may not determine


@dataclass(frozen=True)
class VocabularyMap:
    """One vector's path through the vocabulary, at s points."""
    steps: list[int]                            # s
    path: Tensor                                # s 2, in the plane
    words: list[str]                            # m landmarks: the words nearest to some point of the path
    places: Tensor                              # m 2, in the plane
    explained: tuple[float, float]              # fraction of the path's variance along each axis
    nearest: list[list[tuple[str, float]]]      # for each point: words and cosines, best first
    norms: Tensor                               # s, of the vector
    word_norms: Tensor                          # of all words, ascending

    @property
    def rank(self) -> float:
        """The fraction of the words whose norm is smaller than the vector's final norm: near 1, the vector
        has left their shell."""
        return (self.word_norms < self.norms[-1]).float().mean().item()

    def changes(self) -> list[tuple[int, str, float]]:
        """Step, nearest word and cosine at the first point and wherever the nearest word changes."""
        found: list[tuple[int, str, float]] = []
        for step, words in zip(self.steps, self.nearest, strict=True):
            if not found or words[0][0] != found[-1][1]:
                found.append((step, *words[0]))
        return found


def word_table(model: LatentDiffusion) -> tuple[list[str], Tensor]:
    """The vocabulary's whole words of two letters or more, and their embeddings (m d) in fp32 on the CPU."""
    ids = {word: i for word, i in model.tokenizer.whole_words.items() if len(word) > 1 and word.isalpha()}
    weight = model.text_encoder.table.weight
    return list(ids), weight[torch.tensor(list(ids.values()), device=weight.device)].detach().float().cpu()


def map_vocabulary(model: LatentDiffusion, path: Tensor, steps: Sequence[int], *,
                   near: int = 5) -> VocabularyMap:
    """The map of a path (s d), the vector at each of `steps`, with the `near` nearest words of every point.

    The axes are the principal components of the path. Raises InputError if it has fewer than two points or
    not the dimension of this model's embeddings.
    """
    names, table = word_table(model)
    path = path.detach().float().cpu()
    if path.ndim != 2 or len(path) < 2 or path.shape[1] != table.shape[1]:
        raise InputError(f"the path has shape {list(path.shape)}. A map needs [2 or more, {table.shape[1]}]: "
                         "the vector at each of several steps")
    cosines = F.normalize(path, dim=1) @ F.normalize(table, dim=1).T                     # s m
    best = cosines.topk(min(near, len(names)), dim=1)
    nearest = [[(names[i], cosine) for i, cosine in zip(*row, strict=True)]
               for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    landmarks = _landmarks(best.indices)
    center = path.mean(dim=0)
    centered, places = path - center, table[landmarks] - center
    axes = torch.linalg.svd(torch.cat([centered, TIE * places]), full_matrices=False).Vh[:2]     # 2 d
    variance = (centered @ axes.T).square().sum(dim=0) / centered.square().sum().clamp(min=1e-30)
    return VocabularyMap(steps=list(steps), path=centered @ axes.T, words=[names[i] for i in landmarks],
                         places=places @ axes.T, explained=(variance[0].item(), variance[1].item()),
                         nearest=nearest, norms=path.norm(dim=1), word_norms=table.norm(dim=1).sort().values)


def read_path(source: Path, concept: Concept) -> tuple[Tensor, list[int]]:
    """A word's vectors during its training (s k d), and at which steps: from a run's folder, every time the
    evaluation loss was measured; from a word's file, the start and the end. source: that folder or file.
    Raises InputError if its start is not known."""
    if (start := concept.start) is None:
        raise InputError(f"{source}: does not say where its word started. Give the folder of its run.")
    if source.is_dir():
        with contextlib.suppress(InputError, KeyError):         # the state is damaged or has no path
            path = read_state(source / STATE).tensors["evaluation.path"]
            points = torch.cat([start[None], path[:, :len(start)]])     # the word may have grown since
            if len(points) > 1:
                return points, [i * read_record(source)["eval_every"] for i in range(len(points))]
    return torch.stack([start, concept.vectors]), [0, int(concept.info.get("step", 1))]


def _landmarks(nearest: Tensor, most: int = 8) -> list[int]:
    """The words to show: some near the first and last points, then those along the way, nearest first."""
    order = [*nearest[0].tolist()[:2], *nearest[-1].tolist()[:3], *nearest.T.flatten().tolist()]
    return list(dict.fromkeys(order))[:most]
