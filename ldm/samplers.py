"""From noise to latents: DDPM, DDIM and DPM-Solver++(2M). Each step is a pure function of the latents, the
predicted noise and two timesteps; each sampler is a loop over its steps that yields every latent. To do
something else between two steps (blend in an image, go from an image back to its noise, follow a classifier's
gradient), write your own loop over the same functions.

`alphas_cumprod` is a list of Python floats: factors are computed in double precision, without synchronizing
with a GPU. In the formulas, a_t is alphas_cumprod[t] and a_s is alphas_cumprod[t_prev]; timestep -1 is the
clean latent, where it is 1.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ldm.errors import InputError

SAMPLERS = ("ddim", "ddpm", "dpm++")

Generators = torch.Generator | Sequence[torch.Generator] | None
Denoise = Callable[[Tensor, int], Tensor]                       # (z_t, t) -> eps_hat, both (b c h w)
Trajectory = Iterator[tuple[int, Tensor]]                       # of (t_prev, z_t_prev)


def randn(shape: Sequence[int], generator: Generators, device: torch.device | str) -> Tensor:
    """Standard normal fp32 noise. With a list of generators, one for each of the b samples, a sample does
    not depend on its neighbors in the batch. Noise is generated on the generator's device, so a CPU seed
    gives the same noise on any device.
    """
    if generator is None or isinstance(generator, torch.Generator):
        source = device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=source).to(device)
    if len(generator) != shape[0]:
        raise InputError(f"`generator` is a list of {len(generator)} for {shape[0]} samples. Give one, or "
                         "one per sample.")
    return torch.cat([randn((1, *shape[1:]), one, device) for one in generator])


def ddim_timesteps(timesteps: int, steps: int) -> list[tuple[int, int]]:
    """(t, t_prev) from high to low, as the original code spaces them: 1, 1 + s, 1 + 2s, ... with
    s = T // steps, and 0 as the last t_prev. That makes (T - 1) / s pairs, rounded up: for T = 1000,
    50 for 50 steps, 31 for 30, 500 for 400, and 999 for more than 500. Raises InputError if steps is not in
    1 .. T."""
    up = range(1, timesteps, _stride(timesteps, steps))
    return [(t, t_prev) for t, t_prev in zip(reversed(up), [*reversed(up[:-1]), 0], strict=True)]


def ddpm_timesteps(timesteps: int, steps: int) -> list[tuple[int, int]]:
    """(t, t_prev) from T - 1 down by T // steps, with -1 as the last t_prev: every timestep if steps is T.
    Raises InputError if steps is not in 1 .. T."""
    down = range(timesteps - 1, -1, -_stride(timesteps, steps))
    return list(zip(down, [*down[1:], -1], strict=True))


def predict_z0(alphas_cumprod: Sequence[float], z: Tensor, eps_hat: Tensor, t: int) -> Tensor:
    """The clean latent that eps_hat implies: z0 = (z_t - sqrt(1 - a_t) eps) / sqrt(a_t)
    (Song et al. 2020, arXiv 2010.02502, equation 9)."""
    a_t = _at(alphas_cumprod, t)
    return (z - math.sqrt(1 - a_t) * eps_hat) / math.sqrt(a_t)


def ddim_step(alphas_cumprod: Sequence[float], z: Tensor, eps_hat: Tensor, t: int, t_prev: int,
              eta: float = 0.0, noise: Tensor | None = None) -> Tensor:
    """z_s = sqrt(a_s) z0 + sqrt(1 - a_s - sigma^2) eps + sigma noise,
    sigma = eta sqrt((1 - a_s) / (1 - a_t) (1 - a_t / a_s)) (Song et al. 2020, equations 12 and 16).

    `noise` is needed if eta > 0. With eta 0, t_prev may also be the later timestep: a DDIM inversion step.
    Raises InputError if the noise is missing, or if a square root would be undefined.
    """
    a_t, a_prev = _at(alphas_cumprod, t), _at(alphas_cumprod, t_prev)
    if not 0 <= eta <= 1 or eta > 0 and t_prev > t:
        raise InputError(f"`eta` is {eta} in a step from t = {t} to {t_prev}. Use 0 to 1, and 0 if t_prev "
                         "is the later timestep.")
    if eta > 0 and noise is None:
        raise InputError(f"`eta` is {eta}, but no noise is given. Give `noise`, or use eta 0.")
    sigma = eta * math.sqrt((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)) if eta > 0 else 0.0
    z_prev = (math.sqrt(a_prev) * predict_z0(alphas_cumprod, z, eps_hat, t)
              + math.sqrt(1 - a_prev - sigma ** 2) * eps_hat)
    return z_prev if noise is None else z_prev + sigma * noise


def ddpm_step(alphas_cumprod: Sequence[float], z: Tensor, eps_hat: Tensor, t: int, t_prev: int,
              noise: Tensor) -> Tensor:
    """z_s = (sqrt(a_s) (1 - a) z0 + sqrt(a) (1 - a_s) z_t) / (1 - a_t) + sigma noise with a = a_t / a_s,
    sigma = sqrt((1 - a_s) / (1 - a_t) (1 - a)): a sample of q(z_s | z_t, z0) (Ho et al. 2020, arXiv
    2006.11239, equations 6 and 7; for t_prev < t - 1, a is the product of the alphas in between)."""
    a_t, a_prev = _at(alphas_cumprod, t), _at(alphas_cumprod, t_prev)
    a = a_t / a_prev
    mean = (math.sqrt(a_prev) * (1 - a) / (1 - a_t) * predict_z0(alphas_cumprod, z, eps_hat, t)
            + math.sqrt(a) * (1 - a_prev) / (1 - a_t) * z)
    return mean + math.sqrt((1 - a_prev) / (1 - a_t) * (1 - a)) * noise


def dpm_solver_step(alphas_cumprod: Sequence[float], z: Tensor, eps_hat: Tensor, t: int, t_prev: int,
                    last: tuple[Tensor, int] | None = None) -> tuple[Tensor, Tensor]:
    """z_s = sqrt((1 - a_s) / (1 - a_t)) z_t - sqrt(a_s) (exp(-h) - 1) d with d = z0 + (z0 - z0') / 2r,
    r = h' / h, h = lambda_s - lambda_t, lambda = log(a / (1 - a)) / 2: DPM-Solver++(2M) (Lu et al. 2022,
    arXiv 2211.01095, algorithm 2).

    last: (z0', t') of the previous step, whose h is h'; without it d = z0 (first order). At t_prev = -1, h is
    infinite and z_s = z0, the first-order limit. Returns z_s and z0. Raises InputError for t = -1.
    """
    if t < 0:
        raise InputError(f"`t` is {t}, but there is no step from the clean latent. Use 0 or more.")

    def half_logsnr(t: int) -> float:
        return 0.5 * math.log(alphas_cumprod[t] / (1 - alphas_cumprod[t]))

    z0 = predict_z0(alphas_cumprod, z, eps_hat, t)
    if t_prev < 0:
        return z0, z0
    h = half_logsnr(t_prev) - half_logsnr(t)
    d = z0
    if last is not None:
        last_z0, last_t = last
        r = (half_logsnr(t) - half_logsnr(last_t)) / h
        d = (1 + 1 / (2 * r)) * z0 - 1 / (2 * r) * last_z0
    z_prev = (math.sqrt((1 - alphas_cumprod[t_prev]) / (1 - alphas_cumprod[t])) * z
              - math.sqrt(alphas_cumprod[t_prev]) * math.expm1(-h) * d)
    return z_prev, z0


def ddim(denoise: Denoise, alphas_cumprod: Sequence[float], z: Tensor, steps: int,
         generator: Generators = None, eta: float = 0.0) -> Trajectory:
    """DDIM from noise z (b c h w): deterministic with eta 0, as random as DDPM with eta 1."""
    for t, t_prev in ddim_timesteps(len(alphas_cumprod), steps):
        noise = randn(z.shape, generator, z.device) if eta > 0 else None
        z = ddim_step(alphas_cumprod, z, denoise(z, t), t, t_prev, eta, noise)
        yield t_prev, z


def ddpm(denoise: Denoise, alphas_cumprod: Sequence[float], z: Tensor, steps: int,
         generator: Generators = None) -> Trajectory:
    """Ancestral sampling from noise z (b c h w)."""
    for t, t_prev in ddpm_timesteps(len(alphas_cumprod), steps):
        z = ddpm_step(alphas_cumprod, z, denoise(z, t), t, t_prev, randn(z.shape, generator, z.device))
        yield t_prev, z


def dpm_solver(denoise: Denoise, alphas_cumprod: Sequence[float], z: Tensor, steps: int,
               generator: Generators = None) -> Trajectory:
    """DPM-Solver++(2M) from noise z (b c h w). Deterministic: it does not use `generator`."""
    last = None
    for t, t_prev in ddim_timesteps(len(alphas_cumprod), steps):
        z, z0 = dpm_solver_step(alphas_cumprod, z, denoise(z, t), t, t_prev, last)
        last = (z0, t)
        yield t_prev, z


def make_sampler(name: str, eta: float = 0.0) -> Callable[..., Trajectory]:
    """The sampler named "ddim" (with this eta), "ddpm" or "dpm++"; call it like `ddpm`.
    Raises InputError on any other name, or an invalid eta."""
    if not 0 <= eta <= 1:
        raise InputError(f"`eta` is {eta}. Use 0 (deterministic) to 1 (as random as DDPM).")
    samplers = dict(zip(SAMPLERS, (partial(ddim, eta=eta), ddpm, dpm_solver), strict=True))
    if name not in samplers:
        raise InputError(f"`sampler` is {name!r}. Use ddim, ddpm or dpm++.")
    if eta > 0 and name != "ddim":
        raise InputError(f"`eta` is {eta}, but only the ddim sampler has an eta. Use 0 with {name}.")
    return samplers[name]


def _at(alphas_cumprod: Sequence[float], t: int) -> float:
    return 1.0 if t < 0 else alphas_cumprod[t]


def _stride(timesteps: int, steps: int) -> int:
    if not 1 <= steps <= timesteps:
        raise InputError(f"`steps` is {steps}. Use 1 to {timesteps}.")
    return timesteps // steps
