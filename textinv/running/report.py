"""A run on one page: `runs/NAME/report.html`, one file that needs no network, to look at or to send to a
friend. It is made from the files of the run's folder alone (folder.py lists them, and `textinv evaluate` adds
its own), so it can be made again at any time.
"""
from __future__ import annotations

import base64
import html
import io
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ldm import InputError
from textinv.concept import Concept, fingerprint
from textinv.decoding import read_rgb
from textinv.grids import enlarged
from textinv.options import InversionConfig
from textinv.running.folder import read_metrics, read_record
from textinv.running.options import RunOptions
from textinv.running.usage import sample_commands
from weights.files import atomic_write

INIT_PREVIEW, COMPARISON = "previews/init.png", "comparison.json"       # what `textinv train` adds at its end
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
.large {{ display: flex; gap: 1.2rem; flex-wrap: wrap; }} .large img {{ width: 28rem; max-width: 100%; }}
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


def figure(image: Image.Image, caption: str, side: int | None = None) -> str:
    """A <figure> that holds its image, made smaller to fit `side` if that is given."""
    if side is not None:
        image = ImageOps.contain(image, (side, side))
    file = io.BytesIO()
    image.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    text = html.escape(caption)
    return (f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text}</figcaption></figure>")


def inputs(record: dict[str, Any]) -> str:
    """The training images."""
    figures = []
    for name in record.get("image_hashes", {}):
        try:
            figures.append(figure(read_rgb(name), Path(name).name, THUMBNAIL))
        except Exception:           # decoders fail on changed files with nearly every type of exception
            figures.append(f"<p class=soft>{html.escape(name)} can no longer be read</p>")
    return f"<div class=row>{''.join(figures)}</div>"


def growth(folder: Path) -> str:
    """The previews, one after another."""
    figures = []
    for path in sorted((folder / "previews").glob("step-*.png")):
        with Image.open(path) as image:
            figures.append(figure(image, f"step {int(path.stem.removeprefix('step-'))}"))
    if not figures:
        return "<p class=soft>No previews were made.</p>"
    return f"<div class=strip>{''.join(figures)}</div>"


def result(folder: Path, init: str) -> str:
    """What the word makes at last, large, with what its init word makes from the same seeds; their losses."""
    figures = []
    last = max((folder / "previews").glob("step-*.png"), default=None)
    for path, caption in ((last, "the word"), (folder / INIT_PREVIEW, f"“{init}” from the same seeds")):
        if path is not None and path.exists():
            with Image.open(path) as image:
                figures.append(figure(enlarged(image, max(1, 512 // image.width)), caption))
    shown = f"<div class=large>{''.join(figures)}</div>" if figures else ""
    if not (folder / COMPARISON).exists():          # as of a run that was interrupted
        return shown or "<p class=soft>No previews were made.</p>"
    try:
        content = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
        losses = {f"evaluation loss with {name}": f"{loss:.4f}" for name, loss in content["losses"].items()}
        return shown + rows({**losses, "PSNR of the autoencoder's copies": f"{content['psnr']:.1f} dB"})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / COMPARISON}: damaged ({error}). Remove it.") from error


def running_mean(losses: Tensor) -> Tensor:
    """The mean of the last WINDOW values, at each value of (n); those that are not finite count as 0."""
    sums = torch.cat([torch.zeros(1, dtype=losses.dtype), losses.nan_to_num().cumsum(0)])
    ends = torch.arange(1, len(losses) + 1)
    starts = (ends - WINDOW).clamp(min=0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def chart(title: str, draw: Callable[[Any], None]) -> str:
    """A chart as SVG; `draw` is called with matplotlib's axes."""
    from matplotlib.figure import Figure

    plot = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = plot.add_subplot()
    draw(axes)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("step", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(fontsize=8, frameon=False)
    file = io.StringIO()
    plot.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg"):]


def charts(metrics: list[dict[str, Any]]) -> str:
    """Loss, evaluation loss, norm, and cosine, as SVG."""
    try:
        import matplotlib
    except ImportError:
        return '<p class=soft>For curves: pip install matplotlib, then textinv report and this folder</p>'
    metrics = [line for line in metrics if not line.get("skipped")]
    steps = [line["step"] for line in metrics]
    losses = torch.tensor([line["loss"] for line in metrics], dtype=torch.float64)
    measured = [line for line in metrics if "eval_loss" in line]

    def loss(axes: Any) -> None:
        axes.plot(steps, losses, ".", color=SOFT, markersize=2, label="each step")
        axes.plot(steps, running_mean(losses), color=INK, linewidth=1.5, label=f"mean of {WINDOW} steps")

    def evaluation_loss(axes: Any) -> None:
        axes.plot([line["step"] for line in measured], [line["eval_loss"] for line in measured], color=ACCENT,
                  marker="o", markersize=3)

    def curve(name: str) -> Callable[[Any], None]:
        return lambda axes: axes.plot(steps, [line[name] for line in metrics], color=INK)

    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        plots = [chart("loss (every step has noise of its own)", loss)]
        if measured:
            plots.append(chart("evaluation loss (lower is better)", evaluation_loss))
        plots += [chart("norm of v", curve("v_norm")), chart("cosine of v to its start", curve("cosine"))]
    return f"<div class=charts>{''.join(f'<div>{plot}</div>' for plot in plots)}</div>"


def rows(pairs: dict[str, Any]) -> str:
    """A table of names and values."""
    cells = "".join(f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
                    for name, value in pairs.items())
    return f"<div class=wide><table>{cells}</table></div>"


def folded(summary: str, content: str) -> str:
    """Content that a click shows."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def nearest(metrics: list[dict[str, Any]]) -> str:
    """The vocabulary's nearest words over time; a line where they change."""
    changes: dict[str, str] = {}
    for line in metrics:
        words = ", ".join(map(str, line.get("nearest", ())))
        if words and words != next(reversed(changes.values()), None):
            changes[f"from step {line['step']}"] = words
    return rows(changes) if changes else "<p class=soft>The evaluation loss was not measured.</p>"


def evaluation(folder: Path) -> str:
    """What `textinv evaluate` has measured. Raises InputError if its files are damaged."""
    path = folder / "evaluation/evaluation.json"
    if not path.exists():
        return (f"<p class=soft>Not measured yet: <code>python -m textinv.evaluate --concept "
                f"{html.escape(str(folder))}</code></p>")
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["table"]
        lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                        for row in table)
        with Image.open(path.with_suffix(".png")) as image:
            sheet = figure(image, "training images; then images of each prompt, eight at most")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}). Run python -m textinv.evaluate again.") from error
    return f"<div class=wide><table>{lines}</table></div><div class=wide>{sheet}</div>"


def page(folder: Path) -> str:
    """The whole document. Raises InputError if the folder contains no run."""
    record, metrics, concept = read_record(folder), read_metrics(folder), Concept.load(folder)
    if not metrics:
        raise InputError(f"{folder}: no step has been made yet. Run train.py first.")
    word, last = concept.placeholder, metrics[-1]
    best = min((line for line in metrics if "eval_loss" in line), key=lambda x: x["eval_loss"], default=None)
    facts = f"step {last['step']} of {record['steps']}, started from “{concept.info.get('init', '?')}”"
    if best is not None:
        facts += f"; smallest evaluation loss {best['eval_loss']:.4f} at step {best['step']}"
    commands = "\n".join(sample_commands(folder, word, record.get("style", False)))
    names = (*RunOptions.__dataclass_fields__, *InversionConfig.__dataclass_fields__)
    options = {name: record[name] for name in names if name in record}
    environment = {"word": f"{fingerprint(concept)}, vectors: {len(concept.vectors)}",
                   "model": f"{record.get('weights')}, {record.get('model_hash')}",
                   "effective learning rate": record.get("effective_lr"),
                   "processes": record.get("processes"), "torch": record.get("torch"),
                   "python": platform.python_version(),
                   **{Path(name).name: sha256 for name, sha256 in record.get("image_hashes", {}).items()}}
    sections = {"What the word makes": result(folder, str(record.get("init", "?"))),
                "The images": inputs(record), "How the word grew": growth(folder),
                "Curves": charts(metrics), "Nearest words of the vocabulary": nearest(metrics),
                "Evaluation": evaluation(folder), "Use it": f"<pre>{html.escape(commands)}</pre>",
                "Settings": folded(f"{len(options)} options", rows(options)),
                "Hashes and environment": folded("what made it", rows(environment))}
    body = f"<h1>{html.escape(word)} <span class=soft>{html.escape(folder.resolve().name)}</span></h1>"
    body += f"<p>{html.escape(facts)}</p>"
    body += "".join(f"<h2>{title}</h2>{content}" for title, content in sections.items())
    return PAGE.format(title=html.escape(f"{word} – {folder.resolve().name}"), body=body)


def write(folder: Path) -> Path:
    """Write the report; returns its path."""
    content, path = page(folder), folder / "report.html"
    with atomic_write(path) as partial:
        # names of files that are not UTF-8 are no text
        partial.write_text(content, encoding="utf-8", errors="backslashreplace")
    return path
