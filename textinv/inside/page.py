"""Single-file pages that need no network, readable in light and dark mode and on a phone: the style, and the
few pieces of HTML that the pages of this folder share.
"""
from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from weights.files import atomic_write

STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --soft: #5d6675; --paper: #fbfaf8; --card: #ffffff;
        --line: #e3e0da; --accent: #b93a08; --good: #1a7f37; --bad: #c01c28; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e3; --soft: #a0a6b0; --paper: #16181d; --card: #1f2228; --line: #363a43;
          --accent: #ff9b6a; --good: #5fd38a; --bad: #ff8080; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; }
p { margin: .4rem 0; max-width: 46rem; } .soft { color: var(--soft); } .small { font-size: .85rem; }
code, .mono { font: .85rem/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
img { display: block; border-radius: 6px; max-width: 100%; } figure { margin: 0; }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .25rem; }
.row { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-start; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem;
        margin: .5rem 0; }
.good { color: var(--good); } .bad { color: var(--bad); } .accent { color: var(--accent); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .6rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""


def document(title: str, body: str, style: str = "") -> str:
    """A whole page; `style` is additional CSS."""
    return (f'<!doctype html>\n<html lang="en"><meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(title)}</title>\n<style>{STYLE}{style}</style>\n<body>\n{body}\n</body></html>\n")


def write_page(path: Path, page: str) -> None:
    """Write a page atomically, creating its folder if needed. Raises InputError if it cannot be written."""
    with atomic_write(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")


def data_url(image: Image.Image) -> str:
    """The image as a data URL of a PNG."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def img(image: Image.Image, text: str, width: int) -> str:
    """An <img> with the image embedded, `width` CSS pixels wide; text: its alt text."""
    return f'<img alt="{html.escape(text)}" width="{width}" src="{data_url(image)}">'


def figure(image: Image.Image, caption: str, width: int) -> str:
    """A <figure> with the image embedded, `width` CSS pixels wide."""
    return (f'<figure style="width:{width}px">{img(image, caption, width)}'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>")


def facts(pairs: Mapping[str, str]) -> str:
    """Names and values as a list."""
    return "<dl>" + "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
                            for name, value in pairs.items()) + "</dl>"
