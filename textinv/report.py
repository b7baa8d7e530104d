"""A run on one page: `runs/NAME/report.html`, one file that needs no network, to look at or to send to a
friend.

    python -m textinv.report runs/teapot

train.py writes it at the end. It is made from the files of the run's folder alone (folder.py lists them, and
evaluate.py adds its own), so it can be made again at any time.
"""
from __future__ import annotations

import argparse
import base64
import html
import io
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from ldm import InputError
from ldm.errors import command
from ldm.files import whole_file
from textinv.concept import Concept, fingerprint
from textinv.config import InversionConfig, read_record
from textinv.pictures import read_rgb
from textinv.prompts import use_prompts
from textinv.scores import cells, from_json

THUMBNAIL = 224         # pixels, twice the size on the page
WINDOW = 25             # steps of the running mean over the losses
INK, SOFT, ACCENT = "#1f2430", "#b9c0cc", "#c2410c"

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1f2430; background: #fbfaf8; margin: 0 auto;
        max-width: 60rem; padding: 1.5rem 1rem 4rem; }}
h1 {{ font-size: 1.7rem; margin: 0; }} h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .6rem; }}
p {{ margin: .3rem 0; }} .soft {{ color: #667085; }}
img {{ border-radius: 6px; display: block; }} figure {{ margin: 0; }}
figcaption {{ font-size: .8rem; color: #667085; margin-top: .2rem; }}
.row {{ display: flex; gap: .7rem; flex-wrap: wrap; }}
.strip {{ display: flex; gap: .9rem; overflow-x: auto; padding-bottom: .6rem; }}
.strip img {{ height: 9rem; width: auto; }} .row img {{ height: 7rem; width: auto; max-width: 100%; }}
.charts {{ display: grid; gap: 1rem;
           grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }}
.charts svg {{ width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }} .wide img {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
td, th {{ text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #e5e2dc;
          vertical-align: top; }}
td {{ overflow-wrap: anywhere; }}
code, pre {{ font: .9rem ui-monospace, monospace; }}
pre {{ background: #fff; border: 1px solid #e5e2dc; border-radius: 6px; padding: .7rem; overflow-x: auto; }}
</style>
{body}
</html>
"""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """A run's lines, one a step. Raises InputError if they cannot be read."""
    try:
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}/metrics.jsonl: cannot be read ({error}): "
                         "give the folder of a run") from error


def picture(image: Image.Image, side: int | None, caption: str) -> str:
    """An <img> that holds its picture, made smaller to fit `side` if that is given."""
    if side is not None:
        image = ImageOps.contain(image, (side, side))
    file = io.BytesIO()
    image.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    text = html.escape(caption)
    return (f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text}</figcaption></figure>")


def inputs(record: dict[str, Any]) -> str:
    figures = []
    for name in record.get("pictures", {}):
        try:
            figures.append(picture(read_rgb(name), THUMBNAIL, Path(name).name))
        except Exception:           # decoders fail on changed files with nearly every type of exception
            figures.append(f"<p class=soft>{html.escape(name)} can no longer be read</p>")
    return f"<div class=row>{''.join(figures)}</div>"


def growth(folder: Path) -> str:
    """The previews, one after another."""
    figures = []
    for path in sorted((folder / "previews").glob("step-*.png")):
        with Image.open(path) as image:
            figures.append(picture(image, None, f"step {int(path.stem.removeprefix('step-'))}"))
    if not figures:
        return "<p class=soft>No previews were made.</p>"
    return f"<div class=strip>{''.join(figures)}</div>"


def charts(metrics: list[dict[str, Any]]) -> str:
    """Loss and loss on the fixed batch, norm, and cosine, as SVG."""
    try:
        import matplotlib
    except ImportError:
        return '<p class=soft>For curves: pip install -e ".[eval]", then python -m textinv.report</p>'
    from matplotlib.figure import Figure

    steps = [line["step"] for line in metrics]
    losses = torch.tensor([line["loss"] for line in metrics], dtype=torch.float64)
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), losses.nan_to_num().cumsum(0)])
    ends = torch.arange(1, len(losses) + 1)
    starts = (ends - WINDOW).clamp(min=0)
    mean = (sums[ends] - sums[starts]) / (ends - starts)
    looks = [line for line in metrics if "fixed_loss" in line]

    def chart(title: str, draw) -> str:
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_xlabel("step", fontsize=9, color=INK)
        axes.tick_params(labelsize=8, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(fontsize=8, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        return file.getvalue()[file.getvalue().index("<svg"):]

    def loss(axes) -> None:
        axes.plot(steps, losses, ".", color=SOFT, markersize=2, label="each step")
        axes.plot(steps, mean, color=INK, linewidth=1.5, label=f"mean of {WINDOW} steps")

    def fixed(axes) -> None:
        axes.plot([line["step"] for line in looks], [line["fixed_loss"] for line in looks], color=ACCENT,
                  marker="o", markersize=3)

    drawn = [("loss (every step has noise of its own)", loss)]
    drawn += [("loss on the fixed batch (lower is better)", fixed)] * bool(looks)
    drawn += [(title, lambda axes, name=name: axes.plot(steps, [line[name] for line in metrics], color=INK))
              for title, name in (("norm of v", "v_norm"), ("cosine of v to its start", "cosine"))]
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        return f"<div class=charts>{''.join(f'<div>{chart(*one)}</div>' for one in drawn)}</div>"


def rows(pairs: dict[str, Any]) -> str:
    cells = "".join(f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
                    for name, value in pairs.items())
    return f"<div class=wide><table>{cells}</table></div>"


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def nearest(metrics: list[dict[str, Any]]) -> str:
    """The vocabulary's nearest words over time; a line where they change."""
    changes: dict[str, str] = {}
    for line in metrics:
        words = ", ".join(line.get("nearest", ()))
        if words and words != next(reversed(changes.values()), None):
            changes[f"from step {line['step']}"] = words
    return rows(changes) if changes else "<p class=soft>The word was not looked at.</p>"


def evaluation(folder: Path) -> str:
    """What textinv.evaluate has measured. Raises InputError if its files are damaged."""
    path = folder / "evaluation/evaluation.json"
    if not path.exists():
        return (f"<p class=soft>Not measured yet: <code>python -m textinv.evaluate --concept "
                f"{html.escape(str(folder))}</code></p>")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        table = cells({word: from_json(one) for word, one in content["results"].items()},
                      content["training_pictures_among_themselves"])
        with Image.open(path.with_suffix(".png")) as image:
            sheet = picture(image, None, "training pictures; then eight pictures of each prompt")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}): run python -m textinv.evaluate again") from error
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                    for row in table)
    return f"<div class=wide><table>{lines}</table></div><div class=wide>{sheet}</div>"


def page(folder: Path) -> str:
    """The whole document. Raises InputError if the folder holds no run."""
    record, metrics, concept = read_record(folder), read_metrics(folder), Concept.load(folder)
    if not metrics:
        raise InputError(f"{folder}: no step has been made yet: run train.py first")
    word, last = concept.placeholder, metrics[-1]
    looks = [line for line in metrics if "fixed_loss" in line]
    best = min(looks, key=lambda line: line["fixed_loss"], default=None)
    facts = f"step {last['step']} of {record['steps']}, begun from “{concept.info.get('init', '?')}”"
    if best is not None:
        facts += f"; smallest loss on the fixed batch {best['fixed_loss']:.4f} at step {best['step']}"
    commands = "\n".join(f'python sample.py "{prompt}" --concept {folder}'
                         for prompt in use_prompts(word, record.get("style", False)))
    options = {name: record[name] for name in InversionConfig.__dataclass_fields__ if name in record}
    environment = {"word": f"{len(concept.vectors)} vectors, {fingerprint(concept)}",
                   "model": f"{record.get('weights')}, {record.get('model_hash')}",
                   "effective learning rate": record.get("effective_lr"),
                   "processes": record.get("processes"), "torch": record.get("torch"),
                   "python": platform.python_version(),
                   **{Path(name).name: sha256 for name, sha256 in record.get("pictures", {}).items()}}
    sections = {"The pictures": inputs(record), "How the word grew": growth(folder),
                "Curves": charts(metrics), "Nearest words of the vocabulary": nearest(metrics),
                "Evaluation": evaluation(folder), "Use it": f"<pre>{html.escape(commands)}</pre>",
                "Settings": folded(f"{len(options)} options", rows(options)),
                "Hashes and environment": folded("what made it", rows(environment))}
    body = f"<h1>{html.escape(word)} <span class=soft>{html.escape(folder.resolve().name)}</span></h1>"
    body += f"<p>{html.escape(facts)}</p>"
    body += "".join(f"<h2>{title}</h2>{content}" for title, content in sections.items())
    return PAGE.format(title=html.escape(f"{word} – {folder.resolve().name}"), body=body)


def write(folder: Path) -> Path:
    """Writes the report and returns its path."""
    content, path = page(folder), folder / "report.html"
    with whole_file(path) as partial:
        partial.write_text(content, encoding="utf-8")
    return path


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m textinv.report", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="of the run")
    print(write(parser.parse_args(argv).folder))


if __name__ == "__main__":
    sys.exit(main())
