"""Contact sheets for checking the small world by eye: captioned images, all sprites, the examples."""
from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from recipe.artwork import Artwork
from recipe.objects import NAMELESS, OBJECTS, SEEN_STYLES, STYLES
from weights.files import atomic_write

_PAPER, _INK = (250, 250, 248), (30, 30, 34)


def enlarged(pixels: np.ndarray, zoom: int = 2) -> Image.Image:
    """The image (y x rgb, uint8) with each pixel shown as a square of zoom x zoom."""
    return ImageOps.scale(Image.fromarray(pixels), zoom, Image.Resampling.NEAREST)


def contact_sheet(images: Sequence[tuple[np.ndarray, str]], columns: int = 12,
                  zoom: int = 2) -> Image.Image:
    """Images (y x rgb, uint8), each with its caption below."""
    side = zoom * images[0][0].shape[0]
    width, height = side + 8, side + 64
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (pixels, caption) in enumerate(images):
        x, y = index % columns * width + 4, index // columns * height + 4
        sheet.paste(enlarged(pixels, zoom), (x, y))
        draw.multiline_text((x, y + side + 2), textwrap.fill(caption, 22), fill=_INK, spacing=1)
    return sheet


def catalog(artwork: Artwork, columns: int = 6, side: int = 56) -> Image.Image:
    """Every object's sprites in all styles, on gray; held-out objects are marked with their init word.
    Nameless sprites follow, by codepoint."""
    rows = [(thing.name + (f" (held out, init {thing.init})" if thing.init else ""), thing.name, STYLES)
            for thing in OBJECTS.values()] + [(code, code, SEEN_STYLES) for code in NAMELESS]
    width, height = len(STYLES) * side + 16, side + 18
    sheet = Image.new("RGB", (columns * width, -(-len(rows) // columns) * height), (196, 204, 212))
    draw = ImageDraw.Draw(sheet)
    for index, (title, name, styles) in enumerate(rows):
        x, y = index % columns * width + 4, index // columns * height
        draw.text((x, y + 2), title, _INK)
        for column, style in enumerate(styles):
            sprite = artwork.sprite(style, name).copy()
            sprite.thumbnail((side - 4, side - 4), Image.Resampling.LANCZOS)
            sheet.paste(sprite, (x + column * side, y + 17), sprite)
    return sheet


def by_folder(images_of: dict[str, list[Image.Image]], columns: int = 5, cell: int = 110) -> Image.Image:
    """Two folders per row, each named above its images, `columns` per line; cut-outs on a checkerboard."""
    width, gap = columns * cell + 20, 6
    folders = list(images_of.items())
    rows = [folders[i:i + 2] for i in range(0, len(folders), 2)]
    heights = [26 + cell * max(-(-len(images) // columns) for _, images in row) for row in rows]
    sheet = Image.new("RGB", (2 * width + 10, sum(heights) + 10), _PAPER)
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(14), 6
    for row, height in zip(rows, heights, strict=True):
        for left, (folder, images) in zip((15, 15 + width), row, strict=False):
            draw.text((left, top), folder, fill=_INK, font=font)
            for index, image in enumerate(images):
                small = image.copy()
                small.thumbnail((cell - gap, cell - gap), Image.Resampling.LANCZOS)
                if small.mode == "RGBA":
                    small = Image.alpha_composite(_checkers(small.size), small)
                sheet.paste(small, (left + index % columns * cell + (cell - gap - small.width) // 2,
                                    top + 20 + index // columns * cell + (cell - gap - small.height) // 2))
        top += height
    return sheet


def _checkers(size: tuple[int, int], tile: int = 8) -> Image.Image:
    y, x = np.mgrid[:size[1], :size[0]]
    gray = np.where((x // tile + y // tile) % 2, 236, 252).astype(np.uint8)
    return Image.fromarray(gray).convert("RGBA")


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG, or a JPEG if it is called .jpg, atomically. Raises InputError if it cannot be written."""
    with atomic_write(path) as partial:
        if path.suffix == ".jpg":
            image.convert("RGB").save(partial, format="JPEG", quality=85)
        else:
            image.save(partial, format="PNG")
    print(f"wrote {path}")
