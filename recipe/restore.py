"""The way back from shipping: makes checkpoints from weights/tiny, so that training goes on from there on
another machine, with a fresh optimizer.

    python -m recipe.restore
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import weights
from ldm import InputError, TextEncoder
from recipe import autoencoder, codes, diffusion
from recipe.artwork import Artwork
from recipe.ship import set_vocabulary_norm
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
    carry_over(model.text_encoder, model.tokenizer.backend.get_vocab(), denoiser.text_encoder)
    denoiser.unet.load_state_dict(model.unet.state_dict())
    for module, path in ((model.autoencoder, autoencoder.CHECKPOINT), (denoiser, diffusion.CHECKPOINT)):
        _save(module, path)
        print(path)


@torch.no_grad()
def carry_over(old: TextEncoder, rows: dict[str, int], new: TextEncoder) -> None:
    """The text encoder of a model whose vocabulary may be another: layers as they are, embeddings by their
    tokens (`rows`: token -> id; words, pieces, marks), names at their codes, all at the norm of training."""
    set_vocabulary_norm(old, codes.NORM)
    state = old.state_dict()
    table = state["token_emb.weight"]
    kept = {token: table[i] for token, i in rows.items()}
    shared = {name: tensor for name, tensor in state.items()
              if "token_emb" not in name and "logits" not in name}
    new.load_state_dict(shared, strict=False)
    new.token_emb.weight.mul_(codes.NORM / new.token_emb.weight.norm(dim=1).mean())
    diffusion.set_names(new, kept)
    diffusion.set_names(new, codes.name_codes(Artwork()))


def _save(module: nn.Module, path: Path) -> None:
    outer = ((module.unet.input_blocks[0], module.unet.out) if isinstance(module, diffusion.Denoiser) else
             (module.encoder.conv_in, module.decoder.conv_out))
    training = Training(module.requires_grad_(), path, outer=outer)
    training.averaged.steps = SETTLED
    training.save()


@command
def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0]).parse_args(argv)
    restore()


if __name__ == "__main__":
    sys.exit(main())
