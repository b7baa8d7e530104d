"""Variants of the method, as objects that the one loop calls: each is a published idea in a few lines.

A word for each image ("per-image tokens" of Gal et al. 2022, section 5.2) needs no variant: those words are
learned along with the word, and `tokenize_prompts` puts them into the prompts.
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
    """Learn only the direction of v, at a fixed norm (Directional Textual Inversion, arXiv 2512.13672): in
    plain inversion v drifts far outside the shell where the vocabulary lies, and prompts lose their hold on
    it. The derivative of x / |x| is the projection onto the sphere's tangent space, divided by |x|."""

    def __init__(self, norm: float):
        self.norm = norm

    def active(self, v: Tensor, step: int) -> Tensor:                                    # k d -> k d
        """norm * v / |v|, differentiable in v."""
        return self.norm * F.normalize(v, dim=-1)

    def constrain(self, v: Tensor, step: int) -> Tensor:                                 # k d -> k d
        """norm * v / |v|."""
        return self.norm * F.normalize(v, dim=-1)


class Regularize(Variant):
    """Keep the word near its start: weight * |v - v0|^2 ("regularization", Gal et al. 2022, section 5.2, with
    weight for its lambda); v0 is the init word's embedding if v starts there. The squared distance is a sum
    over all k vectors, not a mean, so each is held as firmly as a single one would be, with the gradient
    2 * weight * (v - v0). Departure from the official code, whose distance is right only for a single
    vector."""

    def __init__(self, weight: float, v0: Tensor):
        self.weight, self.v0 = weight, v0

    def penalty(self, v: Tensor, step: int) -> Tensor:
        """weight * |v - v0|^2, a scalar. Per-image words start at random and are not regularized."""
        return self.weight * (v[:len(self.v0)] - self.v0).square().sum()


class Progressive(Variant):
    """Begin with one vector, add a second after 2/5 of the steps and a third after 4/5 ("progressive
    extensions", Gal et al. 2022, section 5.2: after 2,000 and 4,000 of 5,000). Each starts from the init word
    (v0), as in the official code: the paper does not say. All vectors in use keep training.

    ids: the word's token ids, one per vector. padding: the id that fills the end of prompts. v0: (k d).
    """

    def __init__(self, steps: int, ids: list[int], padding: int, v0: Tensor):
        self.steps, self.ids, self.padding, self.v0 = steps, ids, padding, v0

    def count(self, step: int) -> int:
        """How many vectors are in use at a step."""
        return 1 + (5 * step > 2 * self.steps) + (5 * step > 4 * self.steps)

    def prompts(self, ids: Tensor, step: int) -> Tensor:                                 # b n -> b n
        """Drop the ids of vectors that are not in use yet; the ids after them move up."""
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
    """The start (k d), constrained by the variants that the options ask for."""
    return Direction(vocabulary_norm(model)).constrain(v0, 0) if config.fix_norm else v0


def make_variants(model: LatentDiffusion, v0: Tensor, config: InversionConfig) -> tuple[Variant, ...]:
    """The variants that the options ask for. v0: the word's start (k d); the model must know the word."""
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
