"""The way back from shipping: makes checkpoints from weights/tiny, so that training goes on from there on
another machine, with a fresh optimizer.

    python -m recipe.restore
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

import weights
from ldm import InputError
from recipe import autoencoder, diffusion
from recipe.training import Training
from textinv.commands import command

COMMAND = "python -m recipe.restore"
SETTLED = 10_000        # steps of an average that has long forgotten where it began


def restore() -> None:
    """Writes the checkpoints of both trainings. Raises InputError if one is there, which would be lost."""
    for path in (autoencoder.CHECKPOINT, diffusion.CHECKPOINT):
        if path.exists():
            raise InputError(f"{path} is there already: train on from it, or move it away to begin "
                             "from weights/tiny")
    model = weights.load("tiny")
    denoiser = diffusion.Denoiser(model.config.diffusion.scale_factor)
    denoiser.text_encoder.load_state_dict(model.text_encoder.state_dict())
    denoiser.unet.load_state_dict(model.unet.state_dict())
    for module, path in ((model.autoencoder, autoencoder.CHECKPOINT), (denoiser, diffusion.CHECKPOINT)):
        _save(module, path)
        print(path)


def _save(module: nn.Module, path: Path) -> None:
    training = Training(module.requires_grad_(), path)
    training.averaged.steps = SETTLED
    training.save()


@command
def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0]).parse_args(argv)
    restore()


if __name__ == "__main__":
    sys.exit(main())
