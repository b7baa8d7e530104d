"""Bipartite inversion (Gal et al. 2022, Appendix A): find the noise x_T from which the model, given the
prompt "a photo of *", generates a given image; then generate other prompts from that same noise. The noise
preserves the image's layout, in addition to what the word preserves.

The noise is found by deterministic sampling in reverse (Song et al. 2020, arXiv 2010.02502, section 4.3;
Dhariwal & Nichol 2021, arXiv 2105.05233, appendix F).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ldm import InputError, LatentDiffusion
from ldm.samplers import Denoise, Trajectory, ddim_step, ddim_timesteps
from textinv.editing.inputs import encode, last_latents, to_x


def inverted(denoise: Denoise, alphas_cumprod: Sequence[float], z0: Tensor, steps: int,
             refine: int = 1) -> Trajectory:
    """From latents z0 (b c h w) up to the noise from which DDIM with eta 0 and the same number of steps leads
    back to them. Yields (t, z_t).

    DDIM's step down is z_s = f(z_t, eps(z_t, t)). The closed form uses eps(z_s, s) instead of eps(z_t, t),
    which is off by one step. Each refinement evaluates eps again at the z_t just found, a fixed-point
    iteration of z_t = f^-1(z_s, eps(z_t, t)) (Pan et al. 2023, arXiv 2309.04907, section 3.2), and costs as
    much as the step itself.
    """
    z = z0
    for t, t_prev in reversed(ddim_timesteps(len(alphas_cumprod), steps)):
        start, z = z, ddim_step(alphas_cumprod, z, denoise(z, t_prev), t_prev, t)
        for _ in range(refine):
            z = ddim_step(alphas_cumprod, start, denoise(z, t), t_prev, t)
        yield t, z


@torch.no_grad()
def invert_latents(model: LatentDiffusion, z0: Tensor, c: Tensor, *, steps: int = 50,
                   refine: int = 1) -> Tensor:
    """The noise z_T (b c h w) of latents z0 (b c h w) under contexts c (b n d), without guidance: with it,
    the paths up and down diverge."""
    z0 = z0.to(model.device, torch.float32)
    return last_latents(inverted(model.guided(c), model.schedule.alphas_cumprod.tolist(), z0, steps=steps,
                                 refine=refine))


@dataclass(frozen=True)
class Inverted:
    """The result of `edit_inverted` for an image."""
    autoencoded: Image.Image            # the image through the autoencoder alone: the best possible result
    reconstruction: Image.Image         # from x_T back, with the prompt that it was found with
    error: float                        # of that round trip: |z0' - z0| / |z0|
    edits: dict[float, list[Image.Image]]           # guidance -> an image for each of the other prompts


def edit_inverted(model: LatentDiffusion, image: Image.Image, source: str, prompts: Sequence[str], *,
                  guidances: Sequence[float] = (1.0, 2.0, 5.0), negative: str = "", steps: int = 50,
                  refine: int = 1, eta: float = 0.0) -> Inverted:
    """Find the noise of an image's middle square under the prompt `source`, then generate the other prompts
    from it. Low guidance keeps the image's layout; high guidance follows the prompt (Figure 11).

    Raises InputError if eta is not 0, and on invalid values.
    """
    if eta != 0:
        raise InputError(f"`eta` is {eta}, but inversion needs a deterministic sampler. Use 0.")
    if wrong := [guidance for guidance in guidances if not -1000 <= guidance <= 1000]:
        raise InputError(f"`guidance` is {wrong[0]}. Use -1000 to 1000.")
    if not 0 <= refine <= 100:
        raise InputError(f"`refine` is {refine}. Use 0 to 100.")
    z0 = encode(model, to_x(image, model.image_size))
    c = model.context([source])
    z_T = invert_latents(model, z0, c, steps=steps, refine=refine)
    back = model.sample(c, steps=steps, guidance=1, z_T=z_T)
    uncond = model.context([negative])

    def edited(prompt: str, guidance: float) -> Image.Image:
        z0 = model.sample(model.context([prompt]), uncond, steps=steps, guidance=guidance, z_T=z_T)
        return model.decode_images(z0)[0]

    edits = {guidance: [edited(prompt, guidance) for prompt in prompts] for guidance in guidances if prompts}
    return Inverted(model.decode_images(z0)[0], model.decode_images(back)[0],
                    ((back - z0).norm() / z0.norm()).item(), edits)
