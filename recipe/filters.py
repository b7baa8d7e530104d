"""Whole-image styles: filters with random parameters, each a style of the small world like the artworks.

A filter samples its parameters from a generator and returns the function to apply, so that one style can be
applied to both an image and the test card: a style's code (codes.py) is computed from the card under it.
Images are float32 arrays (y x rgb) in [0, 1] with sides divisible by 4; none is changed in place, and
values may leave [0, 1].

`NAMED` are the styles with a name, `HELD_OUT` those that training never sees, and `nameless` samples a style
that has no name: a random mix of a named filter, a palette, outlines and a texture.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFilter

T = TypeVar("T")
Pixels = np.ndarray
Filter = Callable[[Pixels], Pixels]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def luma(image: Pixels) -> np.ndarray:
    """Luma, y x."""
    return image @ _LUMA


def as_image(image: Pixels) -> Image.Image:
    """The array as an 8-bit image, gray if it has two axes."""
    return Image.fromarray((image.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def pil(image: Pixels, change: ImageFilter.Filter) -> Pixels:
    """Apply one of Pillow's filters."""
    return np.asarray(as_image(image).filter(change), np.float32) / 255


def edges(light: np.ndarray) -> np.ndarray:
    """The gradient magnitude of `light` (y x)."""
    down, right = np.gradient(light)
    return np.hypot(down, right)


def _colors(light: np.ndarray, dark: np.ndarray, bright: np.ndarray) -> Pixels:
    """Interpolate from the color `dark` to the color `bright` by `light` (y x)."""
    return dark + (bright - dark) * light[..., None]


def _rgb(*values: int) -> np.ndarray:
    return np.array(values, np.float32) / 255


def _noise(rng: np.random.Generator, shape: tuple[int, ...], coarse: int) -> np.ndarray:
    """Smooth noise in [0, 1] with features of `coarse` pixels."""
    small = as_image(rng.random((shape[0] // coarse + 1, shape[1] // coarse + 1), np.float32))
    return np.asarray(small.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float32) / 255


def _textured(rng: np.random.Generator, strength: float) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Paper grain, as a function of the shape; the same shape always gives the same grain."""
    seed = int(rng.integers(2 ** 31))
    return lambda shape: np.random.default_rng(seed).normal(0, strength, shape).astype(np.float32)


def mosaic(rng: np.random.Generator) -> Filter:
    """Square tiles of one color each, with dark joints."""
    tile, joint, seed = 4, rng.uniform(0.68, 0.82), int(rng.integers(2 ** 31))

    def apply(image: Pixels) -> Pixels:
        height, width, _ = image.shape
        tiles = image.reshape(height // tile, tile, width // tile, tile, 3).mean((1, 3))
        tiles = tiles * np.random.default_rng(seed).uniform(0.88, 1.1, tiles.shape[:2])[..., None]
        tiled = tiles.repeat(tile, 0).repeat(tile, 1)
        tiled[::tile] *= joint
        tiled[:, ::tile] *= joint
        return tiled
    return apply


def sketch(rng: np.random.Generator) -> Filter:
    """Pencil on paper: gray divided by its own blur leaves the lines; some of the gray is kept as shading."""
    radius, depth, grain = rng.uniform(1.8, 2.6), rng.uniform(2.2, 3), _textured(rng, 0.012)

    def apply(image: Pixels) -> Pixels:
        sharp = luma(image.clip(0, 1))
        soft = pil(sharp, ImageFilter.GaussianBlur(radius))
        lines = 1 - (1 - np.minimum((sharp + 0.08) / (soft + 0.08), 1)) * depth
        return np.repeat((lines * (0.78 + 0.2 * sharp) + grain(sharp.shape))[..., None], 3, axis=2)
    return apply


def watercolor(rng: np.random.Generator) -> Filter:
    """Pale patches that run together and darken at their edges, on grained paper visible at the margins."""
    seed, pale, rim, grain = int(rng.integers(2 ** 31)), rng.uniform(0.66, 0.76), rng.uniform(0.16, 0.28), \
        _textured(rng, 0.012)

    def apply(image: Pixels) -> Pixels:
        patches = pil(image, ImageFilter.MedianFilter(5))
        rims = pil(luma(patches), ImageFilter.FIND_EDGES())[..., None]
        height, width, _ = image.shape
        pools = _noise(np.random.default_rng(seed), image.shape, 8)[..., None]
        y, x = np.mgrid[-1:1:height * 1j, -1:1:width * 1j]
        margin = np.clip((np.maximum(abs(x), abs(y))[..., None] - 0.95 + 0.12 * pools) * 8, 0, 1)
        paint = pale * patches + (0.96 - pale) + 0.16 * (pools - 0.5) - rim * rims
        return paint * (1 - margin) + (0.96 + grain((height, width, 1))) * margin
    return apply


def oil(rng: np.random.Generator) -> Filter:
    """Thick strokes: the local mode of the colors, lit from one side."""
    size, relief, angle = int(rng.choice((5, 7))), rng.uniform(0.8, 1.6), rng.uniform(0, 2 * np.pi)

    def apply(image: Pixels) -> Pixels:
        strokes = pil(image, ImageFilter.ModeFilter(size))
        down, right = np.gradient(luma(strokes))
        return strokes * 1.06 + (relief * (np.cos(angle) * right + np.sin(angle) * down))[..., None]
    return apply


def neon(rng: np.random.Generator) -> Filter:
    """Glowing lines of the image's own colors on black."""
    power, glow = rng.uniform(3.6, 5), rng.uniform(1, 1.8)

    def apply(image: Pixels) -> Pixels:
        lines = np.stack([edges(image[..., i]) for i in range(3)], axis=2) * power
        return (0.08 * image + lines.clip(0, 1)
                + 0.7 * pil(lines.clip(0, 1), ImageFilter.GaussianBlur(glow)))
    return apply


def comic(rng: np.random.Generator) -> Filter:
    """A few flat colors, black outlines, and dots in dark areas."""
    levels, line, pitch = int(rng.integers(3, 5)), rng.uniform(5, 7), 4

    def apply(image: Pixels) -> Pixels:
        smooth = pil(image, ImageFilter.MedianFilter(3))
        flat = np.round(smooth * levels) / levels
        y, x = np.mgrid[:image.shape[0], :image.shape[1]]
        dots = np.hypot((x + 2 * (y // pitch % 2)) % pitch - 1.5, y % pitch - 1.5) < 1.2
        shaded = np.where((dots & (luma(smooth) < 0.55))[..., None], flat * 0.55, flat)
        return shaded * (1 - (edges(luma(smooth)) * line).clip(0, 1))[..., None]
    return apply


def sepia(rng: np.random.Generator) -> Filter:
    """An old photograph: brown, faded, darker toward the corners."""
    dark, bright = _rgb(50, 30, 14) + rng.normal(0, 0.02, 3), _rgb(248, 226, 184) + rng.normal(0, 0.02, 3)
    fade, grain = rng.uniform(0.2, 0.35), _textured(rng, 0.02)

    def apply(image: Pixels) -> Pixels:
        y, x = np.mgrid[-1:1:image.shape[0] * 1j, -1:1:image.shape[1] * 1j]
        light = luma(image) * (1.05 - fade * (x * x + y * y)) + grain(image.shape[:2])
        return _colors(light.clip(0, 1), dark, bright)
    return apply


def woodcut(rng: np.random.Generator) -> Filter:
    """Ink on paper, cut in slanted lines whose width follows the darkness."""
    ink, paper = _rgb(24, 22, 30), _rgb(244, 236, 216)
    pitch, slant = rng.uniform(3.6, 4.6), rng.choice((-1, 1)) * rng.uniform(0.6, 1.2)

    def apply(image: Pixels) -> Pixels:
        light = luma(pil(image, ImageFilter.GaussianBlur(0.6)))
        y, x = np.mgrid[:image.shape[0], :image.shape[1]]
        wave = 0.5 + 0.5 * np.sin((x + slant * y) * 2 * np.pi / pitch)
        cut = ((light - 0.14 + 0.62 * (wave - 0.5)) * 4).clip(0, 1) * (1 - (edges(light) * 5).clip(0, 1))
        return _colors(cut, ink, paper)
    return apply


def popart(rng: np.random.Generator) -> Filter:
    """Four loud colors, chosen by brightness alone."""
    hues = np.array([(20, 20, 90), (230, 30, 110), (250, 200, 30), (120, 235, 230)], np.float32) / 255
    hues = hues + rng.normal(0, 0.04, hues.shape)
    turn = int(rng.integers(2))

    def apply(image: Pixels) -> Pixels:
        light = luma(pil(image, ImageFilter.MedianFilter(3)))
        step = (light * 4).astype(int).clip(0, 3)
        return hues[3 - step if turn else step].astype(np.float32)
    return apply


def crayon(rng: np.random.Generator) -> Filter:
    """Bright wax on white paper that shows through in streaks."""
    seed, strength, bright = int(rng.integers(2 ** 31)), rng.uniform(0.35, 0.55), rng.uniform(1.1, 1.3)

    def apply(image: Pixels) -> Pixels:
        mean = luma(image)[..., None]
        vivid = mean + (image - mean) * bright
        streaks = np.random.default_rng(seed).random(image.shape[:2]).astype(np.float32)
        streaks = (streaks + np.roll(streaks, (1, 1), (0, 1)) + np.roll(streaks, (2, 2), (0, 1))) / 3
        cover = 1 - strength * ((streaks - 0.4) * 3).clip(0, 1)[..., None]
        return vivid * cover + 0.97 * (1 - cover) - 0.5 * (edges(luma(image)) - 0.1).clip(0, 1)[..., None]
    return apply


def blueprint(rng: np.random.Generator) -> Filter:
    """White lines on blue paper with a fine grid."""
    paper, line, pitch = _rgb(24, 62, 142) + rng.normal(0, 0.03, 3), rng.uniform(4, 6), 8

    def apply(image: Pixels) -> Pixels:
        lines = (edges(luma(image)) * line).clip(0, 1)
        grid = np.zeros(lines.shape, np.float32)
        grid[::pitch], grid[:, ::pitch] = 0.14, 0.14
        return _colors(np.maximum(lines, grid), paper, np.ones(3, np.float32))
    return apply


def glass(rng: np.random.Generator) -> Filter:
    """Stained glass: a pane for each of a set of scattered points, framed in lead."""
    seed, count = int(rng.integers(2 ** 31)), int(rng.integers(110, 150))

    def apply(image: Pixels) -> Pixels:
        height, width, _ = image.shape
        points = np.random.default_rng(seed).random((count, 2)) * (height, width)
        y, x = np.mgrid[:height, :width]
        distance = (y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2
        pane = distance.argmin(axis=2)
        size = np.maximum(np.bincount(pane.ravel(), minlength=count), 1)
        color = np.stack([np.bincount(pane.ravel(), image[..., i].ravel(), count) / size
                          for i in range(3)], axis=1)
        mean = color.mean(axis=1, keepdims=True)
        lead = (pane != np.roll(pane, 1, 0)) | (pane != np.roll(pane, 1, 1))
        return np.where(lead[..., None], 0.08, (mean + (color - mean) * 1.3)[pane]).astype(np.float32)
    return apply


def nameless(rng: np.random.Generator) -> Filter:
    """A style that no word names: up to four changes, each with random parameters."""
    steps: list[Filter] = []
    if rng.random() < 0.3:
        steps.append(pick(rng, tuple(NAMED.values()))(rng))
    if rng.random() < 0.6:                                      # a palette indexed by luma, or remixed colors
        if rng.random() < 0.5:
            stops, count = rng.random((5, 3)).astype(np.float32), int(rng.integers(2, 6))
            smooth, keep = rng.random() < 0.5, rng.choice((0, 0, 0.4))
            steps.append(lambda p: keep * p + (1 - keep) * _ramp(luma(p), stops[:count], smooth))
        else:
            matrix = np.eye(3) + rng.normal(0, 0.45, (3, 3))
            steps.append(lambda p: ((p - 0.5) @ matrix.astype(np.float32) + 0.5))
    if rng.random() < 0.5:                                      # outlines
        color, power, radius = rng.choice((0.0, 0.0, 1.0)), rng.uniform(2, 7), rng.uniform(0, 1)
        base = rng.choice((1.0, 1.0, 0.3))

        def outline(p: Pixels) -> Pixels:
            lines = (edges(luma(pil(p, ImageFilter.GaussianBlur(radius)))) * power).clip(0, 1)[..., None]
            return base * p * (1 - lines) + color * lines
        steps.append(outline)
    if rng.random() < 0.5 or not steps:                         # a texture of dots, bars or patches
        kind, strength, pitch = int(rng.integers(3)), rng.uniform(0.1, 0.4), rng.uniform(3, 7)
        angle, seed = rng.uniform(0, np.pi), int(rng.integers(2 ** 31))

        def texture(p: Pixels) -> Pixels:
            y, x = np.mgrid[:p.shape[0], :p.shape[1]] * (2 * np.pi / pitch)
            along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
            wave = (np.sin(along) * np.sin(across) if kind == 0 else np.sin(along) if kind == 1 else
                    2 * _noise(np.random.default_rng(seed), p.shape, 4) - 1)
            return p * (1 + strength * wave[..., None]).astype(np.float32)
        steps.append(texture)

    def apply(image: Pixels) -> Pixels:
        for step in steps:
            image = step(image.astype(np.float32).clip(0, 1))
        return image
    return apply


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of the choices, all equally likely."""
    return choices[int(rng.integers(len(choices)))]


def _ramp(light: np.ndarray, stops: np.ndarray, smooth: bool) -> Pixels:
    """Map `light` to the colors `stops` (k 3), blended or in steps."""
    place = light.clip(0, 1) * (len(stops) - 1)
    low = (place if smooth else place + 0.5).astype(int).clip(0, len(stops) - 1)
    if not smooth:
        return stops[low]
    part = (place - low)[..., None].astype(np.float32)
    return stops[low] * (1 - part) + stops[np.minimum(low + 1, len(stops) - 1)] * part


Maker = Callable[[np.random.Generator], Filter]
NAMED: dict[str, Maker] = {
    "mosaic": mosaic, "sketch": sketch, "watercolor": watercolor, "oil": oil, "neon": neon, "comic": comic,
    "sepia": sepia, "woodcut": woodcut, "popart": popart, "crayon": crayon}
HELD_OUT: dict[str, Maker] = {"blueprint": blueprint, "glass": glass}
ALL = NAMED | HELD_OUT
# These do not show the color of a wall.
COLORLESS = ("sketch", "sepia", "woodcut", "popart", "blueprint", "neon")
