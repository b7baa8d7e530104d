"""Blended latent diffusion (Avrahami et al. 2022, arXiv 2206.02779, algorithm 1), used to paint a learned
word into part of an image (Gal et al. 2022, section 4.6 and Figure 9).

After every sampler step, the latents outside the mask are reset to the image's own, noised to the level of
that step. The inside follows the prompt and sees its surroundings. Instead of optimizing the decoder, as the
original does (its section 4.3), `keep_background` pastes the result into the image, pixel by pixel.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ldm import LatentDiffusion
from ldm.samplers import Denoise, Generators, Trajectory, ddim_step, ddim_timesteps, make_sampler, randn
from textinv.editing import inputs
from textinv.editing.inputs import encode, generators, last_latents, middle_square


def blended(denoise: Denoise, alphas_cumprod: Sequence[float], z: Tensor, z0: Tensor, mask: Tensor,
            steps: int, generator: Generators = None, eta: float = 0.0) -> Trajectory:
    """DDIM from noise z (b c h w), blended with the image's latents z0 (1 c h w) by mask m (1 1 h w):

        z_s = m step(z_t) + (1 - m) (sqrt(a_s) z0 + sqrt(1 - a_s) noise)

    with fresh noise at each step. Where m is 0, the last latents are z0 itself.
    """
    pairs = ddim_timesteps(len(alphas_cumprod), steps)
    for t, t_prev in pairs:
        noise = randn(z.shape, generator, z.device) if eta > 0 else None
        inside = ddim_step(alphas_cumprod, z, denoise(z, t), t, t_prev, eta, noise)
        # the sampler ends at t = 0, which still has a little noise; the image should have none
        a = 1.0 if t_prev == pairs[-1][1] else alphas_cumprod[t_prev]
        outside = math.sqrt(a) * z0 + math.sqrt(1 - a) * randn(z.shape, generator, z.device)
        z = torch.where(mask > 0, inside, outside)
        yield t_prev, z


@torch.no_grad()
def blend(model: LatentDiffusion, image: Image.Image, mask: Image.Image, prompt: str, *, n: int = 4,
          negative: str = "", steps: int = 50, guidance: float = 5.0, eta: float = 1.0, seed: int = 0,
          batch: int = 8, keep_background: bool = False) -> list[Image.Image]:
    """Generate n images that show the prompt in the white part of the mask and the given image elsewhere.

    If the image is not square, its middle square is used. The result has the model's size, and outside the
    mask it differs from the image the way the autoencoder's reconstruction does. With keep_background it has
    the image's size and equals it exactly outside the mask; where the mask is gray, the two are mixed. Image
    i has the seed `seed` + i.

    Raises InputError if the mask differs in size from the image or is black, and on invalid values.
    """
    make_sampler("ddim", eta)           # raises InputError if eta is invalid
    mask, size = inputs.check_mask(mask, image), model.image_size
    z0 = encode(model, inputs.to_x(image, size))
    m = inputs.latent_mask(mask, size, model.config.autoencoder.factor).to(model.device)
    c, uncond = model.context([prompt]), model.context([negative])
    images: list[Image.Image] = []
    for some in generators(n, seed, batch):
        z = randn((len(some), *z0.shape[1:]), some, model.device)
        denoise = model.guided(c.expand(len(some), -1, -1), uncond, guidance)
        trajectory = blended(denoise, model.schedule.alphas_cumprod.tolist(), z, z0, mask=m, steps=steps,
                             generator=some, eta=eta)
        images += model.decode_images(last_latents(trajectory))
    return [paste(image, edited, mask) for edited in images] if keep_background else images


def paste(image: Image.Image, edited: Image.Image, mask: Image.Image) -> Image.Image:
    """The image with its middle square replaced by `edited`, in proportion to the mask: bit-identical where
    the mask is black."""
    box = middle_square(image)
    whole = image.convert("RGB")
    side = box[2] - box[0]
    whole.paste(edited.resize((side, side), Image.Resampling.BICUBIC), box[:2], mask.crop(box))
    return whole
