"""Looks: what a caption's words do to an image ("a dark photo of", "a dirty cat").

Images are float32 arrays (y x rgb) in [0, 1], sprites are RGBA images. None is changed in place.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

# The range of an object's longest side in pixels: by default, and for looks that concern its size or place.
SIZES = {"": (32, 50), "small": (15, 22), "large": (54, 62), "close-up": (84, 112), "cropped": (46, 60)}


def dark(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Little light, with a bluish tint."""
    return image * rng.uniform(0.32, 0.46) * np.array([0.94, 0.97, 1.06], np.float32)


def bright(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Overexposed: everything moves toward white."""
    return 1 - (1 - image) * rng.uniform(0.42, 0.56)


def rendering(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A spotlight on the center, as in a studio: the corners are in shadow."""
    y, x = np.mgrid[-1:1:image.shape[0] * 1j, -1:1:image.shape[1] * 1j]
    return image * np.clip(1.12 - rng.uniform(0.42, 0.52) * (x * x + y * y), 0, 1.12)[..., None]


def dirty(rng: np.random.Generator, sprite: Image.Image) -> Image.Image:
    """The sprite with splashes of mud, none outside its outline."""
    mud = sprite.convert("RGB")
    draw, longest = ImageDraw.Draw(mud), max(sprite.size)
    for x, y, radius in rng.uniform((0, 0, 0.02), (sprite.width, sprite.height, 0.075), (16, 3)):
        radius *= longest
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(88, 60, 32))
    mud.putalpha(sprite.getchannel("A"))
    return mud


LIGHTS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "dark": dark, "bright": bright, "rendering": rendering}
LOOKS = ("dark", "bright", "close-up", "cropped", "small", "large", "clean", "dirty", "rendering")
