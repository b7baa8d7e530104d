"""A contact sheet: rows of images, each with a line of text above it."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from textinv.editing.inputs import crop

_GAP, _TEXT = 4, 12         # pixels: between images, and the height of the letters


@dataclass(frozen=True)
class Row:
    """Images under a line of text; a line wider than the sheet is cut off."""
    title: str
    images: Sequence[Image.Image]


def sheet(rows: Sequence[Row], side: int = 128) -> Image.Image:
    """The rows stacked on white, with every image's middle square at `side` x `side` pixels."""
    width = max(len(row.images) for row in rows) * (side + _GAP) + _GAP
    height = side + _TEXT + 3 * _GAP
    page = Image.new("RGB", (width, len(rows) * height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_TEXT)
    for i, row in enumerate(rows):
        draw.text((_GAP, i * height + _GAP), row.title, fill="black", font=font)
        for j, image in enumerate(row.images):
            square = crop(image.convert("RGB"), side)
            page.paste(square, (_GAP + j * (side + _GAP), i * height + _TEXT + 2 * _GAP))
    return page
