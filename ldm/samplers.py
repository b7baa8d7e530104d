"""From noise to latents: DDPM, DDIM and DPM-Solver++(2M). Each step is a pure function of the latents, the
predicted noise and two timesteps; a sampler is a step with its timesteps, and one loop runs them all,
yielding every latent.

`alphas` is the list of alphas_cumprod as Python floats (no rounding to fp32, no synchronisation with a GPU);
timestep -1 stands for the clean latent, where alphas_cumprod is 1.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ldm.errors import InputError

Generators = torch.Generator | Sequence[torch.Generator] | None


def randn(shape: Sequence[int], generator: Generators, device: torch.device | str) -> Tensor:
    """Standard normal fp32 noise. With a list of generators, one for each of the b samples, a sample does
    not depend on its neighbours in the batch. Noise is drawn where the generator lives: a CPU seed means
    the same on any device.
    """
    if generator is None or isinstance(generator, torch.Generator):
        source = device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=source).to(device)
    if len(generator) != shape[0]:
        raise InputError(f"{len(generator)} generators for {shape[0]} samples: give one generator, "
                         "or one a sample")
    return torch.cat([randn((1, *shape[1:]), one, device) for one in generator])


def alpha_bar(alphas: Sequence[float], t: int) -> float:
    return 1.0 if t < 0 else alphas[t]


def predict_z0(alphas: Sequence[float], z: Tensor, eps_hat: Tensor, t: int) -> Tensor:
    """The clean latent that eps_hat implies (Song et al. 2020, equation 9)."""
    a_t = alpha_bar(alphas, t)
    return (z - math.sqrt(1 - a_t) * eps_hat) / math.sqrt(a_t)


def ddim_step(alphas: Sequence[float], z: Tensor, eps_hat: Tensor, t: int, t_prev: int,
              eta: float = 0.0, noise: Tensor | None = None) -> Tensor:
    """z_t -> z_t_prev by DDIM (Song et al. 2020, arXiv 2010.02502, equations 12 and 16).
    `noise` is needed if eta > 0."""
    a_t, a_prev = alpha_bar(alphas, t), alpha_bar(alphas, t_prev)
    sigma = eta * math.sqrt((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev))
    z_prev = (math.sqrt(a_prev) * predict_z0(alphas, z, eps_hat, t)
              + math.sqrt(1 - a_prev - sigma ** 2) * eps_hat)
    return z_prev if noise is None else z_prev + sigma * noise


def ddpm_step(alphas: Sequence[float], z: Tensor, eps_hat: Tensor, t: int, t_prev: int,
              noise: Tensor) -> Tensor:
    """z_t -> z_t_prev by ancestral sampling: a draw of q(z_t_prev | z_t, z_0) (Ho et al. 2020, equations 6
    and 7; for t_prev < t - 1 the product of alphas between the two takes the place of the single alpha)."""
    a_t, a_prev = alpha_bar(alphas, t), alpha_bar(alphas, t_prev)
    a = a_t / a_prev
    mean = (math.sqrt(a_prev) * (1 - a) / (1 - a_t) * predict_z0(alphas, z, eps_hat, t)
            + math.sqrt(a) * (1 - a_prev) / (1 - a_t) * z)
    return mean + math.sqrt((1 - a_prev) / (1 - a_t) * (1 - a)) * noise


class Prediction(NamedTuple):
    """A step's predicted clean latent and its timestep, which the next step of a multistep solver
    extrapolates from."""
    z0: Tensor
    t: int


def dpm_solver_step(alphas: Sequence[float], z: Tensor, eps_hat: Tensor, t: int, t_prev: int,
                    last: Prediction | None) -> tuple[Tensor, Prediction]:
    """z_t -> z_t_prev by DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2), first order if
    there is no `last` prediction. Returns z_t_prev and this step's prediction."""
    def half_logsnr(t: int) -> float:
        return 0.5 * math.log(alphas[t] / (1 - alphas[t]))

    z0 = predict_z0(alphas, z, eps_hat, t)
    h = half_logsnr(t_prev) - half_logsnr(t)
    d = z0
    if last is not None:
        r = (half_logsnr(t) - half_logsnr(last.t)) / h
        d = (1 + 1 / (2 * r)) * z0 - 1 / (2 * r) * last.z0
    z_prev = (math.sqrt((1 - alphas[t_prev]) / (1 - alphas[t])) * z
              - math.sqrt(alphas[t_prev]) * math.expm1(-h) * d)
    return z_prev, Prediction(z0, t)


def strided(timesteps: int, steps: int) -> list[tuple[int, int]]:
    """(t, t_prev) from high to low, as the original code spaces them: 1, 1 + s, 1 + 2s, ... with
    s = T // steps, and 0 as the last t_prev. Where steps does not divide T there are a few more;
    beyond T // 2, T - 1 of them."""
    up = range(1, timesteps, timesteps // steps)
    return [(t, t_prev) for t, t_prev in zip(reversed(up), [*reversed(up[:-1]), 0])]


class Sampler(Protocol):
    def timesteps(self, timesteps: int, steps: int) -> list[tuple[int, int]]: ...

    def step(self, alphas: Sequence[float], z: Tensor, eps_hat: Tensor, t: int, t_prev: int,
             draw: Callable[[], Tensor], carry: Any) -> tuple[Tensor, Any]:
        """z_t_prev, and what the next step needs of this one. `draw` gives fresh noise of z's shape."""


@dataclass(frozen=True)
class DDIM:
    eta: float = 0.0

    def timesteps(self, timesteps, steps):
        return strided(timesteps, steps)

    def step(self, alphas, z, eps_hat, t, t_prev, draw, carry):
        return ddim_step(alphas, z, eps_hat, t, t_prev, self.eta, draw() if self.eta > 0 else None), None


@dataclass(frozen=True)
class DDPM:
    def timesteps(self, timesteps, steps):
        down = range(timesteps - 1, -1, -(timesteps // steps))    # all of T-1 .. 0 if steps = T
        return list(zip(down, [*down[1:], -1]))

    def step(self, alphas, z, eps_hat, t, t_prev, draw, carry):
        return ddpm_step(alphas, z, eps_hat, t, t_prev, draw()), None


@dataclass(frozen=True)
class DPMSolver:
    def timesteps(self, timesteps, steps):
        return strided(timesteps, steps)

    def step(self, alphas, z, eps_hat, t, t_prev, draw, carry):
        return dpm_solver_step(alphas, z, eps_hat, t, t_prev, carry)


def make_sampler(name: str, eta: float = 0.0) -> Sampler:
    """The sampler called "ddim", "ddpm" or "dpm++".
    Raises InputError on another name, or an eta that has no meaning."""
    if not eta >= 0:
        raise InputError(f"eta is {eta}: give 0 (deterministic) or more")
    if name == "ddim":
        return DDIM(eta)
    if name not in ("ddpm", "dpm++"):
        raise InputError(f"unknown sampler {name!r}: give ddim, ddpm or dpm++")
    if eta > 0:
        raise InputError(f"eta is {eta} but only the ddim sampler has an eta: leave it 0 with {name}")
    return DDPM() if name == "ddpm" else DPMSolver()


def trajectory(sampler: Sampler, denoise: Callable[[Tensor, int], Tensor], alphas: Sequence[float],
               z_T: Tensor, steps: int, draw: Callable[[], Tensor]) -> Iterator[tuple[int, Tensor]]:
    """The sampling loop: yields (t_prev, z_t_prev) after every step. `denoise(z, t)` predicts the noise."""
    if not 1 <= steps <= len(alphas):
        raise InputError(f"steps is {steps}: give a number from 1 to {len(alphas)}")
    z, carry = z_T, None
    for t, t_prev in sampler.timesteps(len(alphas), steps):
        z, carry = sampler.step(alphas, z, denoise(z, t), t, t_prev, draw, carry)
        yield t_prev, z
