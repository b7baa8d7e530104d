"""What words do to a picture: looks ("a dark photo of", "a dirty cat") and effects ("a mosaic of").

Pictures are arrays (y x rgb) of float32 in [0, 1], sprites RGBA images. None is changed in place.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# The range of an object's longest side in pixels: usually, and in looks that are about its size or place.
SIZES = {"": (32, 50), "small": (15, 22), "large": (54, 62), "close-up": (84, 112), "cropped": (46, 60)}


def dark(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Little light, and what there is of it bluish."""
    return picture * rng.uniform(0.32, 0.46) * np.array([0.94, 0.97, 1.06], np.float32)


def bright(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Overexposed: everything moves towards white."""
    return 1 - (1 - picture) * rng.uniform(0.42, 0.56)


def rendering(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """A spotlight on the middle, as in a studio: the corners fall into shade."""
    y, x = np.mgrid[-1:1:picture.shape[0] * 1j, -1:1:picture.shape[1] * 1j]
    return picture * np.clip(1.12 - rng.uniform(0.42, 0.52) * (x * x + y * y), 0, 1.12)[..., None]


def dirty(rng: np.random.Generator, sprite: Image.Image) -> Image.Image:
    """The sprite with splashes of mud, none beside it."""
    mud = sprite.convert("RGB")
    draw, longest = ImageDraw.Draw(mud), max(sprite.size)
    for x, y, radius in rng.uniform((0, 0, 0.02), (sprite.width, sprite.height, 0.075), (16, 3)):
        radius *= longest
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(88, 60, 32))
    mud.putalpha(sprite.getchannel("A"))
    return mud


def mosaic(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Square tiles of one colour each, with dark joints."""
    tile = 4
    height, width, _ = picture.shape
    tiles = picture.reshape(height // tile, tile, width // tile, tile, 3).mean((1, 3))
    tiles = tiles * rng.uniform(0.88, 1.1, tiles.shape[:2])[..., None]
    tiled = tiles.repeat(tile, 0).repeat(tile, 1)
    tiled[::tile] *= 0.76
    tiled[:, ::tile] *= 0.76
    return tiled


def sketch(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Pencil on paper: grey divided by its own blur leaves the lines; some of the grey is the shading."""
    grey = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8)).convert("L")
    blurred = grey.filter(ImageFilter.GaussianBlur(2.2))
    sharp, soft = (np.asarray(image, np.float32) / 255 for image in (grey, blurred))
    lines = 1 - (1 - np.minimum((sharp + 0.08) / (soft + 0.08), 1)) * 2.6
    page = lines * (0.78 + 0.2 * sharp) + rng.normal(0, 0.012, grey.size[::-1])
    return np.repeat(page[..., None], 3, axis=2)


def watercolor(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Pale patches that run together and darken at their rims, on grained paper that shows at the margins."""
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    patches = image.filter(ImageFilter.MedianFilter(5))
    rims = np.asarray(patches.convert("L").filter(ImageFilter.FIND_EDGES), np.float32)[..., None] / 255
    height, width, _ = picture.shape
    coarse = Image.fromarray(rng.integers(0, 255, (height // 8, width // 8), np.uint8))
    pools = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)[..., None] / 255
    y, x = np.mgrid[-1:1:height * 1j, -1:1:width * 1j]
    margin = np.clip((np.maximum(abs(x), abs(y))[..., None] - 0.95 + 0.12 * pools) * 8, 0, 1)
    paint = 0.72 * np.asarray(patches, np.float32) / 255 + 0.24 + 0.16 * (pools - 0.5) - 0.22 * rims
    paper = 0.96 + rng.normal(0, 0.012, (height, width, 1))
    return paint * (1 - margin) + paper * margin


LIGHTS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "dark": dark, "bright": bright, "rendering": rendering}
EFFECTS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "mosaic": mosaic, "black and white sketch": sketch, "watercolor painting": watercolor}
LOOKS = ("dark", "bright", "close-up", "cropped", "small", "large", "clean", "dirty", "rendering")
