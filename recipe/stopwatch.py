"""Measures what the embedded default costs its user, in a separate process on two cores: the seconds for
`weights.load` and for 8 images (50 steps, guidance 5), and the peak memory of all of it, including imports.

    python -m recipe.stopwatch tiny

prints the results as JSON.
"""
from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import weights
from ldm import InputError
from textinv.commands import command

COMMAND = "python -m recipe.stopwatch"
CORES, IMAGES, STEPS, GUIDANCE = 2, 8, 50, 5.0
STATUS = Path("/proc/self/status")


def measure(source: str) -> dict[str, float]:
    """The results for that source, from a fresh process. Raises InputError if that fails."""
    done = subprocess.run([sys.executable, *COMMAND.split()[1:], source], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{COMMAND} {source} failed: {(done.stderr.splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout)


def peak_bytes() -> int:
    """This process's peak resident memory in bytes. Linux's ru_maxrss includes the parent process's memory at
    the time it started this one, so VmHWM is preferred."""
    if STATUS.is_file() and (high := re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))):
        return int(high[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("source", nargs="?", default="tiny",
                        help="passed to weights.load (default: %(default)s)")
    source = parser.parse_args(argv).source
    torch.set_num_threads(CORES)
    start = time.perf_counter()
    model = weights.load(source)
    loaded = time.perf_counter()
    model.generate(["a photo of a cat on the beach"] * IMAGES, steps=STEPS, guidance=GUIDANCE)
    print(json.dumps({"load_seconds": loaded - start, "images_seconds": time.perf_counter() - loaded,
                      "peak_gb": peak_bytes() / 1e9}))


if __name__ == "__main__":
    sys.exit(main())
