"""Sprites as the small world needs them: mirrored, tinted to a color that a caption names, and changed into
things that have no name. A changed sprite has different hues, saturation or proportions, or combines parts of
two things: such sprites fill the space between the names.

Sprites are RGBA images; none is changed in place.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

# hue in [0, 1), the same for all pixels that have a hue; factors for a pixel's saturation and light
TINTS = {"red": (0.0, 1.0, 1.0), "orange": (0.075, 1.1, 1.0), "yellow": (0.14, 1.1, 1.15),
         "green": (0.36, 1.0, 0.9), "blue": (0.6, 1.0, 1.0), "purple": (0.77, 0.9, 0.9),
         "pink": (0.93, 0.6, 1.2), "brown": (0.07, 0.8, 0.55)}
COMBINED = 0.33                 # fraction of the changed sprites that combine two things


@dataclass(frozen=True)
class Shadow:
    """How a sprite's shadow is cast, in pixels; its darkness is a fraction of black."""
    height: int                     # minimum, under the feet
    below: int
    dark: float
    beside: tuple[int, int]         # on a wall
    blur: float


def tinted(sprite: Image.Image, color: str) -> Image.Image:
    """The sprite in that color with its shading kept; whites and grays take on some of it, blacks do not."""
    hue, saturation, light = TINTS[color]
    _, s, v = _hsv(sprite)
    s = np.clip(np.maximum(s, 0.55 * (v > 0.25)) * saturation, 0, 1)
    return _image(np.full_like(s, hue), s, np.clip(v * light, 0, 1), sprite)


def shaded(image: Image.Image, sprite: Image.Image, corner: tuple[int, int], shadow: Shadow,
           standing: bool) -> Image.Image:
    """The image with the sprite's shadow: under its feet, or on the wall close behind it, where it also keeps
    a white object visible on white."""
    x, y = corner
    cast, alpha = Image.new("L", image.size), sprite.getchannel("A")
    if standing:
        height = max(shadow.height, sprite.width // 7)
        flat = alpha.resize((sprite.width, height), Image.Resampling.BILINEAR)
        cast.paste(flat.point(lambda value: value * shadow.dark),
                   (x, y + sprite.height - height // 2 - shadow.below))
    else:
        cast.paste(alpha.point(lambda value: value * 0.4), (x + shadow.beside[0], y + shadow.beside[1]))
    cast = cast.filter(ImageFilter.GaussianBlur(shadow.blur))
    return Image.composite(Image.new("RGB", image.size, (12, 12, 24)), image, cast)


def changed(rng: np.random.Generator, sprite: Image.Image, other: Image.Image) -> Image.Image:
    """A sprite that is neither of the two: recolored, stretched, or with a part of `other`."""
    combined = rng.random() < COMBINED
    if combined:
        sprite = combine(rng, sprite, other)
    if rng.random() < (0.5 if combined else 0.8):
        sprite = recolored(rng, sprite)
    if rng.random() < 0.5:
        sprite = stretched(rng, sprite)
    return sprite


def recolored(rng: np.random.Generator, sprite: Image.Image) -> Image.Image:
    """The sprite with its hues rotated by one angle, and saturation, light and contrast changed."""
    h, s, v = _hsv(sprite)
    turn = rng.uniform(0.08, 0.92)
    s = np.clip(s * rng.uniform(0.4, 1.5), 0, 1)
    v = np.clip((v - 0.5) * rng.uniform(0.7, 1.2) + 0.5 + rng.uniform(-0.15, 0.15), 0, 1)
    return _image((h + turn) % 1, s, v, sprite)


def stretched(rng: np.random.Generator, sprite: Image.Image) -> Image.Image:
    """The sprite wider or taller, its aspect ratio changed by a factor of up to 1.6."""
    ratio = float(np.exp(rng.uniform(-0.45, 0.45)))
    size = (max(4, round(sprite.width * ratio ** 0.5)), max(4, round(sprite.height / ratio ** 0.5)))
    return sprite.resize(size, Image.Resampling.BICUBIC)


def combine(rng: np.random.Generator, sprite: Image.Image, other: Image.Image) -> Image.Image:
    """The left or upper half of one and the rest of the other; or one with the other, small, on top of it."""
    side = max(sprite.size)
    first, second = (squared(one, side) for one in (sprite, other))
    if rng.random() < 0.3:
        small = second.resize((side // 2, side // 2), Image.Resampling.BICUBIC)
        x, y = (int(value) for value in rng.uniform(0, side / 2, 2))
        first.paste(small, (x, y), small)
    else:
        cut = int(side * rng.uniform(0.35, 0.65))
        box = (cut, 0, side, side) if rng.random() < 0.5 else (0, cut, side, side)
        first.paste(second.crop(box), box[:2])
    bounds = visible_box(first)
    return first.crop(bounds) if bounds else sprite


def visible_box(sprite: Image.Image) -> tuple[int, int, int, int] | None:
    """The box around all that is not almost transparent; None if nothing is."""
    return sprite.getchannel("A").point([255 * (alpha > 16) for alpha in range(256)]).getbbox()


def mirrored(sprite: Image.Image) -> Image.Image:
    return sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def squared(sprite: Image.Image, side: int,
            resample: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The sprite centered in a transparent square, as large as fits."""
    scale = side / max(sprite.size)
    size = [max(1, round(length * scale)) for length in sprite.size]
    square = Image.new("RGBA", (side, side))
    corner = ((side - size[0]) // 2, (side - size[1]) // 2)
    square.paste(sprite.resize(size, resample), corner)
    return square


def _hsv(sprite: Image.Image) -> np.ndarray:
    """hue, saturation and value (3 y x) in [0, 1]."""
    return np.asarray(sprite.convert("RGB").convert("HSV"), np.float32).transpose(2, 0, 1) / 255


def _image(h: np.ndarray, s: np.ndarray, v: np.ndarray, like: Image.Image) -> Image.Image:
    """The sprite of that hue, saturation and value, with the alpha of `like`."""
    channels = [Image.fromarray((channel * 255 + 0.5).astype(np.uint8)) for channel in (h, s, v)]
    sprite = Image.merge("HSV", channels).convert("RGB")
    sprite.putalpha(like.getchannel("A"))
    return sprite
