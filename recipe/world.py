"""The small world: random scenes, drawn and captioned. A scene has one object in one art style, mirrored,
scaled, tilted and placed at random, on a plain color or in a drawn scene; sometimes two objects, or a filter
over the whole image.

    python -m recipe.world --sheet FILE.png         random images with their captions
    python -m recipe.world --catalog FILE.png     every object in every style
    python -m recipe.world --styles FILE.png        every filter, a dozen times

All randomness comes from the given numpy Generator, so a seed determines a data set. `Choices` says what may
appear: held-out things appear only if it names them.
"""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ldm import InputError
from recipe import filters, looks, sheets, sprites
from recipe.artwork import Artwork, add_artwork_option
from recipe.backdrops import BACKDROPS, Backdrop
from recipe.captions import NAMELESS, Scene, wording
from recipe.filters import Filter, pick
from recipe.objects import CATEGORIES, HELD_OUT, OBJECTS, SEEN, SEEN_STYLES, STYLES
from recipe.objects import NAMELESS as NAMELESS_OBJECTS
from recipe.scenery import SIZE
from textinv.commands import command

COMMAND = "python -m recipe.world"
SHADOW = sprites.Shadow(height=3, below=1, dark=0.45, beside=(1, 1), blur=1.5)

# The longest sides of the first and the second object, in pixels.
_PAIR_SIZES = {"next to": ((24, 30), (24, 30)), "holding": ((34, 50), (17, 22)),
               "on top of": ((20, 26), (28, 34))}

# Who can hold something, what can be held, and what can be stood on.
_HOLDERS = {name for name, thing in OBJECTS.items() if thing.kind == "animal"} | {"ghost", "snowman", "robot"}
_HELD = {name for name, thing in OBJECTS.items() if thing.kind in ("food", "thing")} - _HOLDERS - {"sofa"}
_STANDS = {name for name, thing in OBJECTS.items() if thing.kind in ("vehicle", "building")} - {"volcano"} | {
    "box", "sofa", "chair", "book", "barrel", "suitcase", "television", "gift", "drum", "cake", "rock", "log",
    "bucket"}


@dataclass(frozen=True)
class Choices:
    """What scenes may contain. Raises InputError on a name that the world does not know."""
    objects: tuple[str, ...] = tuple(SEEN)
    styles: tuple[str, ...] = SEEN_STYLES
    backgrounds: tuple[str, ...] = tuple(BACKDROPS)
    effects: tuple[str, ...] = (*filters.NAMED, *[NAMELESS] * len(filters.NAMED))
    # the fractions of all images; an image has at most one of the five
    look: float = 0.42          # has a look (dark, small, ...),
    pair: float = 0.07          # two objects,
    effect: float = 0.2         # a filter,
    tint: float = 0.06          # a color that the caption names,
    category: float = 0.05      # or a caption that names only the category
    # the fractions of objects without a name: sprites that have none, and changed ones
    nameless: float = 0.0
    changed: float = 0.0

    def __post_init__(self):
        for field, known in (("objects", OBJECTS), ("styles", STYLES), ("backgrounds", BACKDROPS),
                             ("effects", [*filters.ALL, NAMELESS])):
            unknown = [name for name in getattr(self, field) if name not in known]
            if unknown or not getattr(self, field):
                raise InputError(f"invalid {field} of the small world: {', '.join(unknown) or 'none given'}. "
                                 f"Choose from {', '.join(known)}.")

    @cached_property
    def background_steps(self) -> np.ndarray:
        """The upper end of each background's share of [0, 1]."""
        steps = np.cumsum([BACKDROPS[name].weight for name in self.backgrounds])
        return steps / steps[-1]

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The categories that have an object among the choices."""
        kinds = {OBJECTS[name].kind for name in self.objects}
        return tuple(category for category in CATEGORIES if category in kinds)


# For the diffusion model's training: nameless and changed things fill the space between the names.
TRAINING = Choices(nameless=0.1, changed=0.25)


@dataclass(frozen=True, eq=False)
class Composed:
    pixels: np.ndarray                  # y x rgb, uint8
    caption: str
    scene: Scene
    sprites: list[Image.Image]          # of its objects, before they are mirrored, rotated and scaled
    filter: Filter | None               # over the whole image


def compose(rng: np.random.Generator, artwork: Artwork, choices: Choices = Choices()) -> Composed:
    """A random image with a random caption that is true of it."""
    scene = random_scene(rng, choices)
    object_sprites = scene_sprites(rng, scene, artwork)
    effect = scene_filter(rng, scene)
    pixels = draw(rng, scene, artwork, object_sprites, effect)
    caption = wording(rng, scene, not scene.named, scene.effect == NAMELESS)
    return Composed(pixels, caption, scene, object_sprites, effect)


def random_scene(rng: np.random.Generator, choices: Choices) -> Scene:
    """What an image will show. If the choices have no second object for a pair, the first is alone; if they
    have no object of any category, the object is called by its name."""
    background = choices.backgrounds[np.searchsorted(choices.background_steps, rng.random(), side="right")]
    style, first, fate = pick(rng, choices.styles), pick(rng, choices.objects), rng.random()
    fates = ("pair", "effect", "tint", "category", "look")
    steps = np.cumsum([getattr(choices, name) for name in fates])
    kind = next((name for name, step in zip(fates, steps, strict=True) if fate < step), "")
    if kind == "category" and choices.categories:
        category = pick(rng, choices.categories)
        return Scene((_of_category(rng, category, choices),), style, background, category=category)
    without_name = rng.random()
    changed = without_name < choices.changed
    if not changed and without_name < choices.changed + choices.nameless:
        first = pick(rng, NAMELESS_OBJECTS)
    if kind == "pair":
        relations: list[str] = ["next to", "next to", *["holding"] * (first in _HOLDERS), "on top of"]
        relation = pick(rng, relations)
        fitting = {"next to": OBJECTS, "holding": _HELD, "on top of": _STANDS}[relation]
        if seconds := [name for name in choices.objects if name in fitting and name != first]:
            return Scene((first, pick(rng, seconds)), style, background, relation=relation, changed=changed)
    values = {"effect": choices.effects, "tint": tuple(sprites.TINTS), "look": looks.LOOKS}
    what = {kind: pick(rng, values[kind])} if kind in values else {}
    return Scene((first,), style, background, changed=changed and kind != "tint", **what)


def _of_category(rng: np.random.Generator, category: str, choices: Choices) -> str:
    """An object of the category, with the lopsided probabilities of objects.CATEGORIES."""
    members = tuple(name for name in choices.objects if OBJECTS[name].kind == category)
    often = {name: part for name, part in CATEGORIES[category].items() if name in members}
    fate = rng.random()
    for name, step in zip(often, np.cumsum(list(often.values())), strict=True):
        if fate < step:
            return name
    return pick(rng, tuple(name for name in members if name not in often) or members)


def scene_sprites(rng: np.random.Generator, scene: Scene, artwork: Artwork) -> list[Image.Image]:
    """The sprites of the scene's objects: tinted or changed where the scene says so."""
    object_sprites = [artwork.sprite(scene.style, name) for name in scene.objects]
    if scene.tint:
        return [sprites.tinted(sprite, scene.tint) for sprite in object_sprites]
    if scene.changed:
        others = [artwork.sprite(scene.style, pick(rng, (*SEEN, *NAMELESS_OBJECTS))) for _ in object_sprites]
        return [sprites.changed(rng, sprite, other)
                for sprite, other in zip(object_sprites, others, strict=True)]
    return object_sprites


def scene_filter(rng: np.random.Generator, scene: Scene) -> Filter | None:
    """The filter over the whole image, with random parameters."""
    if not scene.effect:
        return None
    return (filters.nameless if scene.effect == NAMELESS else filters.ALL[scene.effect])(rng)


def draw(rng: np.random.Generator, scene: Scene, artwork: Artwork,
         object_sprites: list[Image.Image] | None = None, effect: Filter | None = None) -> np.ndarray:
    """The scene's image, y x rgb, uint8. By default sprites and filter are sampled anew."""
    object_sprites = scene_sprites(rng, scene, artwork) if object_sprites is None else object_sprites
    effect = effect or scene_filter(rng, scene)
    backdrop = BACKDROPS[scene.background]
    image = backdrop.paint(rng)
    if scene.relation:
        placed = _pair(rng, scene, backdrop, object_sprites)
    else:
        longest = rng.uniform(*looks.SIZES.get(scene.look, looks.SIZES[""]))
        sprite = _sprite(rng, scene, object_sprites[0], longest)
        placed = [(sprite, *_corner(rng, scene.look, sprite.size, backdrop))]
    for sprite, x, y in placed:
        if scene.look not in ("close-up", "cropped"):
            image = sprites.shaded(image, sprite, (x, y), SHADOW, standing=backdrop.ground is not None)
        image.paste(sprite, (x, y), sprite)
    if light := looks.LIGHTS.get(scene.look):
        return _uint8(light(rng, np.asarray(image, np.float32) / 255))
    return np.array(image) if effect is None else _uint8(effect(np.asarray(image, np.float32) / 255))


def _uint8(image: np.ndarray) -> np.ndarray:
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _sprite(rng: np.random.Generator, scene: Scene, sprite: Image.Image, longest: float) -> Image.Image:
    """The object as it will appear in the image: mirrored and tilted at random, `longest` pixels long."""
    if scene.look == "dirty":
        sprite = looks.dirty(rng, sprite)
    if rng.random() < 0.5:
        sprite = sprites.mirrored(sprite)
    scale = longest / max(sprite.size)
    # a large object already fills the frame, and the objects of a pair stand upright
    if not scene.relation and scene.look != "large" and rng.random() < 0.2:
        sprite = sprite.rotate(rng.uniform(-16, 16), Image.Resampling.BICUBIC, expand=True)
    return sprite.resize([max(1, round(side * scale)) for side in sprite.size], Image.Resampling.LANCZOS)


def _corner(rng: np.random.Generator, look: str, size: tuple[int, int],
            backdrop: Backdrop) -> tuple[int, int]:
    """Where the top-left corner of a single object goes."""
    if look == "close-up":              # more than fills the frame
        x, y = (int((SIZE - side) / 2 + rng.uniform(-6, 6)) for side in size)
        return x, y
    width, height = size
    x = int(rng.uniform(1, max(SIZE - width - 1, 1.5)))
    y = _standing(rng, height, backdrop)
    if look == "cropped":               # a third or more of it is cut off at one side
        cut = rng.uniform(0.34, 0.48)
        side = rng.integers(3)
        if side == 2:
            return x, int(SIZE - height * (1 - cut))
        return int(-width * cut if side else SIZE - width * (1 - cut)), y
    return x, y


def _standing(rng: np.random.Generator, height: int, backdrop: Backdrop) -> int:
    """The top of an object of that height: on the ground if there is one, otherwise anywhere in the frame."""
    if backdrop.ground is None:
        return int(rng.uniform(1, max(SIZE - height - 1, 1.5)))
    return max(int(rng.uniform(*backdrop.ground) * SIZE) - height, min(1, SIZE - height))


def _pair(rng: np.random.Generator, scene: Scene, backdrop: Backdrop,
          object_sprites: list[Image.Image]) -> list[tuple[Image.Image, int, int]]:
    """Both objects with their corners, in the order of painting."""
    first, second = (_sprite(rng, scene, sprite, rng.uniform(*longest))
                     for sprite, longest in zip(object_sprites, _PAIR_SIZES[scene.relation], strict=True))
    if scene.relation == "next to":
        height = max(first.height, second.height)
        bottom = _standing(rng, height, backdrop) + height
        middles = rng.permutation([17, 47]) + rng.integers(-1, 2, 2)
        return [(sprite, int(middle) - sprite.width // 2, bottom - sprite.height)
                for sprite, middle in zip((first, second), middles, strict=True)]
    if scene.relation == "holding":     # in front of the body, at its lower left or right
        x, y = _corner(rng, "", first.size, backdrop)
        side = int(x + first.width * rng.choice((0.22, 0.78)) - second.width / 2)
        low = y + int(first.height * 0.78) - second.height // 2
        side, low = min(max(side, 0), SIZE - second.width), min(low, SIZE - second.height)
        return [(first, x, y), (second, side, low)]
    overlap = max(2, second.height // 8)
    y = _standing(rng, first.height + second.height - overlap, backdrop)
    middle = int(rng.uniform(20, 44))
    return [(second, middle - second.width // 2, y + first.height - overlap),
            (first, middle - first.width // 2, y)]


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--sheet", type=Path, help="PNG of random images with their captions")
    parser.add_argument("--catalog", type=Path, help="PNG of every object in every style")
    parser.add_argument("--styles", type=Path, help="PNG of every filter with random parameters")
    parser.add_argument("--held-out", action="store_true", help="--sheet of held-out objects, in all styles")
    add_artwork_option(parser)
    parser.add_argument("--count", type=int, default=96, help="images on the sheet (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if not (options.sheet or options.catalog or options.styles):
        raise InputError("nothing to draw. Give --sheet, --catalog or --styles FILE.png.")
    if options.count < 1 or options.seed < 0:
        raise InputError(f"--count is {options.count} and --seed is {options.seed}. "
                         "Give a count of 1 or more and a seed of 0 or more.")
    artwork = Artwork(options.artwork)
    if options.catalog:
        sheets.save(sheets.catalog(artwork), options.catalog)
    if options.styles:
        rng = np.random.default_rng(options.seed)
        images = [compose(rng, artwork, Choices(effects=(effect,), effect=1, pair=0))
                    for effect in (*filters.ALL, NAMELESS) for _ in range(12)]
        sheets.save(sheets.contact_sheet([(p.pixels, p.caption) for p in images]), options.styles)
    if options.sheet:
        rng, start = np.random.default_rng(options.seed), time.perf_counter()
        choices = (Choices(objects=tuple(HELD_OUT), styles=STYLES, effects=tuple(filters.ALL))
                   if options.held_out else TRAINING)
        images = [compose(rng, artwork, choices) for _ in range(options.count)]
        print(f"{options.count / (time.perf_counter() - start):.0f} images per second")
        sheets.save(sheets.contact_sheet([(p.pixels, p.caption) for p in images]), options.sheet)


if __name__ == "__main__":
    sys.exit(main())
