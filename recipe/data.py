"""Composes, once, the training images and the images that training never sees.

    python -m recipe.data [--images 130000]

Each set is written to recipe-work/data: NAME.npy, uint8 (n 64 64 3); NAME.codes.npy, float16 (n 3 d), the
codes (codes.py) of first object, second object and style; and NAME.json, CAPTIONS captions per image, some
with SLOTS in place of names. `train` and `seen` show seen objects in seen styles, from different seeds, and
`train` also nameless things; `held-out` shows held-out objects in seen styles, `held-out-style` seen objects
in the held-out artwork, and `held-out-filters` seen objects under the held-out filters.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from tqdm import tqdm

from ldm import InputError
from recipe import codes, filters
from recipe.artwork import Artwork, add_artwork_option
from recipe.captions import NAMELESS, SLOTS, wording
from recipe.objects import HELD_OUT, HELD_OUT_STYLE
from recipe.scenery import SIZE
from recipe.world import TRAINING, Choices, Composed, compose
from textinv.commands import command

COMMAND = "python -m recipe.data"
FOLDER = Path("recipe-work/data")
CHECKED = 1000                  # images in each of the sets that are not for training
CHUNK = 500                     # images from one seed
CAPTIONS = 4                    # per image, worded independently
SLOT_SHARE = 0.35               # fraction of the captions of named objects, and of named styles, with a slot


@dataclass(frozen=True)
class ImageSet:
    pixels: np.ndarray          # n y x rgb, uint8, mapped from the file
    codes: np.ndarray           # n slots d, float16
    captions: list[list[str]]   # n, CAPTIONS each


def read(name: str, folder: Path = FOLDER) -> ImageSet:
    """The set of that name. Raises InputError if it is missing or damaged."""
    try:
        return ImageSet(np.load(folder / f"{name}.npy", mmap_mode="r"),
                        np.load(folder / f"{name}.codes.npy"),
                        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, EOFError) as error:            # EOFError: the file is empty
        raise InputError(f"{folder}: the set {name!r} is missing or damaged. Run {COMMAND} first.") from error


def image_codes(image: Composed) -> np.ndarray:
    """The codes of an image's objects and style, float16 (slots d); zeros where there is none."""
    known, found = codes.read(), torch.zeros(len(SLOTS), codes.WIDTH)
    pixels = np.stack([codes.sprite_pixels(sprite) for sprite in image.sprites])
    found[:len(pixels)] = known["object"](pixels)
    if image.filter:
        found[2] = known["style"](codes.style_pixels(image.filter))
    return found.numpy().astype(np.float16)


def image_captions(rng: np.random.Generator, image: Composed) -> list[str]:
    """CAPTIONS captions, some with slots; all have slots if there is no name."""
    scene = image.scene
    return [wording(rng, scene,
                    not scene.named or not scene.category and rng.random() < SLOT_SHARE,
                    bool(scene.effect) and (scene.effect == NAMELESS or rng.random() < SLOT_SHARE))
            for _ in range(CAPTIONS)]


def _chunk(seed: int, index: int, count: int, choices: Choices, folder: Path) -> tuple[np.ndarray, np.ndarray,
                                                                                       list[list[str]]]:
    torch.set_num_threads(1)
    rng, artwork = np.random.default_rng((seed, index)), _artwork(folder)
    images = [compose(rng, artwork, choices) for _ in range(count)]
    return (np.stack([image.pixels for image in images]),
            np.stack([image_codes(image) for image in images]),
            [image_captions(rng, image) for image in images])


_ARTWORK: dict[Path, Artwork] = {}


def _artwork(folder: Path) -> Artwork:
    """Each process reads the sprites once."""
    if folder not in _ARTWORK:
        _ARTWORK[folder] = Artwork(folder)
    return _ARTWORK[folder]


def start_array(file: BinaryIO, dtype: type, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file, after which the caller writes the values. Not memory-mapped: on a
    full disk, writing to a mapped file kills the process, while writing to this one raises OSError."""
    np.lib.format.write_array_header_1_0(file, {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                                                "fortran_order": False, "shape": shape})


def write_zeros(path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    """Write a .npy file of zeros, allocating its disk space now, so that it can be mapped and filled."""
    rows = np.zeros((1, *shape[1:]), dtype).tobytes() * 1000
    with path.open("wb") as file:
        start_array(file, dtype, shape)
        for start in range(0, shape[0], 1000):
            file.write(rows[:len(rows) // 1000 * min(1000, shape[0] - start)])


def write(name: str, count: int, seed: int, choices: Choices, artwork: Path, folder: Path) -> None:
    """Compose a set. The captions are written last, so a set without them was interrupted."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").unlink(missing_ok=True)
        captions: list[list[str]] = []
        jobs = [(seed, i, min(CHUNK, count - start), choices, artwork)
                for i, start in enumerate(range(0, count, CHUNK))]
        with ((folder / f"{name}.npy").open("wb") as pixels,
              (folder / f"{name}.codes.npy").open("wb") as coded,
              ProcessPoolExecutor(os.cpu_count()) as pool):
            start_array(pixels, np.uint8, (count, SIZE, SIZE, 3))
            start_array(coded, np.float16, (count, len(SLOTS), codes.WIDTH))
            done = pool.map(_chunk, *zip(*jobs, strict=True))
            for some, some_codes, texts in tqdm(done, name, len(jobs), unit="chunk"):
                pixels.write(some.tobytes())
                coded.write(some_codes.tobytes())
                captions += texts
        (folder / f"{name}.json").write_text(json.dumps(captions), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}). "
                         "Check the folder and the free space.") from error


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--images", type=int, default=130_000,
                        help="images in the training set (default: %(default)s)")
    add_artwork_option(parser)
    parser.add_argument("--folder", type=Path, default=FOLDER,
                        help="where the sets go (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.images < 1:
        raise InputError(f"--images is {options.images}. Give 1 or more.")
    Artwork(options.artwork)
    codes.read()
    seen = Choices(effects=tuple(filters.NAMED))
    for name, count, seed, choices in (
            ("seen", CHECKED, 1, seen),
            ("held-out", CHECKED, 2, replace(seen, objects=tuple(HELD_OUT), category=0)),
            ("held-out-style", CHECKED, 3, replace(seen, styles=(HELD_OUT_STYLE,))),
            ("held-out-filters", CHECKED, 4, replace(seen, effects=tuple(filters.HELD_OUT), effect=1, look=0,
                                                     pair=0, tint=0, category=0)),
            ("train", options.images, 0, TRAINING)):
        write(name, count, seed, choices, options.artwork, options.folder)


if __name__ == "__main__":
    sys.exit(main())
