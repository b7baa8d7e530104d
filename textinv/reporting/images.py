"""The report's images: the user's own, those generated with the word and, from the same seeds, with its
init word; how the word evolved; and where it attends. Previews are cut into single images, so that a phone
can show them in fewer columns.
"""
from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from ldm import InputError
from textinv.concept import Concept
from textinv.decoding import read_rgb, reason
from textinv.grids import bands, cells, is_grid
from textinv.inside import page
from textinv.reporting.keep import ATTENTION, INIT_PREVIEW
from textinv.running.run import PREVIEW_COLUMNS, PREVIEW_PROMPTS

THUMBNAIL = 320         # pixels, twice the size on the page
MAX_GROWTH = 12         # maximum number of previews that show how the word evolved
BARS = 48               # numbers of a vector that its card shows as bars
NONE = '<p class="soft">No previews were made.</p>'


def story(folder: Path, record: dict[str, Any], concept: Concept, last: int) -> str:
    """The user's images -> the word -> what it generates. last: the run's last step."""
    arrow = '<div class="arrow" aria-hidden="true">→</div>'
    return (f'<div class="story"><section><h2>Your images</h2>{inputs(record)}</section>{arrow}'
            f"<section><h2>The word</h2>{card(concept)}</section>{arrow}"
            '<section class="drawn"><h2>What it generates</h2>'
            f"{newest(folder, record, concept.placeholder, last)}</section></div>")


def inputs(record: dict[str, Any]) -> str:
    """The training images, upright and on white."""
    shown = []
    for name in record["image_hashes"]:
        try:
            shown.append(image_tag(ImageOps.contain(read_rgb(name), (THUMBNAIL, THUMBNAIL)),
                                   Path(name).name))
        except Exception:           # decoders raise nearly every type of exception on changed files
            shown.append(f'<p class="soft">{html.escape(Path(name).name)} can no longer be read</p>')
    return images(shown, 2 if len(shown) <= 6 else 3 if len(shown) <= 12 else 5)


def card(concept: Concept) -> str:
    """The word, and some numbers of its first vector as bars."""
    k, width = concept.vectors.shape
    values = concept.vectors[0, torch.linspace(0, width - 1, min(BARS, width)).long()]
    heights = (values / values.abs().max().clamp(min=1e-30) * 50).tolist()
    bars = "".join(f'<rect x="{2 * i}" y="{50 - max(h, 0):.1f}" width="1.2" height="{abs(h):.1f}"/>'
                   for i, h in enumerate(heights))
    long = ' class="long"' * (len(concept.placeholder) > 8)
    return (f'<div class="word-card"><b{long}>{html.escape(concept.placeholder)}</b>'
            f'<svg viewBox="0 0 {2 * len(heights)} 100" preserveAspectRatio="none" aria-hidden="true">{bars}'
            f'</svg><span class="soft small">{k} vector{"s" * (k > 1)} of {width} numbers; everything else '
            f"in the model is unchanged</span></div>")


def newest(folder: Path, record: dict[str, Any], word: str, last: int) -> str:
    """The images of the newest preview, and its step if that is not the last one."""
    found = previews(folder)
    if not found:
        return NONE
    step = max(found)
    return (f'<p class="soft">after step {step}</p>' * (step != last)
            + drawn(found[step], record, word))


def drawn(preview: Path, record: dict[str, Any], word: str) -> str:
    """The images of a preview under their prompts."""
    prompts = [prompt.format(word) for prompt in PREVIEW_PROMPTS[bool(record.get("style"))]]
    sheet = read(preview)
    if not is_grid(sheet, len(prompts), PREVIEW_COLUMNS):         # from another version: shown as is
        return image_tag(sheet, ", ".join(prompts))
    rows = bands(sheet, len(prompts))
    return "".join(f'<p class="prompt">“{html.escape(prompt)}”</p>'
                   + images([image_tag(image, prompt) for image in cells(row, PREVIEW_COLUMNS)],
                            PREVIEW_COLUMNS)
                   for prompt, row in zip(prompts, rows, strict=True))


def pair(folder: Path, record: dict[str, Any], word: str, last: int) -> str:
    """The word's images next to its init word's, from the same seeds; empty if the run kept none of the
    latter. last: the run's last step."""
    if not (folder / INIT_PREVIEW).exists():
        return ""
    sides = (newest(folder, record, word, last),
             drawn(folder / INIT_PREVIEW, record, str(record.get("init", "?"))))
    return ('<p class="soft">The word, and the word it started from, in the same prompts with the same '
            'seeds.</p><div class="pair">'
            + "".join(f"<section>{side}</section>" for side in sides) + "</div>")


def growth(folder: Path) -> str:
    """The previews over the steps; if there are many, evenly spaced ones including the first and the last."""
    found = list(previews(folder).items())
    if not found:
        return NONE
    places = torch.linspace(0, len(found) - 1, min(MAX_GROWTH, len(found))).round().long().tolist()
    figures = []
    for step, path in (found[i] for i in places):
        caption = f"step {step}"
        figures.append(f"<figure>{image_tag(read(path), caption)}<figcaption>{caption}</figcaption></figure>")
    note = f'<p class="soft">{len(places)} of {len(found)} previews.</p>' * (len(found) > len(places))
    return f'{note}<div class="growth">{"".join(figures)}</div>'


def attention(folder: Path) -> str:
    """Where each token of a prompt attends; empty if the run kept no such image."""
    if not (folder / ATTENTION).exists():
        return ""
    return ('<p class="soft">The cross-attention of each token: bright where it attends, with its share of '
            'all attention.</p><div class="sheet">'
            f'{image_tag(read(folder / ATTENTION), "where the tokens attend")}</div>')


def previews(folder: Path) -> dict[int, Path]:
    """The previews of the word by step, in order."""
    steps = {int(match[1]): path for path in (folder / "previews").glob("step-*.png")
             if (match := re.fullmatch(r"step-(\d+)", path.stem))}
    return dict(sorted(steps.items()))


def read(path: Path) -> Image.Image:
    """Read an image that the run wrote. Raises InputError if it is damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.convert("RGB")
    except Exception as error:          # decoders raise nearly every type of exception on broken files
        raise InputError(f"{path}: damaged ({reason(error)}). Remove it.") from error


def images(tags: Sequence[str], across: int) -> str:
    """Images in columns of equal width."""
    return f'<div class="images" style="--across: {across}">{"".join(tags)}</div>'


def image_tag(image: Image.Image, caption: str) -> str:
    """An <img> that embeds its image and fills its container."""
    text = html.escape(caption)
    return f'<img alt="{text}" src="{page.data_url(image)}">'
