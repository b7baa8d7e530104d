"""Attention maps as images: a sheet with the image first, then the image again for each token of the prompt,
bright where the token looks and dark elsewhere. All tokens of a sheet share one scale, so bright means high
attention, not just more than elsewhere; below each is its share of all attention.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from textinv.inside.attention import AttentionMaps

SIDE, GAP, LINE = 144, 8, 20                    # pixels: a cell's image, between cells, a line of text
DARK = 0.12                                     # brightness where a token does not look at all
INK, SOFT = "#1f2430", "#667085"


def overlay(image: Image.Image, light: Tensor, side: int = SIDE) -> Image.Image:
    """The image, `side` pixels high, with brightness `light` (h w) in [0, 1], where 0 is nearly dark."""
    size = (round(side * image.width / image.height), side)
    mask = Image.fromarray(light.float().numpy()).resize(size, Image.Resampling.BICUBIC)
    brightness = DARK + (1 - DARK) * np.asarray(mask).clip(0, 1)                         # side side
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return Image.fromarray((pixels * brightness[..., None]).round().astype(np.uint8))


def sheet(attended: AttentionMaps, *, over_steps: int = 0, columns: int | None = None) -> Image.Image:
    """One row, the mean over all timesteps; or `over_steps` rows, each the mean over a part of the steps,
    from noise to image. columns: maximum number of cells in a row; None puts all of a prompt in one row."""
    steps = len(attended.maps)
    chunks = torch.arange(steps).tensor_split(max(1, min(over_steps, steps)))
    rows = [attended.maps[chunk].mean(dim=0)[attended.own] for chunk in chunks]          # n h w each
    scale = max((row.max().item() for row in rows if len(row)), default=1.0)     # an empty prompt has none
    words = attended.tokens[attended.own]
    cells = []
    for row, chunk in zip(rows, chunks, strict=True):
        label = "" if over_steps == 0 else f"steps {chunk[0] + 1} to {chunk[-1] + 1}"
        cells.append([(overlay(attended.image, torch.ones(1, 1)), "the image", label)]
                     + [(overlay(attended.image, each / scale), word, f"{each.mean():.1%}")
                        for word, each in zip(words, row, strict=True)])
    if columns is not None:
        cells = [row[i:i + columns] for row in cells for i in range(0, len(row), columns)]
    return labeled_grid(cells)


def labeled_grid(rows: Sequence[Sequence[tuple[Image.Image, str, str]]]) -> Image.Image:
    """Rows of (image, title, note) on white, with the texts below each image."""
    width = max(image.width for row in rows for image, _, _ in row) + GAP
    height = max(image.height for row in rows for image, _, _ in row) + GAP + 2 * LINE
    canvas = Image.new("RGB", (GAP + width * max(map(len, rows)), GAP + height * len(rows)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for y, row in enumerate(rows):
        for x, (image, title, note) in enumerate(row):
            left, top = GAP + x * width, GAP + y * height
            canvas.paste(image, (left, top))
            draw.text((left, top + image.height + 2), _printable(title), INK, font)
            draw.text((left, top + image.height + LINE), _printable(note), SOFT, font)
    return canvas


def _printable(text: str, most: int = 18) -> str:
    """Shorten the text to a cell's width."""
    return text if len(text) <= most else text[:most - 1] + "…"
