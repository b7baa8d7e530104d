"""What the folders of examples/ show, image by image: the thing, its style, its background, and how the image
is taken. The background of each thing was chosen by eye.
"""
from __future__ import annotations

from dataclasses import dataclass

from recipe import filters
from recipe.objects import HELD_OUT_STYLE

# Folder: the style, then the backgrounds of the first four views.
THINGS = {
    "teapot": "cartoon room blue beach grass",
    "fox": "cartoon snow green city purple",
    "tractor": "glossy desert red mountains snow",
    "mushroom": "glossy forest yellow night blue",
    "pineapple": "cartoon beach purple moon red",
    "panda": "cartoon forest orange mountains pink",
    "cupcake": "glossy grass white room city",
    "guitar": "glossy moon yellow beach black",
    "sailboat": "cartoon sea purple beach yellow",
    "robot": "glossy city yellow moon green",
    "castle": "cartoon mountains pink grass desert",
    "octopus": "glossy beach blue sea yellow",
    "cactus": "glossy desert purple night orange",
    "parrot": "cartoon grass pink forest beach",
    "avocado": "cartoon room red grass blue",
}

# Folder with many images, for experiments with the number of images: thing, style, and the backgrounds of the
# first four views, five times over.
LARGE_FOLDERS = {
    "backpack-25": "backpack cartoon forest yellow mountains blue snow green beach pink city white room "
                   "purple desert grey grass black moon brown night sea",
}


@dataclass(frozen=True)
class Style:
    """A held-out style: an artwork of its own, or a filter over the whole image."""
    artwork: str
    init: str                       # a seen style that an inversion may start from
    views: str                      # one object per view, none of them held out, and its background

    @property
    def things(self) -> list[tuple[str, str]]:
        """Object and background of each view; an empty background means a cut-out."""
        pairs = (part.split() for part in self.views.split(","))
        return [(thing, background[0] if background else "") for thing, *background in pairs]


STYLES = {
    HELD_OUT_STYLE: Style(HELD_OUT_STYLE, "cartoon",
                          "owl forest, car red, penguin snow, turtle beach, strawberry"),
    "blueprint": Style("cartoon", "neon",
                       "rocket moon, bear yellow, house mountains, bicycle beach, crown blue"),
    "glass": Style("cartoon", "mosaic", "frog blue, heart white, balloon grass, tree snow, pumpkin purple"),
}


@dataclass(frozen=True)
class View:
    """How an image is taken. The thing lies within the central square, the part that training crops."""
    size: tuple[int, int]           # width and height of the upright image
    longest: tuple[int, int]        # the range of the thing's longest side
    jpeg: bool = False
    turned: bool = False            # stored rotated, with EXIF orientation 6 or 8


VIEWS = (View((128, 128), (88, 104)),
         View((128, 128), (72, 88), jpeg=True),
         View((120, 160), (80, 96), jpeg=True, turned=True),
         View((160, 120), (82, 98)),
         View((128, 128), (90, 108)))


@dataclass(frozen=True)
class Shot:
    """An image to be taken."""
    folder: str
    name: str
    thing: str
    style: str
    background: str                 # empty for a cut-out
    view: View
    effect: str = ""                # one of filters.ALL over the whole image


def shots() -> list[Shot]:
    """All images, folder by folder, in the order of VIEWS."""
    plan = []
    for folder, row in THINGS.items():
        style, *backgrounds = row.split()
        plan += [Shot(folder, background or "cutout", folder, style, background, view)
                 for background, view in zip((*backgrounds, ""), VIEWS, strict=True)]
    for name, style in STYLES.items():
        plan += [Shot(f"{name}-style", thing, thing, style.artwork, background, view,
                      name if name in filters.ALL else "")
                 for (thing, background), view in zip(style.things, VIEWS, strict=True)]
    for folder, row in LARGE_FOLDERS.items():
        thing, style, *backgrounds = row.split()
        rounds = [(background, view) for i in range(0, len(backgrounds), 4)
                  for background, view in zip((*backgrounds[i:i + 4], ""), VIEWS, strict=True)]
        # numbered, so that the first n files mix all views
        plan += [Shot(folder, f"{number:02}-{background or 'cutout'}", thing, style, background, view)
                 for number, (background, view) in enumerate(rounds, 1)]
    return plan
