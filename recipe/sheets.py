"""Contact sheets, by which a person checks the small world: captioned pictures, all sprites, the examples."""
from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from recipe.artwork import Artwork
from recipe.objects import OBJECTS, STYLES
from weights.files import atomic_write as whole_file

_PAPER, _INK = (250, 250, 248), (30, 30, 34)


def contact_sheet(pictures: Sequence[tuple[np.ndarray, str]], columns: int = 12,
                  zoom: int = 2) -> Image.Image:
    """Pictures (y x rgb, uint8), each with its caption below."""
    side = zoom * pictures[0][0].shape[0]
    width, height = side + 8, side + 64
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (pixels, caption) in enumerate(pictures):
        x, y = index % columns * width + 4, index // columns * height + 4
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (x, y))
        draw.multiline_text((x, y + side + 2), textwrap.fill(caption, 22), fill=_INK, spacing=1)
    return sheet


def catalogue(artwork: Artwork, columns: int = 6, side: int = 56) -> Image.Image:
    """Every object's sprites in all styles, on grey; held-out ones are marked with their init word."""
    width, height = len(STYLES) * side + 16, side + 18
    sheet = Image.new("RGB", (columns * width, -(-len(OBJECTS) // columns) * height), (196, 204, 212))
    draw = ImageDraw.Draw(sheet)
    for index, thing in enumerate(OBJECTS.values()):
        x, y = index % columns * width + 4, index // columns * height
        draw.text((x, y + 2), thing.name + (f" (held out, init {thing.init})" if thing.init else ""), _INK)
        for column, style in enumerate(STYLES):
            sprite = artwork.sprite(style, thing.name).copy()
            sprite.thumbnail((side - 4, side - 4), Image.Resampling.LANCZOS)
            sheet.paste(sprite, (x + column * side, y + 17), sprite)
    return sheet


def by_folder(pictures: dict[str, list[Image.Image]], columns: int = 5, cell: int = 110) -> Image.Image:
    """Two folders a row, each named above its pictures, at most `columns`; cut-outs stand on chequers."""
    width, height, gap = columns * cell + 20, cell + 26, 6
    sheet = Image.new("RGB", (2 * width + 10, -(-len(pictures) // 2) * height + 10), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, (folder, images) in enumerate(pictures.items()):
        left, top = index % 2 * width + 15, index // 2 * height + 6
        draw.text((left, top), folder, fill=_INK, font=font)
        for column, image in enumerate(images[:columns]):
            small = image.copy()
            small.thumbnail((cell - gap, cell - gap), Image.Resampling.LANCZOS)
            if small.mode == "RGBA":
                small = Image.alpha_composite(_chequers(small.size), small)
            sheet.paste(small, (left + column * cell + (cell - gap - small.width) // 2,
                                top + 20 + (cell - gap - small.height) // 2))
    return sheet


def _chequers(size: tuple[int, int], tile: int = 8) -> Image.Image:
    y, x = np.mgrid[:size[1], :size[0]]
    grey = np.where((x // tile + y // tile) % 2, 236, 252).astype(np.uint8)
    return Image.fromarray(grey).convert("RGBA")


def save(image: Image.Image, path: Path) -> None:
    """Writes a PNG whole or not at all. Raises InputError where it cannot be written."""
    with whole_file(path) as partial:
        image.save(partial, format="PNG")
    print(f"wrote {path}")
