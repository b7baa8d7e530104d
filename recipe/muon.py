"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum SGD whose update of a weight matrix
is orthogonalized. With G the Nesterov momentum of the gradient,

    W <- W - lr * 0.2 * sqrt(max(rows, columns)) * orthogonal(G),

where orthogonal(G) is U V^T from the singular value decomposition G = U S V^T, approximated by five
Newton-Schulz steps. The factor makes the update as large as AdamW's (Liu et al. 2025, arXiv 2502.16982).
Convolution kernels are treated as matrices of output channels by everything else.
"""
from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# coefficients of the quintic whose iteration drives singular values to about 1
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """Approximately U V^T of g = U S V^T (rows columns): singular values end up between 0.7 and 1.2.

    A step is X <- (a I + b G + c G^2) X with the Gram matrix G = X X^T. These factors are polynomials in the
    initial G, so they commute: the steps need only the small G, and X is multiplied once, by their
    product."""
    x = g / (g.norm() + 1e-7)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    gram = x @ x.T
    product = identity = torch.eye(len(gram), device=g.device)
    for _ in range(steps):
        factor = _A * identity + _B * gram + _C * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """For weights with two or more dimensions."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95,
                 weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            momentum = group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("momentum", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - momentum)
                update = orthogonal(p.grad.lerp(mean, momentum).flatten(1))
                scale = 0.2 * max(update.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-group["lr"] * scale)


def split(module: nn.Module, outer: Iterable[nn.Module] = ()
          ) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The module's weights for Muon, and those for AdamW: embeddings, vectors, matrices with a side below 16,
    and the layers `outer`, the first and last ones."""
    apart = {id(p) for m in (*outer, *(m for m in module.modules() if isinstance(m, nn.Embedding)))
             for p in m.parameters()}
    matrices, others = [], []
    for p in module.parameters():
        matrix = p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16 and id(p) not in apart
        (matrices if matrix else others).append(p)
    return matrices, others
