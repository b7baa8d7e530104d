"""Runs of the commands on a model of random weights."""
import numpy as np
from PIL import Image

import sample
import train
from helpers import DATA
from textinv import InversionConfig
from textinv.commands import evaluate

MODEL = str(DATA / "diffusers-tiny")


def train_word(*argv):
    """train.py for three steps; returns its status."""
    return train.main(["--weights", MODEL, "--steps", "3", "--batch", "2", "--preview-every", "0",
                       "--dtype", "float32", *map(str, argv)])


def generate(*argv):
    """sample.py with two steps of the sampler; returns its status."""
    return sample.main(["--weights", MODEL, "--steps", "2", *map(str, argv)])


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
