"""What the edits start from: a user's image and mask in the form the model expects, the image's latents, and
one generator per image to generate.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from ldm import InputError, LatentDiffusion
from ldm.model import check_seeds
from ldm.samplers import Trajectory


def middle_square(image: Image.Image) -> tuple[int, int, int, int]:
    """The square that an image is cropped to, as training images are: (left, top, right, bottom)."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return left, top, left + side, top + side


def crop(image: Image.Image, size: int) -> Image.Image:
    """The middle square at `size` x `size` pixels. Cropped before resizing, so nothing around it leaks in."""
    return image.crop(middle_square(image)).resize((size, size), Image.Resampling.BICUBIC)


def to_x(image: Image.Image, size: int) -> Tensor:
    """The middle square of an image as x (1 3 size size) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(crop(image.convert("RGB"), size)))
    return rearrange(pixels.float(), "h w c -> 1 c h w") / 127.5 - 1


def check_mask(mask: Image.Image, image: Image.Image) -> Image.Image:
    """The mask in grayscale; white is what may change.

    Raises InputError if its size differs from the image's, or it is black in the middle square.
    """
    if mask.size != image.size:
        raise InputError(f"the mask is {mask.width} x {mask.height} pixels, but the image is {image.width} x "
                         f"{image.height}. Make the mask the same size as its image.")
    gray = mask.convert("L")
    if gray.crop(middle_square(gray)).getbbox() is None:
        where = " in the middle square, the part that the model sees" if gray.getbbox() else ""
        raise InputError(f"the mask is black{where}. Use white for what may change.")
    return gray


def latent_mask(mask: Image.Image, size: int, factor: int) -> Tensor:
    """(1 1 h w) of zeros and ones: 1 where any pixel of a latent's `factor` x `factor` square may change."""
    pixels = torch.from_numpy(np.array(crop(mask, size))).float()                        # size size
    return F.max_pool2d((pixels > 0).float()[None, None], factor)


@torch.no_grad()
def encode(model: LatentDiffusion, x: Tensor) -> Tensor:
    """x (b 3 H W) -> the mode of its posterior, scaled: z0 (b c h w) in fp32. Deterministic."""
    posterior = model.autoencoder.encode(x.to(model.device, model.dtype))
    return model.config.diffusion.scale_factor * posterior.mode().float()


def generators(n: int, seed: int, batch: int) -> Iterator[list[torch.Generator]]:
    """Yield one generator for each of n images, in batches, with the seeds `seed`, `seed` + 1, ... whatever
    the batch size. Raises InputError on invalid values."""
    for name, value in (("n", n), ("batch", batch)):
        if value < 1:
            raise InputError(f"`{name}` is {value}. Use 1 or more.")
    check_seeds(seed, n)
    for start in range(0, n, batch):
        yield [torch.Generator().manual_seed(seed + i) for i in range(start, min(start + batch, n))]


def last_latents(trajectory: Trajectory) -> Tensor:
    """The latents (b c h w) that a trajectory ends with."""
    return deque(trajectory, maxlen=1)[0][1]
