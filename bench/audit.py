"""`python -m bench audit`: seconds and peak memory of `textinv audit` on random weights of any size."""
from __future__ import annotations

import argparse
import sys

import torch

from bench.memory import GIB, peak
from bench.models import SIZES, random_model
from bench.timing import machine, seconds
from textinv.inside.audit import Audit, audit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--size", choices=SIZES, default="text2img-large")
    parser.add_argument("--images", default="examples/fox", help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--batch", type=int, default=1, help="images in the step (default: %(default)s)")
    parser.add_argument("--device", default="cpu")


def main(args: argparse.Namespace) -> None:
    """The command."""
    print(f"{machine(args.device)}; {args.size}, {args.dtype}, batch {args.batch}")
    model = random_model(args.size, args.device, getattr(torch, args.dtype))
    done: list[Audit] = []

    def run() -> None:
        done.append(audit(model, args.images, init="a", batch=args.batch,
                          progress=lambda line: print(f"  {line}", file=sys.stderr)))

    taken: list[float] = []
    most = peak(lambda: taken.append(seconds(run, args.device)), args.device)
    passed = sum(check.passed for check in done[0].checks)
    print(f"  {taken[0]:.0f} s, peak {most / GIB:.2f} GiB, {passed} of {len(done[0].checks)} checks passed")
