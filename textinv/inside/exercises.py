"""Check answers to the exercises of WALKTHROUGH.md: each function tests the reader's answer on values of its
own, and prints "correct" or raises WrongAnswer with a hint.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm import LatentDiffusion
from ldm.samplers import ddim_step
from textinv.inversion import Variant


class WrongAnswer(Exception):
    """The answer is wrong; the message is a hint."""


def _expect(right: bool, hint: str) -> None:
    if not right:
        raise WrongAnswer(hint)


def _close(got: Tensor, expected: Tensor, hint: str) -> None:
    _expect(got.shape == expected.shape,
            f"the shape is {tuple(got.shape)}, not {tuple(expected.shape)}. {hint}")
    _expect(torch.allclose(got.double(), expected.double(), rtol=1e-4, atol=1e-5), hint)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def compression(answer: Callable[[LatentDiffusion], float], model: LatentDiffusion) -> None:
    """Section 1: numbers in an image for each number in its latent."""
    auto = model.config.autoencoder
    right = auto.in_channels * auto.factor ** 2 / auto.embed_dim
    _expect(abs(answer(model) - right) < 1e-6 * right,
            "An image has 3 H W numbers, its latent c h w with h = H / factor: read them off model.config.")
    print("correct")


def half_noise(answer: Callable[[LatentDiffusion], int], model: LatentDiffusion) -> None:
    """Section 2: the first timestep at which z_t has more noise than signal."""
    alphas_cumprod = model.schedule.alphas_cumprod
    right = int((alphas_cumprod < 0.5).nonzero()[0])
    _expect(answer(model) == right, "For unit-variance latents the signal's variance is alphas_cumprod[t], "
                                    "the noise's is the rest: where does it first exceed the signal's?")
    print("correct")


def step_back(answer: Callable[[Tensor, Tensor, float, float], Tensor]) -> None:
    """Section 3: answer(z_t, eps_hat, a_t, a_s), the deterministic step from t to s."""
    z, eps_hat = _noise(2, 4, 8, 8), _noise(2, 4, 8, 8, seed=1)
    for a_t, a_s in ((0.1, 0.4), (0.5, 0.9), (0.9, 0.3)):
        _close(answer(z, eps_hat, a_t, a_s), ddim_step([a_s, a_t], z, eps_hat, 1, 0),
               "Solve z_t = sqrt(a_t) z0 + sqrt(1 - a_t) eps for z0, then noise it to a_s with the same eps.")
    print("correct")


def guide(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Section 4: answer(eps_u, eps_c, guidance)."""
    eps_u, eps_c = _noise(2, 4, 8, 8), _noise(2, 4, 8, 8, seed=1)
    _close(answer(eps_u, eps_c, 0.0), eps_u, "Guidance 0 must be the unconditional prediction.")
    _close(answer(eps_u, eps_c, 1.0), eps_c, "Guidance 1 must be the conditional prediction: no guidance.")
    _close(answer(eps_u, eps_c, 5.0), eps_u + 5 * (eps_c - eps_u),
           "Beyond 1, it continues along the line from eps_u to eps_c.")
    print("correct")


def splice(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Section 5: answer(table, ids, v), the embeddings of ids, where ids from len(table) on are rows of v."""
    table, v = _noise(10, 6), _noise(2, 6, seed=1).requires_grad_()
    ids = torch.tensor([[0, 3, 10, 11, 9], [10, 1, 1, 2, 11]])
    before = table.clone()
    try:
        got = answer(table, ids, v)
    except IndexError as error:
        raise WrongAnswer("An id of len(table) or more is not a row of the table but one of v's.") from error
    _expect(torch.equal(table, before), "The table has changed. It is frozen: only read it.")
    _close(got.detach(), torch.cat([table, v.detach()])[ids],
           "Row i of v is the embedding of id len(table) + i.")
    _expect(got.requires_grad, "The result must be differentiable in v, or nothing can be learned.")
    gradient, = torch.autograd.grad(got.sum(), v)
    _close(gradient, torch.full((2, 6), 2.0), "Each row of v appears twice in these ids: its gradient is 2.")
    print("correct")


def focus(answer: Callable[[Tensor, Tensor], float]) -> None:
    """Section 7: answer(attention, mask), both (h w): mean attention inside the mask divided by outside."""
    attention, mask = _noise(8, 8).abs(), (_noise(8, 8, seed=1) > 0.5)
    right = attention[mask].mean() / attention[~mask].mean()
    got = answer(attention, mask.float())
    _expect(abs(float(got) - right.item()) < 1e-4 * right.item(),
            "Divide the mean over the positions where mask is 1 by the mean over those where it is 0; sums "
            "would depend on how large the object is.")
    print("correct")


def ball(answer: Variant, radius: float) -> None:
    """Section 6: a Variant that brings v back into the ball of this radius after each step."""
    _expect(isinstance(answer, Variant), "Give an instance of a subclass of textinv.inversion.Variant.")
    inside, outside = F.normalize(_noise(1, 16), dim=-1), F.normalize(_noise(1, 16, seed=1), dim=-1)
    v = torch.cat([0.5 * radius * inside, 3 * radius * outside])
    before = v.clone()
    got = answer.constrain(v, 1)
    _expect(torch.equal(v, before), "The argument has changed. Return a new tensor.")
    _close(got[:1], v[:1], "A vector inside the ball stays where it is.")
    _close(got[1:], radius * outside, "A vector outside moves to the nearest point of the ball: same "
                                      "direction, norm `radius`. Treat each row (k d) separately.")
    _close(answer.active(v, 1), v, "Only `constrain` is needed; `active` stays as it is.")
    print("correct")


def nearest(answer: Callable[[Tensor, Tensor], int]) -> None:
    """Section 8: answer(table, v), the row of the table (n d) with the largest cosine to v (d)."""
    table, v = _noise(50, 16), _noise(16, seed=1)
    table[7] = 0.1 * v + 0.01 * _noise(16, seed=2)
    table[9] = 10 * v + 30 * _noise(16, seed=3)             # the largest dot product
    table[11] = v + 0.7 * _noise(16, seed=4)                # the smallest distance
    _expect(int(answer(table, v)) == 7, "Compare directions: first divide every row, and v, by its norm. Dot "
                                        "products favor long rows, distances those as long as v.")
    print("correct")


def padding_is_wrong(answer: Callable[[LatentDiffusion], bool], model: LatentDiffusion,
                     broken: Callable[[LatentDiffusion], AbstractContextManager]) -> None:
    """Section 9: detect a model whose encoder pads on all sides; broken(model) makes the right one do so."""
    _expect(not answer(model), "This model is right, but you call it wrong.")
    with broken(model):
        _expect(bool(answer(model)), "This one pads on all sides. Encode an image and decode it: where do "
                                     "the edges go?")
    print("correct")
