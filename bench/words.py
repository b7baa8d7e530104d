"""`python -m bench words`: compare the methods of learning a word.
Each method learns each of some objects of examples/ from several seeds with train.py, and textinv.evaluate
measures every word; the table goes into RESULTS.md.

It takes hours on a CPU and can be stopped at any time: finished results are not computed again.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import train
from bench.timing import machine
from ldm import InputError
from recipe.objects import HELD_OUT
from recipe.shots import THINGS
from textinv.commands import evaluate
from textinv.evaluation.points import interval as mean_interval
from textinv.running.folder import read_metrics
from weights.files import atomic_write

METHODS = {
    "paper": ["--preset", "paper"],
    "plain-400": ["--steps", "400"],
    "plain-200": ["--steps", "200"],
    "plain-100": ["--steps", "100"],
    "lr-0.01-100": ["--steps", "100", "--lr", "0.01"],
    "dvar": ["--steps", "5000", "--stop", "dvar", "--eval-every", "25"],
    "fixed-norm-200": ["--steps", "200", "--fix-norm", "--regularize", "2.55e-5"],
    "cross-init-200": ["--steps", "200", "--cross-init"],
    "cross-init-100": ["--steps", "100", "--cross-init"],
    "auto-200": ["--steps", "200", "--init", "auto"],
    "auto-60": ["--steps", "60", "--init", "auto"],
    "auto-20": ["--steps", "20", "--init", "auto"],
}
OBJECTS = ["teapot", "fox", "mushroom", "pineapple", "panda", "cactus"]


@dataclass(frozen=True)
class Metrics:
    """Metrics of one word. Shares are relative to copies of the training images, and to the init word."""
    name: str                   # of the object
    reconstruction: float
    editability: float
    reconstruction_share: float
    editability_share: float
    init_reconstruction: float
    steps: int
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME",
                        help=f"some of {', '.join(METHODS)} (default: all)")
    parser.add_argument("--objects", nargs="+", choices=list(THINGS), default=OBJECTS, metavar="NAME",
                        help=f"objects in examples/ (default: {' '.join(OBJECTS)})")
    parser.add_argument("--seeds", type=int, default=3, help="words per object (default: %(default)s)")
    parser.add_argument("-n", type=int, default=64, help="images per prompt (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/words"), help="(default: %(default)s)")


def main(args: argparse.Namespace) -> None:
    """The command."""
    if "auto" in METHODS[first := args.methods[0]]:
        raise InputError(f"--methods: {first} is the first, whose init word is measured too, but it has "
                         "none. Name another method first.")
    with contextlib.redirect_stdout(sys.stderr):            # the commands' output is not the result
        metrics = {method: [metrics_of(method, name, seed, args) for name in args.objects
                            for seed in range(args.seeds)] for method in args.methods}
    print(f"{machine('cpu')}\n"
          f"{len(args.objects)} objects ({', '.join(args.objects)}), {args.seeds} seeds, "
          f"{args.n} images per prompt\n\n{table(metrics)}\n{differences(metrics)}", end="")


def metrics_of(method: str, name: str, seed: int, args: argparse.Namespace) -> Metrics:
    """Learn a word, unless it already exists, and measure it. Raises InputError if either fails."""
    def folder_of(method: str, seed: int) -> Path:
        return args.folder / method / f"{name}-{seed}"

    def results(folder: Path) -> dict:
        return json.loads((folder / "evaluation/evaluation.json").read_text(encoding="utf-8"))

    folder = folder_of(method, seed)
    learn(folder, method, name, seed)
    # the init word's images depend on neither method nor seed: they are generated with the first word
    first = folder_of(args.methods[0], 0)
    succeed(evaluate.main(["--concept", str(folder), "-n", str(args.n), "--dtype", "auto",
                           "--device", "cpu", *["--baseline"] * (folder == first)]))
    content = results(folder)
    word, init = content["results"]["*"], results(first)["results"][HELD_OUT[name].init]
    reconstruction, editability = (word[which]["value"] for which in ("reconstruction", "editability"))
    return Metrics(name, reconstruction, editability,
                   reconstruction / content["training_similarity"],
                   editability / init["editability"]["value"], init["reconstruction"]["value"],
                   read_metrics(folder)[-1]["step"],
                   json.loads((folder / "seconds.json").read_text(encoding="utf-8")))


def learn(folder: Path, method: str, name: str, seed: int) -> None:
    """Run train.py from start to end without interruption, since its time is one of the results."""
    if (folder / "seconds.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    succeed(train.main(["--images", f"examples/{name}", "--init", HELD_OUT[name].init, "--seed", str(seed),
                        "--device", "cpu", "--out", str(folder), "--preview-every", "0", *METHODS[method]]))
    with atomic_write(folder / "seconds.json") as partial:
        partial.write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")


def succeed(status: int) -> None:
    """Raise InputError unless the status of a command is 0."""
    if status:
        raise InputError(f"a command that this one needs exited with status {status}. See above.")


def interval(words: Sequence[Metrics], values: Sequence[float]) -> str:
    """Mean of the words' values, and its 95% t interval over the objects, since words of one object resemble
    each other. Every object has the same number of words."""
    of_objects: dict[str, list[float]] = {}
    for word, value in zip(words, values, strict=True):
        of_objects.setdefault(word.name, []).append(value)
    objects = [statistics.mean(some) for some in of_objects.values()]
    return str(mean_interval(torch.tensor(objects)))


def table(metrics: dict[str, list[Metrics]]) -> str:
    """A row for each method, as Markdown."""
    lines = ["| method | reconstruction | of the images' own | editability | of the init word's | steps "
             "| seconds (median) |", "|---|---|--:|---|--:|--:|--:|"]
    for method, words in metrics.items():
        def mean(name: str, words: list[Metrics] = words) -> float:
            return statistics.mean(getattr(word, name) for word in words)
        lines.append(f"| {method} | {interval(words, [word.reconstruction for word in words])} "
                     f"| {mean('reconstruction_share'):.0%} "
                     f"| {interval(words, [word.editability for word in words])} "
                     f"| {mean('editability_share'):.0%} | {mean('steps'):.0f} "
                     f"| {statistics.median(word.seconds for word in words):.1f} |")
    words = next(iter(metrics.values()))
    own = statistics.mean(w.init_reconstruction / w.reconstruction * w.reconstruction_share for w in words)
    lines.append(f"| the init word | {interval(words, [w.init_reconstruction for w in words])} | {own:.0%} "
                 "| | 100% | 0 | 0 |")
    return "\n".join([*lines, ""])


def differences(metrics: dict[str, list[Metrics]]) -> str:
    """Differences of each method from the first one, word by word: the same object and seed."""
    first, *others = metrics
    lines = [f"| minus {first}, word by word | reconstruction | editability |", "|---|---|---|"]
    for method in others:
        cells = [interval(metrics[first], [
                     getattr(word, name) - getattr(base, name)
                     for word, base in zip(metrics[method], metrics[first], strict=True)])
                 for name in ("reconstruction", "editability")]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
