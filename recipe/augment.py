"""Data augmentation for training the small CLIP: framing, tones, sharpness, noise, JPEG. Generated images
differ from composed ones in these ways, and users' own images even more. No change makes a caption untrue:
a red wall stays red, and a "dark" image is far darker than a dimmed one.

All changes except JPEG work on x (b 3 H W) in [-1, 1], never in place. Each applies to a random part of the
batch, with a different strength for each image.
"""
from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

OFTEN = 0.6                             # probability of each change, independently of the others
FRAME = (0.75, 1.06)                    # side of the crop as a fraction of the image's; above 1 adds a margin
SHIFT, ASPECT = 0.1, 0.1                # as a fraction of half a side; logarithm of width / height
BRIGHTNESS = CONTRAST = (0.8, 1.2)
SATURATION = (0.7, 1.25)
CHANNEL = (0.95, 1.05)                  # for each color channel independently
BLUR = (-0.4, 1.0)                      # below 0 sharpens
BLOTCHES, GRAIN = 0.1, 0.07              # maximum standard deviation of coarse and of fine noise
QUALITY = (25, 90)                      # of JPEG


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """x (b 3 H W) -> the same images, augmented; still in [-1, 1]."""
    for change in (reframe, retone, refocus, add_noise):
        chosen = torch.rand(len(x), 1, 1, 1, generator=generator) < OFTEN
        x = torch.where(chosen.to(x.device), change(x, generator), x)
    return x.clamp(-1, 1)


def reframe(x: Tensor, generator: torch.Generator) -> Tensor:
    """Crop a part of the image, or pad it slightly by reflection, and resize to the image's size."""
    side, aspect = _each(x, *FRAME, generator), _each(x, -ASPECT, ASPECT, generator).exp()
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = (side * aspect.sqrt()).flatten(), (side / aspect.sqrt()).flatten()
    theta[:, :, 2] = _each(x, -SHIFT, SHIFT, generator, channels=2).flatten(1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def retone(x: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast about the mean, saturation about each pixel's gray before the contrast
    change, and color cast."""
    light = (x + 1) / 2 * _each(x, *BRIGHTNESS, generator)
    for middle, limits in ((light.mean(dim=(1, 2, 3), keepdim=True), CONTRAST),
                           (light.mean(dim=1, keepdim=True), SATURATION)):
        light = middle + (light - middle) * _each(x, *limits, generator)
    return 2 * light * _each(x, *CHANNEL, generator, channels=3) - 1


def refocus(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, as an autoencoder does, or sharpen."""
    small = F.interpolate(x, scale_factor=0.5, mode="area")
    blurred = F.interpolate(small, size=x.shape[-2:], mode="bicubic", align_corners=False)
    return x + _each(x, *BLUR, generator) * (blurred - x)


def add_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Add grain, and blotches of four pixels, the stride of the latents."""
    b, _, height, width = x.shape
    coarse = torch.randn(b, 3, height // 4, width // 4, generator=generator).to(x.device)
    blotches = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    grain = torch.randn(x.shape, generator=generator).to(x.device)
    return x + _each(x, 0, BLOTCHES, generator) * blotches + _each(x, 0, GRAIN, generator) * grain


def jpeg(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """The image (y x rgb, uint8) after a round trip through JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(*QUALITY)))
    return np.asarray(Image.open(file))


def _each(x: Tensor, low: float, high: float, generator: torch.Generator, channels: int = 1) -> Tensor:
    """A uniform random number for each image, or for each of its channels: (b channels 1 1) on x's device."""
    return (low + (high - low) * torch.rand(len(x), channels, 1, 1, generator=generator)).to(x.device)
