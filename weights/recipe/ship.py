"""Last stage: puts what the others have trained into weights/tiny, in half precision, where
`weights.load("tiny")` finds it.

    python -m weights.recipe.ship
"""
from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import weights
from ldm import InputError
from ldm.errors import command
from weights.recipe import diffusion, vocabulary

COMMAND = "python -m weights.recipe.ship"
CLIP = Path("recipe-work/clip")


def ship(folder: Path) -> list[Path]:
    """Writes model.safetensors, vocab.txt and samples.png, and the CLIP where it has been trained;
    returns the files. Raises InputError before the stages that come first, or if a weight
    overflows half precision."""
    model, _ = diffusion.load("cpu")
    half = model.half()
    overflowed = [name for name, tensor in half.state_dict().items() if not tensor.isfinite().all()]
    if overflowed:
        raise InputError(f"{overflowed[0]} overflows half precision: "
                         "train further, or with more weight decay")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(vocabulary.OUT, folder / "vocab.txt")
        if CLIP.is_dir():
            shutil.copytree(CLIP, folder / "clip", dirs_exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}): check the free space") from error
    weights.save(half, folder / "model.safetensors")
    diffusion.sheet(weights.load(folder / "model.safetensors", dtype=torch.float32), folder / "samples.png")
    return sorted(path for path in folder.rglob("*") if path.is_file())


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=weights.TINY.parent, help="(default: weights/tiny)")
    for path in ship(parser.parse_args(argv).folder):
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {path}")


if __name__ == "__main__":
    sys.exit(main())
