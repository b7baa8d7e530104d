"""The way back from shipping: makes checkpoints from a folder that was shipped, so that training goes on from
there on another machine, with a fresh optimizer. A training that is not done is shipped to a folder apart,
which is then where this begins:

    python -m recipe.ship --folder recipe/shipped/unfinished
    python -m recipe.restore
"""
from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

import weights
from ldm import InputError, TextEncoder
from recipe import autoencoder, codes, diffusion, encoder, resnet, vocabulary
from recipe.artwork import Artwork
from recipe.ship import set_vocabulary_norm
from recipe.training import Training
from textinv.commands import command
from textinv.encoder import FILE as ENCODER
from textinv.encoder import load_encoder

COMMAND = "python -m recipe.restore"
UNFINISHED = codes.SHIPPED.parent / "unfinished"
SETTLED = 10_000        # steps of an average that has long forgotten where it began
CHECKPOINTS = (autoencoder.CHECKPOINT, diffusion.CHECKPOINT, encoder.CHECKPOINT, resnet.CHECKPOINT)


def restore(folder: Path) -> list[Path]:
    """Writes the checkpoints of all trainings whose results are in the folder, the judge's, and the codes
    unless they are there; returns the checkpoints. Raises InputError if one is there: it would be lost."""
    for path in CHECKPOINTS:
        if path.exists():
            raise InputError(f"{path} is there already: train on from it, or move it away to begin "
                             f"from {folder}")
    if codes.SHIPPED.exists() and not codes.FILE.exists():
        codes.FILE.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(codes.SHIPPED, codes.FILE)
    model = weights.load(folder / "model.safetensors")
    denoiser = diffusion.Denoiser(model.config.diffusion.scale_factor)
    carry_over(model.text_encoder, model.tokenizer.backend.get_vocab(), denoiser.text_encoder)
    denoiser.unet.load_state_dict(model.unet.state_dict())
    unet, coder = denoiser.unet, model.autoencoder
    _save(coder, autoencoder.CHECKPOINT, (coder.encoder.conv_in, coder.decoder.conv_out))
    _save(denoiser, diffusion.CHECKPOINT, (unet.input_blocks[0], unet.out))
    if (folder / ENCODER).exists():
        reader = load_encoder(model)
        reader.norm.fill_(codes.NORM)
        _save(reader, encoder.CHECKPOINT, (reader.conv_in, reader.out))
    if resnet.SHIPPED.exists():
        judge = resnet.load(resnet.SHIPPED)
        _save(judge, resnet.CHECKPOINT, (judge.stem, judge.heads))
    return [path for path in CHECKPOINTS if path.exists()]


@torch.no_grad()
def carry_over(old: TextEncoder, rows: dict[str, int], new: TextEncoder) -> None:
    """The text encoder of a model whose vocabulary may be another: layers as they are, embeddings by their
    tokens (`rows`: token -> id; words, pieces, marks), all at the norm of training. Names start at their
    codes where the vocabulary is another: such a model was trained without codes."""
    set_vocabulary_norm(old, codes.NORM)
    state = old.state_dict()
    table = state["token_emb.weight"]
    kept = {token: table[i] for token, i in rows.items()}
    shared = {name: tensor for name, tensor in state.items()
              if "token_emb" not in name and "logits" not in name}
    new.load_state_dict(shared, strict=False)
    new.token_emb.weight.mul_(codes.NORM / new.token_emb.weight.norm(dim=1).mean())
    diffusion.set_names(new, kept)
    if set(rows) != set(vocabulary.tokens()):
        diffusion.set_names(new, codes.name_codes(Artwork()))


def _save(module: nn.Module, path: Path, outer: Iterable[nn.Module]) -> None:
    training = Training(module.requires_grad_(), path, outer=outer)
    training.averaged.steps = SETTLED
    training.save()


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, help="(default: %(default)s)",
                        default=UNFINISHED if UNFINISHED.is_dir() else weights.TINY.parent)
    for path in restore(parser.parse_args(argv).folder):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
