"""`python -m bench words`: what the ways to learn a word are worth. Each method learns each object of examples/
from several seeds with train.py, and textinv.evaluate measures every word; the table goes into RESULTS.md.

It takes hours on a CPU and can be stopped at any time: what is there is not made again.
"""
from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import train
from bench.timing import machine
from ldm import InputError
from ldm.files import whole_file
from textinv import evaluate
from textinv.folder import STATE
from textinv.report import read_metrics
from weights.recipe.objects import HELD_OUT

METHODS = {
    "paper": ["--preset", "paper"],
    "plain, 400 steps": ["--steps", "400"],
    "plain, 200 steps": ["--steps", "200"],
    "DVAR": ["--steps", "5000", "--stop", "dvar", "--look-every", "25"],
    "fixed norm, 400 steps": ["--steps", "400", "--fix-norm", "--pull", "5e-5"],
    "cross initialization, 400 steps": ["--steps", "400", "--cross-init"],
}
OBJECTS = ("teapot", "fox", "mushroom", "pineapple", "panda", "cactus")
RESAMPLES = 1000


@dataclass(frozen=True)
class Word:
    """One method on one object from one seed."""
    method: str
    name: str
    seed: int
    folder: Path

    def learn(self) -> None:
        """Learns and measures, unless that has been done. The seconds of train.py are kept beside the run."""
        seconds = self.folder / "seconds.json"
        if not seconds.exists():
            resume = ["--resume"] if (self.folder / STATE).exists() else [
                "--images", f"examples/{self.name}", "--init", HELD_OUT[self.name].init, "--seed",
                str(self.seed), "--preview-every", "0", *METHODS[self.method]]
            start = time.perf_counter()
            succeed(train.main(["--out", str(self.folder), *resume]))
            with whole_file(seconds) as partial:
                partial.write_text(json.dumps(time.perf_counter() - start if not resume[0] == "--resume" else None))

    def figures(self) -> dict[str, float]:
        content = json.loads((self.folder / "evaluation/evaluation.json").read_text(encoding="utf-8"))
        return {}


def succeed(status: int) -> None:
    if status:
        raise InputError(f"a run of it ended with status {status}: see above")
