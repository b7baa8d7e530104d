"""Puts what the other stages have trained into weights/tiny, in half precision, where `weights.load("tiny")`
finds it. The codes and the judge, which only the recipe needs, go to recipe/shipped.

    python -m recipe.ship
"""
from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import nn

import weights
from ldm import InputError
from ldm.text_encoder import FeedForward, SelfAttention, TextEncoder
from recipe import codes, diffusion, encoder, resnet, small_clip, vocabulary
from textinv.commands import command
from textinv.encoder import FILE as ENCODER
from weights.files import atomic_write

COMMAND = "python -m recipe.ship"
NORM = 1.4              # mean norm of the shipped vocabulary's embeddings


@torch.no_grad()
def set_vocabulary_norm(text_encoder: TextEncoder, norm: float) -> float:
    """Rescale the vocabulary's embeddings to a mean norm without changing what the encoder computes: every
    block reads the residual stream through a layer norm, so the stream's scale is free. Return the old norm.
    Training leaves a norm of 12. The paper's learning rate moves each component of v by about 0.02 per step,
    whatever the gradient, so at that norm a word needs several times as many steps to get anywhere."""
    before = text_encoder.token_emb.weight.norm(dim=1).mean().item()
    scale = norm / before
    layers = cast(Iterable[tuple[nn.LayerNorm, SelfAttention | FeedForward]], text_encoder.attn_layers.layers)
    last = [block.to_out if isinstance(block, SelfAttention) else block.net[-1] for _, block in layers]
    for module in (text_encoder.token_emb, text_encoder.pos_emb, *last):
        for parameter in module.parameters():
            parameter.mul_(scale)
    return before


def ship(folder: Path, own: Path) -> list[Path]:
    """Write model.safetensors, vocab.txt and samples.png, and the encoder and the CLIP if they have been
    trained; the codes, and the judge if it has been trained, go to the folder `own`. An earlier model's
    encoder does not stay: it would predict words of another model. Return the files. Raises InputError if an
    earlier stage has not run, or if a weight overflows half precision; then nothing is written."""
    model, _ = diffusion.load("cpu")
    scale = NORM / set_vocabulary_norm(cast(TextEncoder, model.text_encoder), NORM)
    half = model.half()
    overflowed = [name for name, tensor in half.state_dict().items() if not tensor.isfinite().all()]
    if overflowed:
        raise InputError(f"{overflowed[0]} overflows half precision. "
                         "Train longer, or with more weight decay.")
    coded = {f"{name}.{part}": getattr(code, part).half() for name, code in codes.read().items()
             for part in ("mean", "basis")}
    reader = encoder.load()[0] if encoder.CHECKPOINT.exists() else None
    try:
        for place in (folder, own):
            place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(vocabulary.OUT, folder / "vocab.txt")
        if small_clip.FOLDER.is_dir():
            shutil.copytree(small_clip.FOLDER, folder / "clip", dirs_exist_ok=True)
        if resnet.WEIGHTS.exists():
            shutil.copyfile(resnet.WEIGHTS, own / resnet.SHIPPED.name)
        if reader is None:
            (folder / ENCODER).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}). Check the free space.") from error
    weights.save(half, folder / "model.safetensors")
    with atomic_write(own / codes.SHIPPED.name) as partial:
        save_file(coded, partial)
    if reader is not None:
        reader.norm.mul_(scale)
        with atomic_write(folder / ENCODER) as partial:
            save_file({name: tensor.half() for name, tensor in reader.state_dict().items()}, partial)
    diffusion.sheet(weights.load(folder / "model.safetensors", dtype=torch.float32), folder / "samples.png")
    return sorted({path for place in (folder, own) for path in place.rglob("*") if path.is_file()})


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=weights.TINY.parent,
                        help="where the model goes (default: weights/tiny)")
    parser.add_argument("--own", type=Path, default=codes.SHIPPED.parent,
                        help="where files that only the recipe needs go (default: recipe/shipped)")
    options = parser.parse_args(argv)
    for path in ship(options.folder, options.own):
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {path}")


if __name__ == "__main__":
    sys.exit(main())
