"""Reverses shipping: makes checkpoints from a shipped folder, so that training can continue from there on
another machine, with a fresh optimizer.

    python -m recipe.restore
"""
from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import weights
from ldm import InputError, TextEncoder
from recipe import autoencoder, codes, diffusion, encoder, resnet, vocabulary
from recipe.artwork import Artwork
from recipe.ship import set_vocabulary_norm
from recipe.sizes import CONFIG
from recipe.training import Training
from textinv.commands import command
from textinv.encoder import FILE as ENCODER
from textinv.encoder import load_encoder
from textinv.initialization import vocabulary_norm

COMMAND = "python -m recipe.restore"
CONVERGED_STEPS = 10_000            # step count of an average that has long forgotten its start
CHECKPOINTS = (autoencoder.CHECKPOINT, diffusion.CHECKPOINT, encoder.CHECKPOINT, resnet.CHECKPOINT)


def restore(folder: Path) -> list[Path]:
    """Write the checkpoints of the autoencoder and the diffusion model, of the encoder if the folder has one,
    and of the judge if it was shipped, and the codes unless they exist; return the checkpoints. The small
    CLIP has none: it trains from scratch. Raises InputError if a checkpoint exists (it would be lost), if
    different codes exist, or if the model has other sizes."""
    for path in CHECKPOINTS:
        if path.exists():
            raise InputError(f"{path} already exists. Continue training from it, or move it away to "
                             f"start from {folder}.")
    model = weights.load(folder / "model.safetensors")
    text, scale = model.config.text, model.config.diffusion.scale_factor
    same = replace(CONFIG, text=replace(CONFIG.text, vocab_size=text.vocab_size),
                   diffusion=replace(CONFIG.diffusion, scale_factor=scale))
    if model.config != same or not isinstance(model.text_encoder, TextEncoder):
        raise InputError(f"{folder}: the model's sizes differ from recipe/sizes.py. Give the folder of one "
                         "that the recipe made.")
    _restore_codes()
    norm = codes.NORM
    if (folder / ENCODER).exists():
        reader = load_encoder(model)
        norm *= vocabulary_norm(model) / reader.norm.item()         # embeddings have drifted; codes have not
        reader.norm.fill_(codes.NORM)
        _save(reader, encoder.CHECKPOINT, (reader.conv_in, reader.out))
    denoiser = diffusion.Denoiser(scale)
    carry_over(model.text_encoder, model.tokenizer.backend.get_vocab(), denoiser.text_encoder, norm)
    denoiser.unet.load_state_dict(model.unet.state_dict())
    unet, coder = denoiser.unet, model.autoencoder
    _save(coder, autoencoder.CHECKPOINT, (coder.encoder.conv_in, coder.decoder.conv_out))
    _save(denoiser, diffusion.CHECKPOINT, (unet.input_blocks[0], unet.out))
    if resnet.SHIPPED.exists():
        judge = resnet.load(resnet.SHIPPED)
        _save(judge, resnet.CHECKPOINT, (judge.stem, judge.heads))
    return [path for path in CHECKPOINTS if path.exists()]


def _restore_codes() -> None:
    """Copy the shipped codes, unless the codes they were made from exist here. Raises InputError if
    different ones do."""
    if not codes.SHIPPED.exists():
        return
    if not codes.FILE.exists():
        codes.FILE.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(codes.SHIPPED, codes.FILE)
    own, shipped = codes.read(), codes.read(codes.SHIPPED)
    if not all(torch.equal(getattr(own[name], part).half(), getattr(shipped[name], part).half())
               for name in shipped for part in ("mean", "basis")):
        raise InputError(f"{codes.FILE} differs from {codes.SHIPPED}, which the shipped model was "
                         "trained with. Move it away.")


@torch.no_grad()
def carry_over(old: TextEncoder, rows: dict[str, int], new: TextEncoder, norm: float = codes.NORM) -> None:
    """Copy the text encoder of a model whose vocabulary may differ: layers unchanged, embeddings by token
    (`rows`: token -> id; words, pieces, punctuation), rescaled to the mean norm `norm`. Names that it does
    not have start at their codes."""
    set_vocabulary_norm(old, norm)
    state = old.state_dict()
    table = state["token_emb.weight"]
    kept = {token: table[i] for token, i in rows.items()}
    shared = {name: tensor for name, tensor in state.items()
              if "token_emb" not in name and "logits" not in name}
    new.load_state_dict(shared, strict=False)
    new.token_emb.weight.mul_(codes.NORM / new.token_emb.weight.norm(dim=1).mean())
    if not rows.keys() >= set(vocabulary.tokens()):
        kept = codes.name_codes(Artwork()) | kept
    diffusion.set_names(new, kept)


def _save(module: nn.Module, path: Path, outer: Iterable[nn.Module]) -> None:
    training = Training(module.requires_grad_(), path, outer=outer)
    training.averaged.steps = CONVERGED_STEPS
    training.save()


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=weights.TINY.parent,
                        help="folder to restore from (default: weights/tiny)")
    for path in restore(parser.parse_args(argv).folder):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
