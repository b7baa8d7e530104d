"""`python -m bench resume`: kill train.py repeatedly, resume it, and compare with an undisturbed run.
The kills come at random moments. Also measures what saving costs."""
from __future__ import annotations

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import weights
from bench.timing import machine, seconds
from ldm import InputError
from textinv import Concept, InversionConfig
from textinv.running.folder import RunFolder
from textinv.running.options import RunOptions
from textinv.running.run import Run

ROOT = Path(__file__).parents[1]
SAVE_EVERY = 10         # steps, so that every kill loses some and keeps some


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--images", default=str(ROOT / "examples/teapot"))
    parser.add_argument("--init", default="cup")
    parser.add_argument("--kills", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="steps of the run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed for the moments of the kills")


def main(args: argparse.Namespace) -> None:
    """The command."""
    print(machine("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        saving(args, Path(folder) / "saving")
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        finish(start(args, whole))
        kills, same = 0, 0
        while kills < args.kills:
            more = one_killed_run(args, killed, args.kills - kills, random.Random(args.seed + kills))
            if not more:
                raise InputError(f"a run of {args.steps} steps ended before it could be killed. Give more "
                                 "`steps`.")
            kills, same = kills + more, same + 1
            compare_runs(whole, killed, f"{kills} kills, {same} runs")
    print(f"  {kills} of {kills} kills left no trace in word, best word, state and metrics")


def saving(args: argparse.Namespace, folder: Path) -> None:
    """Measure what a save costs relative to the steps between two saves."""
    config, options = InversionConfig(init=args.init, steps=60), RunOptions(preview_every=0, save_every=100)
    model = weights.load("tiny", dtype=torch.bfloat16)
    with Run(model, args.images, config, options=options, folder=RunFolder(folder)) as run:
        run.open()
        steps = seconds(lambda: list(run.learn())) / config.steps
        saves = statistics.median(seconds(run.save) for _ in range(20))
    share = saves / (options.save_every * steps)
    print(f"  a step {1000 * steps:.1f} ms, a save {1000 * saves:.1f} ms: saving every {options.save_every} "
          f"steps costs {100 * share:.2f} % of the run")


def start(args: argparse.Namespace, out: Path) -> subprocess.Popen:
    """Start train.py in a separate process, resuming the run if it has begun."""
    resume = ["--resume"] if (out / "config.json").exists() else []
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "--images", args.images, "--init", args.init,
         "--out", str(out), "--device", "cpu", "--steps", str(args.steps), "--save-every", str(SAVE_EVERY),
         "--preview-every", "0", "--dtype", "bfloat16", *resume],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    """Wait for train.py. Raises InputError with its last line if it failed."""
    _, said = process.communicate()
    if process.returncode:
        *_, last = ["no output", *said.strip().splitlines()]
        raise InputError(f"train.py exited with status {process.returncode}: {last}")


def one_killed_run(args: argparse.Namespace, out: Path, most: int, rng: random.Random) -> int:
    """Run train.py to the end with up to `most` kills on the way, and return the number of kills."""
    shutil.rmtree(out, ignore_errors=True)
    kills, metrics = 0, out / "metrics.jsonl"
    while True:
        process, before = start(args, out), metrics.stat().st_mtime_ns if metrics.exists() else 0
        while kills < most and process.poll() is None and (
                not metrics.exists() or metrics.stat().st_mtime_ns == before):
            time.sleep(0.01)
        # it has written its first lines: the next three seconds span dozens of steps and a few saves
        deadline = time.monotonic() + rng.random() * 3
        while kills < most and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        if kills == most or process.poll() is not None:
            finish(process)
            return kills
        process.kill()
        process.communicate()
        kills += 1


def compare_runs(whole: Path, killed: Path, after: str) -> None:
    """Raise InputError if any of a run's results differs in a single bit."""
    for name in ("concept.safetensors", "best.safetensors"):
        if not torch.equal(Concept.load(whole / name).vectors, Concept.load(killed / name).vectors):
            raise InputError(f"{name} differs after {after}")
    for name in ("metrics.jsonl", "state.safetensors"):
        if (whole / name).read_bytes() != (killed / name).read_bytes():
            raise InputError(f"{name} differs after {after}")
    print(f"  {after}: bit-identical")
