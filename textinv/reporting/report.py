"""A run on one page: `runs/NAME/report.html`, one file that needs no network and runs no code, to look at or
send to a friend. First come the images, the word and what it generates; then how it was learned; last the
settings. It is built only from files in the run's folder (folder.py and keep.py list them, and `textinv
evaluate` adds its own), so it can be rebuilt at any time.
"""
from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from ldm import InputError
from textinv.concept import Concept, fingerprint
from textinv.initialization import names_file
from textinv.inside import page, svg
from textinv.options import InversionConfig
from textinv.reporting import charts, images, measured
from textinv.running.folder import read_metrics, read_record
from textinv.running.options import RunOptions
from textinv.running.usage import sample_commands
from weights.files import atomic_write

PATHS = ("images", "templates", "init", "weights", "vocab", "out")        # options that may be paths
CSS = """
.lead { font-size: 1.1rem; } h1 .word { color: var(--accent); }
.story { display: grid; grid-template-columns: minmax(0, 4fr) auto minmax(7.5rem, 2fr) auto minmax(0, 10fr);
         gap: 1rem; margin: 1.6rem 0 .6rem; }
.story h2 { margin: 0 0 .6rem; } .story > section { min-width: 0; }
.arrow { font-size: 2rem; color: var(--soft); text-align: center; align-self: center; }
.word-card { text-align: center; background: var(--card); border: 2px solid var(--accent);
             border-radius: 12px; padding: 1rem .8rem; overflow-wrap: anywhere; }
.word-card b { font-size: 2.4rem; line-height: 1.3; display: block; }
.word-card b.long { font-size: 1.1rem; }
.word-card svg { width: 100%; height: 3rem; display: block; margin: .4rem 0; }
.word-card rect { fill: var(--accent); }
.images { display: grid; gap: .5rem; grid-template-columns: repeat(var(--across), minmax(0, 1fr)); }
.images img { width: 100%; height: auto; aspect-ratio: 1; object-fit: cover; }
.images p { overflow-wrap: anywhere; }
.prompt { margin: .9rem 0 .35rem; } .prompt:first-of-type { margin-top: 0; }
.pair { display: grid; gap: 1.4rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.growth { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); }
.growth img, .sheet img, .sheet figure { width: 100%; height: auto; }
.bars { display: grid; grid-template-columns: minmax(5rem, max-content) minmax(0, 1fr) max-content;
        gap: .35rem .8rem; align-items: center; max-width: 46rem; margin: .8rem 0; }
.bars > :nth-child(3n + 1) { overflow-wrap: anywhere; }
.bar { height: .7rem; border-radius: 4px; background: var(--soft); } .bar.own { background: var(--accent); }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
td, th { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
         vertical-align: top; overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem;
      white-space: pre-wrap; overflow-wrap: anywhere; font: .9rem/1.5 ui-monospace, monospace; }
details { margin: .6rem 0; } summary { cursor: pointer; } .sheet { max-width: 46rem; }
.rows { display: grid; gap: .3rem 1.6rem; margin-top: 1.2rem;
        grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
.rows img { width: 100%; height: auto; } .rows .prompt { margin: .3rem 0; }
@media (max-width: 54rem) {
  .story { grid-template-columns: minmax(0, 1fr); gap: .8rem; }
  .story .images { --across: 3 !important; } .story .drawn .images { --across: 4 !important; }
  .arrow { transform: rotate(90deg); line-height: 1; }
  dl { grid-template-columns: minmax(0, 1fr); } dd { margin-bottom: .4rem; }
  table.stacked tr:first-child { display: none; } table.stacked td { display: block; border: 0; padding: 0; }
  table.stacked td:last-child { border-bottom: 1px solid var(--line); padding-bottom: .5rem; }
  table.stacked td:first-child { font-weight: 600; padding-top: .5rem; }
  table.stacked td[data-of]:not(:empty)::before { content: attr(data-of) ": "; color: var(--soft); } }
@media (max-width: 32rem) {
  .story .drawn .images { --across: 2 !important; }
  .growth { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .7rem; } }
"""


def report_page(folder: Path) -> str:
    """The whole document. Raises InputError if the folder contains no run."""
    record, metrics, concept = read_record(folder), read_metrics(folder), Concept.load(folder)
    if not metrics:
        raise InputError(f"{folder}: no completed steps yet. Run train.py first.")
    word, name = concept.placeholder, folder.resolve().name
    commands = "\n".join(sample_commands(folder, word, record.get("style", False)))
    names = (*RunOptions.__dataclass_fields__, *InversionConfig.__dataclass_fields__)
    options = {name: record[name] for name in names if name in record}
    options |= {name: without_folders(name, options[name]) for name in PATHS if options.get(name)}
    compared = measured.read_comparison(folder)
    last = metrics[-1]["step"]
    sections = {f"Compared with {start(record)}": images.pair(folder, record, word, last)
                + measured.losses(compared, word),
                "How the word grew": images.growth(folder),
                "Curves": charts.curves(metrics, compared["losses"], word),
                "Evaluation": measured.evaluation(folder, fingerprint(concept)),
                "Inside the vocabulary": measured.vocabulary(folder, metrics),
                "Where the word attends": images.attention(folder),
                "Use it": f"<pre>{html.escape(commands)}</pre>",
                "Settings": folded(f"{len(options)} options", options)
                + folded("Hashes and environment", environment(record, concept))}
    body = (f'<h1><span class="word">{html.escape(word)}</span> <span class="soft">{html.escape(name)}</span>'
            f'</h1><p class="lead">{html.escape(lead(record, metrics))}</p>'
            + images.story(folder, record, concept, last)
            + "".join(f"<h2>{html.escape(title)}</h2>{content}"
                      for title, content in sections.items() if content))
    return page.document(f"{word} – {name}", body, svg.CSS + CSS)


def lead(record: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """Summarize the page in one sentence."""
    n, last = len(record["image_hashes"]), metrics[-1]["step"]
    steps = f"{last} steps" if last >= record["steps"] else f"{last} of {record['steps']} steps"
    return f"A new word, learned from {n} image{'s' * (n != 1)} in {steps}, starting from {start(record)}."


def start(record: dict[str, Any]) -> str:
    """Describe what the word started from."""
    init = without_folders("init", record.get("init", "?"))
    return {"auto": "an encoder's prediction", "random": "random numbers"}.get(init, f"“{init}”")


def without_folders(name: str, value: Any) -> str:
    """An option's value; of a path the last part, since a report may be sent to someone. Init words, and hub
    ids as weights, stay whole."""
    text = str(value)
    is_path = {"init": names_file(text), "weights": Path(text).is_absolute() or text.startswith(("~", "."))}
    return Path(text).name if is_path.get(name, True) else text


def environment(record: dict[str, Any], concept: Concept) -> dict[str, Any]:
    """What the word depends on besides the options, by name."""
    return {"word": f"{fingerprint(concept)}, vectors: {len(concept.vectors)}",
            "model": f"{without_folders('weights', record.get('weights'))}, {record.get('model_hash')}",
            "effective learning rate": record.get("effective_lr"),
            "processes": record.get("processes"), "torch": record.get("torch"),
            **{Path(name).name: sha256 for name, sha256 in record["image_hashes"].items()}}


def folded(summary: str, pairs: dict[str, Any]) -> str:
    """Names and values, collapsed until clicked."""
    texts = {str(name): str(value) for name, value in pairs.items()}
    return f"<details><summary>{html.escape(summary)}</summary>{page.facts(texts)}</details>"


def write(folder: Path) -> Path:
    """Write the report; returns its path. Raises InputError if the folder contains no run."""
    content, path = report_page(folder), folder / "report.html"
    with atomic_write(path) as partial:
        # file names that are not UTF-8 cannot be encoded as is
        partial.write_text(content, encoding="utf-8", errors="backslashreplace")
    return path
