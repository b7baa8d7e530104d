"""Makes the README's image: for some of the examples, the five images and what the word learned from them
generates in three prompts.

    python -m recipe.showcase [NAME ...] [--out weights/tiny/showcase.png]
"""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import textinv
import weights
from ldm import InputError, LatentDiffusion
from recipe.objects import HELD_OUT
from recipe.shots import THINGS
from textinv.commands import command
from textinv.grids import grid, save_png
from textinv.images import read_images

COMMAND = "python -m recipe.showcase"
EXAMPLES = Path("examples")
PROMPTS = ("a photo of a *", "a photo of a * on the beach", "a photo of a * on a red background")
EACH = 3                # images per prompt


def row(model: LatentDiffusion, name: str, steps: int) -> list[Image.Image]:
    """The images of an example as the model sees them, then samples with the word learned from them."""
    inputs = [image.shown for image in read_images(EXAMPLES / name, model.image_size)]
    start = time.perf_counter()
    config = textinv.InversionConfig(init=HELD_OUT[name].init, steps=steps)
    concept = textinv.invert(model, EXAMPLES / name, config)
    print(f"{name}, from {HELD_OUT[name].init!r}: {steps} steps in {time.perf_counter() - start:.0f} s")
    textinv.patch(model, concept)
    samples = model.generate([prompt for prompt in PROMPTS for _ in range(EACH)], steps=50, batch=9)
    textinv.unpatch(model, "*")
    return inputs + samples


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", default=["teapot", "fox", "mushroom", "pineapple"])
    parser.add_argument("--steps", type=int, default=textinv.InversionConfig.steps,
                        help="(default: %(default)s)")
    parser.add_argument("--weights", default="tiny", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=weights.TINY.with_name("showcase.png"),
                        help="(default: %(default)s)")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.names if name not in THINGS]:
        raise InputError(f"{unknown[0]} has no folder of five examples. Choose from {', '.join(THINGS)}.")
    model = weights.load(options.weights)
    rows = [image for name in options.names for image in row(model, name, options.steps)]
    save_png(grid(rows, columns=len(rows) // len(options.names)), options.out)
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
