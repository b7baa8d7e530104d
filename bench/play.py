"""`python -m bench play`: seconds from a click to the first image in the playground.
Uses the embedded default, and measures the work behind the page, without the browser.
"""
from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import weights
from bench.timing import compare, machine, seconds
from textinv.options import InversionConfig
from textinv.play.studio import Sampling, Studio


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--images", default="examples/fox", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")


def main(args: argparse.Namespace) -> None:
    """The command."""
    print(machine(args.device))
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(weights.load("tiny", args.device), "tiny", Path(folder))

        def learn() -> None:
            work = studio.learn([args.images], InversionConfig(init="wolf"))
            next(work)                  # the preview before the first step
            work.close()

        def sample() -> None:
            work = studio.sample("a photo of a cat", Sampling())
            next(work)
            work.close()

        compare({"Learn, first preview": lambda: seconds(learn, args.device)}, args.repeats)
        compare({"Generate, first images": lambda: seconds(sample, args.device)}, args.repeats)
