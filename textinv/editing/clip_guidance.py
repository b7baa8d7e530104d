"""Generate images with CLIP's gradients, with no prompt for the model itself: diffusion guided by them
(CLIP-guided diffusion: Crowson 2021, after Dhariwal & Nichol 2021, arXiv 2105.05233, algorithm 2), and an
autoencoder's latents optimized by them (VQGAN-CLIP: Crowson et al. 2022, arXiv 2204.08583). Figure 5 of Gal
et al. 2022 compares with both. Departures: the diffusion is latent, so the gradient passes through the
decoder; and the autoencoder is a KL one, whose latents are kept near the prior instead of quantized.
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from ldm import LatentDiffusion
from ldm.samplers import Denoise, Generators, ddim_step, ddim_timesteps, predict_z0, randn
from weights.clip import Clip, embed_x

CUTOUTS = 8             # random views of each image: without them the gradient finds noise that pleases CLIP
SMALLEST = 0.7          # side of the smallest view, as a fraction of the image's


def clip_pixels(evaluator: Clip, x: Tensor) -> Tensor:
    """x (b 3 H W) in [-1, 1] -> the input of the evaluator's vision model, differentiably."""
    processor = evaluator.processor
    x = F.interpolate(x, (processor.crop_size["height"], processor.crop_size["width"]), mode="bicubic",
                      align_corners=False, antialias=True)
    mean, std = (rearrange(x.new_tensor(values), "c -> 1 c 1 1")
                 for values in (processor.image_mean, processor.image_std))
    return ((x + 1) / 2 - mean) / std


def cutouts(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random square views of each image: x (b 3 H W) -> (count * b 3 H W), differentiably."""
    n = count * len(x)
    side = SMALLEST + (1 - SMALLEST) * torch.rand(n, generator=generator)
    shift = (1 - side)[:, None] * (2 * torch.rand(n, 2, generator=generator) - 1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = shift
    views = repeat(x, "b c h w -> (k b) c h w", k=count)
    grid = F.affine_grid(theta.to(x), list(views.shape), align_corners=False)
    return F.grid_sample(views, grid, mode="bilinear", padding_mode="border", align_corners=False)


def clip_similarity(evaluator: Clip, x: Tensor, targets: Tensor, generator: torch.Generator | None = None,
                    count: int = CUTOUTS) -> Tensor:
    """The mean cosine (b) of each image x (b 3 H W) to the targets (m d), unit vectors; differentiable in x.
    With a generator, `count` random views of each image take its place."""
    views = x if generator is None else cutouts(x, count, generator)
    cosines = embed_x(evaluator.model, clip_pixels(evaluator, views)) @ targets.to(x).T
    return rearrange(cosines, "(k b) m -> b (k m)", b=len(x)).mean(dim=1)


def guided_by_clip(denoise: Denoise, model: LatentDiffusion, evaluator: Clip, targets: Tensor, scale: float,
                   generator: torch.Generator | None = None) -> Denoise:
    """The function (z, t) -> eps_hat - sqrt(1 - a_t) scale g (b c h w), where g is the gradient with respect
    to z_t of the similarity of the decoded z0 that eps_hat implies (Dhariwal & Nichol, algorithm 2)."""
    alphas_cumprod = model.schedule.alphas_cumprod.tolist()

    def eps_hat(z: Tensor, t: int) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            eps = denoise(z, t)
            x = model.decode(predict_z0(alphas_cumprod, z, eps, t).to(model.dtype)).to(z)
            gradient, = torch.autograd.grad(
                clip_similarity(evaluator, x, targets, generator).sum(), z)
        return eps.detach() - math.sqrt(1 - alphas_cumprod[t]) * scale * gradient
    return eps_hat


def guided_diffusion(model: LatentDiffusion, evaluator: Clip, targets: Tensor, *, n: int, seed: int = 0,
                     scale: float = 200.0, steps: int = 50, z0: Tensor | None = None,
                     skip: float = 0.4) -> Tensor:
    """Latents (n c h w) from DDIM with CLIP's gradient toward the targets (m d) and the empty prompt. If z0
    (n c h w) is given, the fraction `skip` of the steps is skipped and the rest start from z0 with noise."""
    generator = torch.Generator().manual_seed(seed)
    alphas_cumprod = model.schedule.alphas_cumprod.tolist()
    pairs = ddim_timesteps(len(alphas_cumprod), steps)
    z = _noise(model, n, generator)
    if z0 is not None:
        pairs = pairs[round(skip * len(pairs)):]
        z = model.schedule.add_noise(z0, z, torch.full((n,), pairs[0][0], device=model.device))
    with torch.no_grad():
        c = model.context([""]).expand(n, -1, -1)
        denoise = guided_by_clip(model.guided(c), model, evaluator, targets, scale=scale, generator=generator)
        for t, t_prev in pairs:
            z = ddim_step(alphas_cumprod, z, denoise(z, t), t, t_prev)
    return z


def optimized_latents(model: LatentDiffusion, evaluator: Clip, targets: Tensor, *, n: int, seed: int = 0,
                      steps: int = 150, lr: float = 0.1, prior_weight: float = 0.1,
                      jitter: float = 0.5) -> Tensor:
    """Latents z (n c h w) found with Adam, starting near zero (the prior's mean), by minimizing

        -cosine(CLIP(D(z + jitter noise)), targets (m d)) + prior_weight mean(z^2) / 2

    whose second term is the negative log of the prior N(0, 1). The noise, fresh at each step, does for the
    latents what the random views do for the image."""
    generator = torch.Generator().manual_seed(seed)
    z = (0.1 * _noise(model, n, generator)).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            x = model.decode((z + jitter * _noise(model, n, generator)).to(model.dtype)).to(z)
            similarity = clip_similarity(evaluator, x, targets, generator)
            (prior_weight * z.square().mean(dim=(1, 2, 3)) / 2 - similarity).sum().backward()
            optimizer.step()
    return z.detach()


def _noise(model: LatentDiffusion, n: int, generator: Generators) -> Tensor:
    side = model.config.diffusion.latent_size
    return randn((n, model.config.unet.in_channels, side, side), generator, model.device)
