"""Stage 1: composes the training pictures once, and the pictures that training never sees.

    python -m recipe.data [--pictures 60000] [--pairs 0.1] [--effects 0.1]

Written to recipe-work/data: for each set NAME.npy, uint8 (n 64 64 3), and NAME.json, the captions. `train`
and `seen` show seen objects in seen styles, from different seeds; `held-out` shows held-out objects in seen
styles, and `held-out-style` seen objects in the held-out style.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ldm import InputError
from recipe.artwork import FOLDER as ARTWORK
from recipe.artwork import Artwork
from recipe.objects import HELD_OUT, HELD_OUT_STYLE
from recipe.scenery import SIZE
from recipe.world import Choices, compose
from textinv.commands import command

COMMAND = "python -m recipe.data"
FOLDER = Path("recipe-work/data")
CHECKED = 1000                  # pictures in each of the three sets that are not for training


@dataclass(frozen=True)
class Pictures:
    pixels: np.ndarray          # n y x rgb, uint8, mapped from the file
    captions: list[str]


def read(name: str, folder: Path = FOLDER) -> Pictures:
    """The set of that name. Raises InputError if it has not been composed."""
    try:
        return Pictures(np.load(folder / f"{name}.npy", mmap_mode="r"),
                        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: the set {name!r} is missing or damaged: run {COMMAND} first") from error


def write(name: str, count: int, seed: int, choices: Choices, artwork: Artwork, folder: Path) -> None:
    """Composes a set. The captions are written last, so that a set without them is one that was cut short."""
    rng = np.random.default_rng(seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").unlink(missing_ok=True)
        pixels = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (count, SIZE, SIZE, 3))
        captions = []
        for i in tqdm(range(count), desc=name, unit=" pictures"):
            picture = compose(rng, artwork, choices)
            pixels[i] = picture.pixels
            captions.append(picture.caption)
        pixels.flush()
        (folder / f"{name}.json").write_text(json.dumps(captions), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}): "
                         "check the folder and the free space") from error


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--pictures", type=int, default=60_000,
                        help="in the training set (default: %(default)s)")
    parser.add_argument("--pairs", type=float, default=0.1, help="part of them with two objects")
    parser.add_argument("--effects", type=float, default=0.1, help="part of them with a filter")
    parser.add_argument("--artwork", type=Path, default=ARTWORK, help="the sprites (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER,
                        help="where the sets go (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.pictures < 1 or not (0 <= options.pairs and 0 <= options.effects
                                    and options.pairs + options.effects <= 1):
        raise InputError("give --pictures of 1 or more, and --pairs and --effects that are parts of 1")
    artwork = Artwork(options.artwork)
    seen = Choices(pairs=options.pairs, effects=options.effects,
                   looks=min(0.45, 1 - options.pairs - options.effects))
    write("train", options.pictures, 0, seen, artwork, options.folder)
    write("seen", CHECKED, 1, seen, artwork, options.folder)
    write("held-out", CHECKED, 2, replace(seen, objects=tuple(HELD_OUT)), artwork, options.folder)
    write("held-out-style", CHECKED, 3, replace(seen, styles=(HELD_OUT_STYLE,)), artwork, options.folder)


if __name__ == "__main__":
    sys.exit(main())
