"""The drawn scenes of the small world, one function each.

A scene is painted with Pillow at twice the image's size; `backdrops` averages it down, so that its edges are
smooth, and `examples` shows it at full size.
Everything that could vary does (heights, hues, clouds, windows), so that a model learns the scene and not one
image of it. Scenes contain nothing that is also an object of the world: no palm on the beach, no cactus in
the desert.
"""
from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64               # of a finished image
_S = 2 * SIZE           # of the canvas that scenes are painted on

Color = tuple[int, int, int]


def vary(rng: np.random.Generator, color: Color, spread: float = 8) -> Color:
    """The color with a small random deviation."""
    r, g, b = np.clip(np.array(color) + rng.normal(0, spread, 3), 0, 255).astype(int).tolist()
    return r, g, b


def darker(color: Color, part: float) -> Color:
    """The color at that fraction of its brightness."""
    r, g, b = (int(value * part) for value in color)
    return r, g, b


def gradient(top: Color, bottom: Color) -> Image.Image:
    """A canvas shaded from top to bottom."""
    part = np.linspace(0, 1, _S)[:, None]
    column = np.array(top) * (1 - part) + np.array(bottom) * part       # y rgb
    return Image.fromarray(np.repeat(column[:, None].astype(np.uint8), _S, axis=1))


def ridge(rng: np.random.Generator, height: float, swing: float, waves: float) -> list[tuple[float, float]]:
    """The outline of rolling land, closed along the bottom of the canvas. `height` is a fraction of the
    canvas, from the top; `swing` is how far the line rises and falls, `waves` how often."""
    x = np.linspace(0, _S, 17)
    y = _S * (height + swing * np.sin(x / _S * waves * 2 * np.pi + rng.uniform(0, 2 * np.pi)))
    return [(0, _S), *zip(x.tolist(), y.tolist(), strict=True), (_S, _S)]


def disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: Color, flat: float = 1) -> None:
    """Paint a disc; `flat` is its height as a fraction of its width."""
    draw.ellipse((x - radius, y - radius * flat, x + radius, y + radius * flat), fill=fill)


def dots(rng: np.random.Generator, draw: ImageDraw.ImageDraw, count: int, top: float, bottom: float,
         color: Color, size: tuple[float, float]) -> None:
    """Paint discs scattered between two heights, given as fractions of the canvas."""
    for x, y, radius in rng.uniform((0, top * _S, size[0]), (_S, bottom * _S, size[1]), (count, 3)):
        disc(draw, x, y, radius, color)


def clouds(rng: np.random.Generator, draw: ImageDraw.ImageDraw, bottom: float) -> None:
    """Paint up to three clouds above that height, given as a fraction of the canvas."""
    for x, y in rng.uniform((0, 6), (_S, max(bottom * _S - 12, 8)), (rng.integers(0, 4), 2)):
        for dx, radius in ((-9, 6), (0, 9), (10, 6)):
            disc(draw, x + dx, y, radius, (250, 252, 255), flat=0.6)


def beach(rng: np.random.Generator) -> Image.Image:
    image = gradient(vary(rng, (96, 178, 240)), vary(rng, (206, 232, 248)))
    draw, horizon = ImageDraw.Draw(image), rng.uniform(0.34, 0.46)
    clouds(rng, draw, horizon)
    draw.rectangle((0, horizon * _S, _S, _S), fill=vary(rng, (28, 112, 196)))
    draw.rectangle((0, (horizon + 0.05) * _S, _S, _S), fill=vary(rng, (44, 146, 208)))
    shore, swing = horizon + rng.uniform(0.12, 0.2), rng.uniform(0.005, 0.02)
    foam = ridge(rng, shore, swing, rng.uniform(0.5, 2))
    draw.polygon(foam, fill=(240, 248, 250))
    draw.polygon([(x, min(y + 4, _S)) for x, y in foam], fill=vary(rng, (206, 176, 126)))
    draw.polygon([(x, min(y + 9, _S)) for x, y in foam], fill=vary(rng, (238, 212, 154)))
    dots(rng, draw, 26, shore + 0.1, 1, (214, 186, 130), (0.6, 1.3))
    return image


def moon(rng: np.random.Generator) -> Image.Image:
    image = gradient((6, 6, 18), vary(rng, (20, 20, 44), 5))
    draw, height = ImageDraw.Draw(image), rng.uniform(0.5, 0.64)
    dots(rng, draw, 46, 0, 0.65, (236, 236, 250), (0.5, 1.3))
    if rng.random() < 0.35:                      # the earth in the sky
        x, y, radius = rng.uniform((14, 12, 7), (_S - 14, 26, 11))
        disc(draw, x, y, radius, (50, 110, 206))
        disc(draw, x - radius / 3, y, radius / 2.4, (84, 170, 92), flat=0.7)
        disc(draw, x + radius / 3, y - radius / 3, radius / 3.4, (236, 242, 250), flat=0.6)
    gray = vary(rng, (150, 150, 156), 5)
    draw.polygon(ridge(rng, height, rng.uniform(0.01, 0.03), rng.uniform(0.5, 1.2)), fill=gray)
    for x, y, radius in rng.uniform((0, height + 0.08, 4), (_S, 1, 13), (rng.integers(5, 9), 3)):
        disc(draw, x, y * _S, radius, (184, 184, 190), flat=0.42)
        disc(draw, x + 1, y * _S + 1.5, radius * 0.86, (112, 112, 120), flat=0.38)
    return image


def grass(rng: np.random.Generator) -> Image.Image:
    image = gradient(vary(rng, (104, 182, 244)), vary(rng, (214, 236, 250)))
    draw, height = ImageDraw.Draw(image), rng.uniform(0.42, 0.58)
    clouds(rng, draw, height)
    draw.polygon(ridge(rng, height - 0.05, 0.04, rng.uniform(0.6, 1.4)), fill=vary(rng, (126, 190, 92)))
    draw.polygon(ridge(rng, height, 0.03, rng.uniform(0.4, 1)), fill=vary(rng, (86, 172, 66)))
    for x, y in rng.uniform((0, (height + 0.1) * _S), (_S, _S), (34, 2)):
        draw.line((x, y, x + rng.uniform(-3, 3), y - 7), fill=(62, 140, 50), width=2)
    return image


def snow(rng: np.random.Generator) -> Image.Image:
    image = gradient(vary(rng, (150, 176, 206)), vary(rng, (212, 224, 238), 5))
    draw, height = ImageDraw.Draw(image), rng.uniform(0.44, 0.6)
    draw.polygon(ridge(rng, height - 0.06, 0.05, rng.uniform(0.6, 1.4)), fill=vary(rng, (204, 218, 236), 4))
    draw.polygon(ridge(rng, height, 0.03, rng.uniform(0.4, 1)), fill=(240, 245, 252))
    draw.polygon(ridge(rng, height + 0.22, 0.03, rng.uniform(0.4, 1)), fill=(250, 252, 255))
    dots(rng, draw, int(rng.integers(25, 50)), 0, 1, (255, 255, 255), (1.2, 2.4))
    return image


def city(rng: np.random.Generator) -> Image.Image:
    image = gradient(vary(rng, (112, 84, 158)), vary(rng, (252, 170, 108)))
    draw, street = ImageDraw.Draw(image), rng.uniform(0.78, 0.86) * _S
    for far in (True, False):                    # two rows of houses, the near one darker and lit
        x = -rng.uniform(0, 14)
        while x < _S:
            width, top = rng.uniform(16, 26), rng.uniform(22, 62) if far else rng.uniform(46, 82)
            shade = vary(rng, (102, 78, 122) if far else (52, 44, 74), 4)
            draw.rectangle((x, top, x + width, _S), fill=shade)
            for column, row in np.ndindex(3, 0 if far else 7):
                if rng.random() < 0.5:
                    wx, wy = x + 3 + column * (width - 4) / 3, top + 5 + row * 9
                    draw.rectangle((wx, wy, wx + 3, wy + 4), fill=(252, 212, 112))
            x += width + rng.uniform(0, 3)
    draw.rectangle((0, street, _S, _S), fill=vary(rng, (66, 64, 74), 4))
    for x in np.arange(-rng.uniform(0, 24), _S, 24):
        draw.rectangle((x, street + 12, x + 12, street + 14), fill=(226, 220, 190))
    return image


def sea(rng: np.random.Generator) -> Image.Image:
    horizon = rng.uniform(0.24, 0.4)
    image = gradient(vary(rng, (120, 190, 244)), vary(rng, (226, 240, 250)))
    water = gradient(vary(rng, (44, 132, 204)), vary(rng, (12, 62, 136)))
    top = int(horizon * _S)
    image.paste(water.crop((0, 0, _S, _S - top)), (0, top))
    draw = ImageDraw.Draw(image)
    clouds(rng, draw, horizon)
    for x, y in rng.uniform((-8, top + 8), (_S, _S), (rng.integers(18, 28), 2)):
        width = 5 + 9 * (y - top) / (_S - top)   # waves grow toward the viewer
        draw.arc((x, y, x + 2 * width, y + width * 0.7), 200, 340, fill=vary(rng, (132, 196, 236)), width=2)
    return image


def forest(rng: np.random.Generator) -> Image.Image:
    image = gradient(vary(rng, (36, 84, 52)), vary(rng, (88, 138, 78)))
    draw, floor = ImageDraw.Draw(image), rng.uniform(0.62, 0.74)
    for shade in ((48, 72, 48), (70, 50, 36)):   # far trunks, then near ones
        for x in np.arange(rng.uniform(-6, 10), _S, 24) + rng.uniform(-6, 6):
            width = rng.uniform(3, 6)
            draw.rectangle((x - width, 0, x + width, (floor + 0.06) * _S), fill=vary(rng, shade, 5))
    dots(rng, draw, 22, -0.04, 0.24, vary(rng, (28, 88, 44)), (9, 16))
    dots(rng, draw, 16, -0.04, 0.16, vary(rng, (52, 122, 58)), (7, 12))
    draw.polygon(ridge(rng, floor, 0.02, rng.uniform(0.6, 1.6)), fill=vary(rng, (104, 84, 50)))
    dots(rng, draw, 30, floor + 0.06, 1, vary(rng, (140, 104, 54)), (1, 2.4))
    return image


def desert(rng: np.random.Generator) -> Image.Image:
    image = gradient(vary(rng, (246, 178, 106)), vary(rng, (254, 228, 176)))
    draw, height = ImageDraw.Draw(image), rng.uniform(0.46, 0.58)
    if rng.random() < 0.6:
        disc(draw, rng.uniform(16, _S - 16), rng.uniform(14, 34), rng.uniform(8, 12), (255, 246, 214))
    for step, color in enumerate(((222, 142, 74), (208, 122, 56), (228, 150, 80))):
        outline = ridge(rng, height + 0.13 * step, rng.uniform(0.03, 0.06), rng.uniform(0.4, 1.2))
        draw.polygon(outline, fill=vary(rng, color, 6))
    return image


def night(rng: np.random.Generator) -> Image.Image:
    image = gradient(vary(rng, (10, 16, 52), 5), vary(rng, (40, 58, 122)))
    draw = ImageDraw.Draw(image)
    dots(rng, draw, 50, 0, 0.8, (250, 244, 206), (0.6, 1.5))
    x, y, radius = rng.uniform((16, 16, 9), (_S - 16, 30, 13))
    disc(draw, x, y, radius, (250, 238, 176))
    disc(draw, x + radius * 0.5, y - radius * 0.25, radius * 0.85, (18, 26, 68))
    hill = ridge(rng, rng.uniform(0.74, 0.82), 0.03, rng.uniform(0.4, 1))
    draw.polygon(hill, fill=vary(rng, (16, 40, 40), 4))
    return image


def room(rng: np.random.Generator) -> Image.Image:
    wall = ((226, 204, 172), (176, 200, 190), (202, 184, 208), (236, 214, 160))[rng.integers(4)]
    wall, wood = vary(rng, wall), vary(rng, (164, 110, 66))
    image = gradient(wall, darker(wall, 0.9))
    draw, floor = ImageDraw.Draw(image), rng.uniform(0.66, 0.76) * _S
    x, y, width, height = rng.uniform((6, 8, 30, 32), (_S - 50, 16, 44, 44))
    draw.rectangle((x - 3, y - 3, x + width + 3, y + height + 3), fill=(250, 248, 244))
    draw.rectangle((x, y, x + width, y + height), fill=vary(rng, (150, 206, 246)))
    draw.rectangle((x + width / 2 - 1, y, x + width / 2 + 1, y + height), fill=(250, 248, 244))
    draw.rectangle((x, y + height / 2 - 1, x + width, y + height / 2 + 1), fill=(250, 248, 244))
    draw.rectangle((0, floor, _S, _S), fill=wood)
    for bottom in np.linspace(-1.5, 2.5, 11) * _S:      # boards that run toward the viewer
        draw.line((_S / 4 + bottom / 2, floor, bottom, _S), fill=darker(wood, 0.82))
    draw.rectangle((0, floor - 5, _S, floor), fill=(244, 240, 232))
    return image


def mountains(rng: np.random.Generator) -> Image.Image:
    image = gradient(vary(rng, (120, 170, 226)), vary(rng, (226, 236, 246)))
    draw = ImageDraw.Draw(image)
    for x in np.arange(rng.uniform(-6, 22), _S + 20, 40):
        top, base, half = rng.uniform(12, 36), 0.74 * _S, rng.uniform(34, 50)
        gray = vary(rng, (118, 122, 140), 7)
        draw.polygon([(x, top), (x - half, base), (x + half, base)], fill=gray)
        draw.polygon([(x, top), (x + half, base), (x + half * 0.15, base)], fill=darker(gray, 0.8))
        cap = half * 0.32
        draw.polygon([(x, top), (x - cap, top + cap * 1.2), (x - cap * 0.3, top + cap * 0.8),
                      (x + cap * 0.2, top + cap * 1.3), (x + cap, top + cap * 1.2)], fill=(248, 250, 254))
    meadow = ridge(rng, rng.uniform(0.66, 0.72), 0.03, rng.uniform(0.4, 1.2))
    draw.polygon(meadow, fill=vary(rng, (92, 142, 84)))
    return image
