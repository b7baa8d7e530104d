"""Variations of the method, as objects that the one loop calls: each is a published idea in a few lines.

A word for each image ("per-image tokens" of Gal et al. 2022, section 5.2) needs none: those words are learned
with the word, and `tokenize_prompts` puts them into the prompts.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm import LatentDiffusion
from textinv.initialization import vocabulary_norm
from textinv.inversion import Variant
from textinv.options import PROGRESSIVE, InversionConfig


class Direction(Variant):
    """Only the direction of v is learned, its norm stays (Directional Textual Inversion, arXiv 2512.13672):
    plain inversion drifts far out of the shell where the words of the vocabulary are, and prompts lose their
    hold on it. The derivative of x / |x| is the projection onto the sphere's tangent."""

    def __init__(self, norm: float):
        self.norm = norm

    def active(self, v: Tensor, step: int) -> Tensor:                                    # k d -> k d
        """norm * v / |v|, differentiable in v."""
        return self.norm * F.normalize(v, dim=-1)

    def constrain(self, v: Tensor, step: int) -> Tensor:                                 # k d -> k d
        """norm * v / |v|."""
        return self.norm * F.normalize(v, dim=-1)


class Regularize(Variant):
    """The word stays near its start: weight * |v - v0|^2 ("regularization", Gal et al. 2022, section 5.2,
    with weight for its lambda), v0 the init word's embedding where v starts there. The squared distance is
    that of all k vectors together, a sum and not a mean: each is held as firmly as a single one, with the
    gradient 2 * weight * (v - v0). Departure from the official code, whose distance is right for one vector
    only."""

    def __init__(self, weight: float, v0: Tensor):
        self.weight, self.v0 = weight, v0

    def penalty(self, v: Tensor, step: int) -> Tensor:
        """weight * |v - v0|^2, a scalar. The words of images start at random: they are free."""
        return self.weight * (v[:len(self.v0)] - self.v0).square().sum()


class Progressive(Variant):
    """The word begins with one vector; a second comes in after 2/5 of the steps and a third after 4/5
    ("progressive extensions", Gal et al. 2022, section 5.2: after 2,000 and 4,000 of 5,000), each where the
    init word put it (v0), as in the official code: the paper does not say. All vectors in use are trained on.

    ids: those of the word's vectors, as prompts have them. padding: the id at the end of prompts. v0 (k d).
    """

    def __init__(self, steps: int, ids: list[int], padding: int, v0: Tensor):
        self.steps, self.ids, self.padding, self.v0 = steps, ids, padding, v0

    def count(self, step: int) -> int:
        """How many vectors are in use at a step."""
        return 1 + (5 * step > 2 * self.steps) + (5 * step > 4 * self.steps)

    def prompts(self, ids: Tensor, step: int) -> Tensor:                                 # b n -> b n
        """Leave out the vectors that are not in use yet; what follows moves up."""
        waiting = torch.tensor(self.ids[self.count(step):], dtype=ids.dtype, device=ids.device)
        is_kept = ~torch.isin(ids, waiting)
        order = is_kept.int().argsort(dim=1, descending=True, stable=True)
        is_text = torch.arange(ids.shape[1], device=ids.device) < is_kept.sum(dim=1, keepdim=True)
        return torch.where(is_text, ids.gather(1, order), self.padding)

    def constrain(self, v: Tensor, step: int) -> Tensor:                                 # k d -> k d
        """Undo what weight decay does to vectors that are not in use yet."""
        first, end = self.count(step), len(self.v0)
        return torch.cat([v[:first], self.v0[first:], v[end:]])

    def word(self, v: Tensor, step: int) -> Tensor:                                      # k d -> m d
        """The vectors in use."""
        return v[:self.count(step)]


def constrained_start(model: LatentDiffusion, v0: Tensor, config: InversionConfig) -> Tensor:
    """The start (k d) that goes with the variations that the options ask for."""
    return Direction(vocabulary_norm(model)).constrain(v0, 0) if config.fix_norm else v0


def make_variants(model: LatentDiffusion, v0: Tensor, config: InversionConfig) -> tuple[Variant, ...]:
    """The variations that the options ask for. v0: the word's start (k d); the model must know the word."""
    variants: list[Variant] = []
    v0 = v0.to(model.device)
    if config.fix_norm:
        variants.append(Direction(vocabulary_norm(model)))
    if config.regularize:
        variants.append(Regularize(config.regularize, v0))
    if config.progressive:
        assert len(v0) == PROGRESSIVE
        variants.append(Progressive(config.steps, model.words.ids(config.placeholder),
                                    model.tokenizer.padding_id, v0))
    return tuple(variants)
