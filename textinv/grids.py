"""Image grids, and PNG files that carry the recipe they were made with."""
from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from ldm import InputError
from weights.files import atomic_write, file_to_write

_KEY = "textinv"        # key of the text chunk that holds the recipe
_GAP = 2
_TITLE = 22             # pixels: height of the title line above a row


def grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Images of one size in rows of `columns`, on white."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + _GAP), i // columns * (height + _GAP)))
    return sheet


def titled(rows: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Rows of images of one size, each under its title, on white."""
    width, height = next(iter(rows.values()))[0].size
    columns, pitch = max(map(len, rows.values())), _TITLE + height + _GAP
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, len(rows) * pitch), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for y, (title, images) in enumerate(rows.items()):
        draw.text((_GAP, y * pitch + _GAP), title, fill="black", font=font)
        for x, image in enumerate(images):
            sheet.paste(image, (x * (width + _GAP), y * pitch + _TITLE))
    return sheet


def is_grid(sheet: Image.Image, rows: int, columns: int) -> bool:
    """Whether the sheet has the size of a `grid` with this many rows and columns."""
    width, height = sheet.width + _GAP, sheet.height + _GAP
    return width % columns == height % rows == 0 and min(width // columns, height // rows) > _GAP


def bands(sheet: Image.Image, rows: int, *, titles: bool = False) -> list[Image.Image]:
    """The rows of a sheet made by `grid` or, with titles, by `titled`; the titles are cut off."""
    pitch = sheet.height // rows if titles else (sheet.height + _GAP) // rows
    top = _TITLE if titles else 0
    return [sheet.crop((0, i * pitch + top, sheet.width, (i + 1) * pitch - _GAP)) for i in range(rows)]


def cells(band: Image.Image, columns: int) -> list[Image.Image]:
    """The images in one row of a `grid`."""
    pitch = (band.width + _GAP) // columns
    return [band.crop((i * pitch, 0, (i + 1) * pitch - _GAP, band.height)) for i in range(columns)]


def enlarged(image: Image.Image, scale: int) -> Image.Image:
    """The image with each pixel enlarged to a square of scale x scale pixels."""
    return image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST)


def png_path(out: str) -> Path:
    """The path of an image to write, from the command line. Raises InputError if it does not end in .png, or
    cannot be written."""
    path = Path(os.path.expanduser(out))
    if path.suffix.lower() != ".png":
        raise InputError(f"`out` is {out}, but images are written as PNG, which holds their recipe. Give a "
                         "name that ends in .png.")
    file_to_write(path)
    return path


def save_png(image: Image.Image, path: Path, recipe: dict[str, Any] | None = None) -> None:
    """Write the image atomically, with its recipe as JSON in a text chunk.
    Raises InputError if it cannot be written."""
    chunks = PngImagePlugin.PngInfo()
    if recipe is not None:
        chunks.add_text(_KEY, json.dumps(recipe))
    with atomic_write(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(partial, format="PNG", pnginfo=chunks)


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the recipe of a PNG that `save_png` wrote. Raises InputError if the file has none."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            recipe = json.loads(image.info[_KEY])
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Give a PNG written by sample.py.") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has too many pixels to be read. Use one of its single images.") from error
    except (OSError, KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: contains no recipe. Give a PNG written by sample.py.") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: its recipe is damaged. Give a PNG written by sample.py.")
    return recipe
