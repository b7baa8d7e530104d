"""Blended latent diffusion (Avrahami et al. 2022, arXiv 2206.02779, algorithm 1), by which a learned word is
painted into a part of an image (Gal et al. 2022, section 4.6 and Figure 9).

After every step of the sampler the latents outside the mask are put back to the image's own, with the noise
of that step; what is inside is told by the prompt, and sees what is around it. In place of the original's
optimization of the decoder (its section 4.3) `keep_background` pastes the result into the image, pixel by
pixel.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ldm import LatentDiffusion
from ldm.model import to_images
from ldm.samplers import Denoise, Generators, Trajectory, ddim_step, ddim_timesteps, randn
from textinv.editing import inputs
from textinv.editing.inputs import encode, generators, last_latents, middle_square


def blended(denoise: Denoise, alphas_cumprod: Sequence[float], z: Tensor, z0: Tensor, mask: Tensor,
            steps: int, generator: Generators = None, eta: float = 0.0) -> Trajectory:
    """DDIM from noise z (b c h w), blended with the image's latents z0 (1 c h w) by mask m (1 1 h w):

        z_s = m step(z_t) + (1 - m) (sqrt(a_s) z0 + sqrt(1 - a_s) noise)

    with fresh noise in each step. The last latents are z0 itself where m is 0.
    """
    pairs = ddim_timesteps(len(alphas_cumprod), steps)
    for t, t_prev in pairs:
        noise = randn(z.shape, generator, z.device) if eta > 0 else None
        inside = ddim_step(alphas_cumprod, z, denoise(z, t), t, t_prev, eta, noise)
        # the sampler ends at t = 0, which has a little noise left; the image shall have none
        a = 1.0 if t_prev == pairs[-1][1] else alphas_cumprod[t_prev]
        outside = math.sqrt(a) * z0 + math.sqrt(1 - a) * randn(z.shape, generator, z.device)
        z = torch.where(mask > 0, inside, outside)
        yield t_prev, z


@torch.no_grad()
def blend(model: LatentDiffusion, image: Image.Image, mask: Image.Image, prompt: str, *, n: int = 4,
          negative: str = "", steps: int = 50, guidance: float = 5.0, eta: float = 1.0, seed: int = 0,
          batch: int = 8, keep_background: bool = False) -> list[Image.Image]:
    """n images in which the white part of the mask shows the prompt and the rest what the image shows.

    Of an image that is not square the middle square is used. The result has the model's size, and outside
    the mask differs from the image as the autoencoder's reconstruction does. With keep_background it has the
    image's size, and outside the mask equals it exactly; where the mask is gray the two are mixed. Image i
    has the seed `seed` + i.

    Raises InputError if the mask has another size than the image or is black, and on values without meaning.
    """
    mask, size = inputs.check_mask(mask, image), inputs.image_size(model)
    z0 = encode(model, inputs.to_x(image, size))
    m = inputs.latent_mask(mask, size, model.config.autoencoder.factor).to(model.device)
    c, uncond = model.context([prompt]), model.context([negative])
    images: list[Image.Image] = []
    for some in generators(n, seed, batch):
        z = randn((len(some), *z0.shape[1:]), some, model.device)
        denoise = model.guided(c.expand(len(some), -1, -1), uncond, guidance)
        trajectory = blended(denoise, model.schedule.alphas_cumprod.tolist(), z, z0, mask=m, steps=steps,
                             generator=some, eta=eta)
        images += to_images(model.decode(last_latents(trajectory).to(model.dtype)))
    return [paste(image, edited, mask) for edited in images] if keep_background else images


def paste(image: Image.Image, edited: Image.Image, mask: Image.Image) -> Image.Image:
    """The image with its middle square replaced by `edited`, in proportion to the mask: unchanged, to the
    bit, where that is black."""
    box = middle_square(image)
    whole = image.convert("RGB")
    side = box[2] - box[0]
    whole.paste(edited.resize((side, side), Image.Resampling.BICUBIC), box[:2], mask.crop(box))
    return whole
