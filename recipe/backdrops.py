"""The backgrounds, plain colors and drawn scenes, each with the phrases that name it."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from recipe import scenery
from recipe.objects import article
from recipe.scenery import SIZE, Color, vary

Painter = Callable[[np.random.Generator], Image.Image]

COLORS: dict[str, Color] = {
    "red": (218, 38, 42), "orange": (243, 134, 34), "yellow": (248, 212, 52), "green": (52, 160, 78),
    "blue": (42, 92, 214), "purple": (132, 68, 182), "pink": (246, 152, 188), "brown": (122, 80, 46),
    "white": (245, 245, 245), "grey": (140, 142, 146), "black": (22, 22, 26),
}


@dataclass(frozen=True)
class Backdrop:
    """`ground` is the range, as a fraction of the image's height, where a standing object touches the ground;
    None if objects may be anywhere."""
    name: str
    phrases: tuple[str, ...]                             # the first is the default
    paint: Painter                                       # RGB, SIZE x SIZE
    ground: tuple[float, float] | None = None
    weight: float = 4.4                                  # how often, relative to the others


def plain(color: Color) -> Painter:
    """A wall of that color, slightly lighter toward one side."""
    def paint(rng: np.random.Generator) -> Image.Image:
        x, y = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2)
        angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.09)
        light = 1 + depth * (x * np.cos(angle) + y * np.sin(angle))     # y x
        wall = np.array(vary(rng, color, 7)) * light[..., None]
        return Image.fromarray(np.clip(wall, 0, 255).astype(np.uint8))
    return paint


def halved(paint: Painter) -> Painter:
    """A scene's canvas averaged down to the size of an image."""
    return lambda rng: paint(rng).reduce(2)


_WALLS = ("on {} background", "with {} background", "in front of {} wall")

# About half of the images have a plain color as background, an eighth one of the rarer scenes.
BACKDROPS = {backdrop.name: backdrop for backdrop in (
    *(Backdrop(name, tuple(phrase.format(article(name)) for phrase in _WALLS), plain(color))
      for name, color in COLORS.items()),
    Backdrop("beach", ("on the beach", "at the beach"), halved(scenery.beach), (0.74, 0.95), 6.7),
    Backdrop("moon", ("on the moon",), halved(scenery.moon), (0.72, 0.95), 6.7),
    Backdrop("grass", ("on the grass", "in a meadow"), halved(scenery.grass), (0.7, 0.95), 6.7),
    Backdrop("snow", ("in the snow",), halved(scenery.snow), (0.7, 0.95), 6.7),
    Backdrop("city", ("in the city", "in front of a city at dusk"), halved(scenery.city), (0.86, 0.96), 6.7),
    Backdrop("sea", ("in the sea", "in the water"), halved(scenery.sea), (0.66, 0.92), 6.7),
    Backdrop("forest", ("in the forest",), halved(scenery.forest), (0.78, 0.95), 2.4),
    Backdrop("desert", ("in the desert",), halved(scenery.desert), (0.72, 0.95), 2.4),
    Backdrop("night", ("at night", "under the night sky"), halved(scenery.night), (0.82, 0.95), 2.4),
    Backdrop("room", ("in a room",), halved(scenery.room), (0.82, 0.96), 2.4),
    Backdrop("mountains", ("in the mountains",), halved(scenery.mountains), (0.76, 0.95), 2.4),
)}
