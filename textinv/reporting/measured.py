"""The report's numbers: the losses of the word and of what it is compared with, the evaluation, and the
word's path through the vocabulary.
"""
from __future__ import annotations

import html
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ldm import InputError
from textinv.grids import bands
from textinv.inside.map_page import map_section
from textinv.inside.page import facts
from textinv.reporting.images import image_tag
from textinv.reporting.keep import COMPARISON, read_maps


def read_comparison(folder: Path) -> dict[str, Any]:
    """`losses` by name and `psnr` in dB; no losses, and NaN, for a run that has not finished. Raises
    InputError if the file is damaged."""
    path = folder / COMPARISON
    if not path.exists():
        return {"losses": {}, "psnr": math.nan}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"losses": {str(name): float(loss) for name, loss in content["losses"].items()},
                "psnr": float(content["psnr"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}). Remove it.") from error


def losses(compared: Mapping[str, Any], word: str) -> str:
    """The evaluation losses as bars, if there are any, and how well the autoencoder copies the images; empty
    if nothing was measured."""
    psnr = f"PSNR of the autoencoder's reconstructions of your images: {compared['psnr']:.1f} dB."
    if not compared["losses"]:
        return "" if math.isnan(compared["psnr"]) else f'<p class="soft">{psnr}</p>'
    finite = {name: loss for name, loss in compared["losses"].items() if math.isfinite(loss)}
    longest = max(finite.values(), default=0) or 1
    bars = "".join(f"<span>{html.escape(name)}</span>"
                   f'<div class="bar{" own" * (name == word)}" '
                   f'style="width: {100 * finite.get(name, 0) / longest:.1f}%"></div><span>{loss:.4f}</span>'
                   for name, loss in compared["losses"].items())
    best = min(finite, key=finite.__getitem__, default=None)
    verdict = (f"Of these, “{best}” fits the images best." if best == word else
               f"“{best}” fits the images as well or better: the word has not learned what they show.")
    return ('<p class="prompt">Evaluation loss on your images with each of these in the prompts; lower is '
            'better.</p>'
            f'<div class="bars">{bars}</div><p>{html.escape(verdict)} '
            f'<span class="soft">{psnr}</span></p>')


def vocabulary(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> str:
    """The map of each vector; if the run kept none, the nearest words over time."""
    maps = read_maps(folder)
    if maps:
        return "".join(f"<h3>{html.escape(name)}</h3>" * (len(maps) > 1) + map_section(one)
                       for name, one in maps.items())
    changes: dict[str, str] = {}
    for line in metrics:
        words = ", ".join(map(str, line.get("nearest", ())))
        if words and words != next(reversed(changes.values()), None):
            changes[f"nearest word from step {line['step']}"] = words
    return facts(changes) if changes else '<p class="soft">The evaluation loss was not measured.</p>'


def evaluation(folder: Path, concept: str) -> str:
    """What `textinv evaluate` measured for the word with this fingerprint, with its images under their
    prompts. Raises InputError if its files are damaged."""
    path = folder / "evaluation/evaluation.json"
    command = f"<code>python -m textinv.evaluate --concept {html.escape(shlex.quote(str(folder)))}</code>"
    if not path.exists():
        return f'<p class="soft">Not measured yet: {command}</p>'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("concept", concept) != concept:
            return f'<p class="soft">Not measured since the run continued: {command}</p>'
        with Image.open(path.with_suffix(".png"), formats=["PNG"]) as image:
            titles = content.get("sheet")               # missing in files from earlier versions
            rows = bands(image, len(titles), titles=True) if titles else [image.copy()]
        titles = titles or ["training images; then images of each prompt"]
        sheet = "".join(f'<section><p class="prompt">{html.escape(title)}</p>{image_tag(row, title)}'
                        "</section>" for title, row in zip(titles, rows, strict=True))
        return table(content["table"]) + f'<div class="rows">{sheet}</div>'
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}). Run python -m textinv.evaluate again.") from error


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row and column are titles; on a phone, one block per row."""
    titles, *body = rows
    lines = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    for row in body:
        cells = [f"<td>{html.escape(row[0].replace('{}', '…'))}</td>"]
        cells += [f'<td data-of="{html.escape(title)}">{html.escape(cell)}</td>'
                  for title, cell in zip(titles[1:], row[1:], strict=True)]
        lines += f"</tr><tr>{''.join(cells)}"
    return f'<table class="stacked"><tr>{lines}</tr></table>'
