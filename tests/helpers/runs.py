"""Runs of the commands on a model of random weights."""
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import sample
import train
from helpers import DATA
from textinv import Concept, InversionConfig
from textinv.commands import evaluate

MODEL = str(DATA / "diffusers-tiny")
STEPS = 8               # of the runs that are resumed


def write_images(folder: Path) -> Path:
    """A new folder of three images."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (80, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def train_word(*argv):
    """train.py for three steps; returns its status."""
    return train.main(["--weights", MODEL, "--steps", "3", "--batch", "2", "--preview-every", "0",
                       "--dtype", "float32", *map(str, argv)])


def options(images, out, **more):
    """A command line for a run that is to be resumed."""
    given = {"images": images, "init": "cat", "out": out, "steps": STEPS, "save-every": 3, "eval-every": 2,
             "vectors": 2, **more}
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_run(a: Path, b: Path) -> None:
    """All that a run is worth, bit for bit."""
    for name in ("concept.safetensors", "best.safetensors"):
        one, other = Concept.load(a / name), Concept.load(b / name)
        assert torch.equal(one.vectors, other.vectors), name
        assert one.info == other.info, (name, {key: (one.info.get(key), other.info.get(key))
                                               for key in {*one.info, *other.info}
                                               if one.info.get(key) != other.info.get(key)})
    for name in ("metrics.jsonl", "state.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    for path in (a / "previews").glob("*"):
        assert path.read_bytes() == (b / "previews" / path.name).read_bytes()


def generate(*argv):
    """sample.py with two steps of the sampler, unless an image sets them; returns its status."""
    steps = [] if "--from" in argv else ["--steps", "2"]
    return sample.main(["--weights", MODEL, *steps, *map(str, argv)])


def measure(learned, clip, *argv):
    """textinv evaluate on three images per prompt; returns its status."""
    return evaluate.main(["--concept", str(learned), "--clip", str(clip), "-n", "3", "--steps", "1",
                          "--batch", "2", *map(str, argv)])


def pixels(path):
    """An image file as y x rgb."""
    with Image.open(path) as image:
        return np.asarray(image)


def config(**changes):
    """Options of two steps."""
    return InversionConfig(**{"init": "cat", "steps": 2, "batch": 2, **changes})
