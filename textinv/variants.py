"""Variations of the method, as objects that the one loop calls: each is a published idea in a few lines."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ldm import LatentDiffusion
from textinv.initialization import vocabulary_norm
from textinv.inversion import Variant
from textinv.options import InversionConfig


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


class Pull(Variant):
    """A spring to the start: weight * |v - v0|^2 / |v0|^2, averaged over the vectors (the L2 pull of Cross
    Initialization, arXiv 2312.15905, made free of the vocabulary's scale). On a sphere it is
    2 * weight * (1 - cosine), the prior of Directional Textual Inversion."""

    def __init__(self, weight: float, v0: Tensor):
        self.weight, self.v0 = weight, v0

    def penalty(self, v: Tensor, step: int) -> Tensor:
        """weight * |v - v0|^2 / |v0|^2, a scalar."""
        distance = (v - self.v0).square().sum(dim=-1) / self.v0.square().sum(dim=-1)     # k
        return self.weight * distance.mean()


def make_variants(model: LatentDiffusion, v0: Tensor,
                  config: InversionConfig) -> tuple[tuple[Variant, ...], Tensor]:
    """The variations that the options ask for, and the start (k d) that goes with them."""
    variants: tuple[Variant, ...] = ()
    if config.fix_norm:
        direction = Direction(vocabulary_norm(model))
        variants, v0 = (direction,), direction.constrain(v0, 0)
    if config.pull:
        variants += (Pull(config.pull, v0.to(model.device)),)
    return variants, v0
