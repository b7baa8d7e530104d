"""Trains the encoder that predicts a word from images (textinv/encoder.py): from the latents of single-object
images to the object's code.

    python -m recipe.encoder --minutes 15

The loss is 1 - cosine to the code, or to the mirror image's code if that is closer: an image does not
reveal which side of the sprite faced left.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recipe import autoencoder, codes, data, diffusion
from recipe.sizes import CONFIG
from recipe.training import Training, add_dtype_option, averaged_weights, check_options
from textinv.commands import command
from textinv.encoder import WordEncoder

COMMAND = "python -m recipe.encoder"
CHECKPOINT = Path("recipe-work/encoder.pt")


def cosine(v: Tensor, code: Tensor) -> Tensor:
    """Cosines (b) of v (b d) to `code` or its mirror image's code, whichever is closer."""
    with torch.autocast(v.device.type, enabled=False):
        mirrored = codes.read()["object"].mirrored(code)
    return torch.maximum(F.cosine_similarity(v, code), F.cosine_similarity(v, mirrored))


def load(device: str = "cpu") -> tuple[WordEncoder, float]:
    """The trained encoder with averaged weights, and its minutes of training. Raises InputError if there is
    none."""
    weights, minutes = averaged_weights(CHECKPOINT, COMMAND)
    encoder = new_encoder()
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False).to(device), minutes


def new_encoder() -> WordEncoder:
    encoder = WordEncoder(CONFIG.autoencoder.embed_dim, codes.WIDTH)
    encoder.norm.fill_(codes.NORM)
    return encoder


@torch.no_grad()
def own_cosine(encoder: WordEncoder, name: str, scale: float) -> float:
    """The mean cosine on the single-object images of a set."""
    images, ae = data.read(name), autoencoder.load()[0]
    rows = single(images.codes)
    z = torch.cat([scale * ae.encode(autoencoder.pixels_to_x(images.pixels[some])).mode()
                   for some in np.array_split(rows, max(1, len(rows) // 50))])
    return cosine(encoder(z), torch.from_numpy(images.codes[rows, 0]).float()).mean().item()


def single(coded: np.ndarray) -> np.ndarray:
    """The rows of the images with one object."""
    return np.flatnonzero(~coded[:, 1].any(axis=1))


def rarity(coded: np.ndarray) -> Tensor:
    """Sampling weights (n) of the images, from the codes (n d) of their sprites: 1 / the square root of the
    number of images with that sprite. Changed sprites, most of which appear in one image only, are as new to
    the encoder as a user's object will be."""
    _, sprite, count = np.unique(coded, axis=0, return_inverse=True, return_counts=True)
    return torch.from_numpy(count[sprite.ravel()] ** -0.5)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=15, help="0 to only measure (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=8e-4)
    add_dtype_option(parser)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--decay", action="store_true", help="decay the learning rate to 0, for the last run")
    options = parser.parse_args(argv)
    check_options(options, CHECKPOINT)
    images = data.read("train")
    latents = diffusion.read_latents(images.pixels, autoencoder.load()[0], "cpu", options.dtype)
    scale, rows = diffusion.scale_factor(latents), torch.from_numpy(single(images.codes))
    odds = rarity(images.codes[rows, 0])
    torch.manual_seed(0)
    encoder = new_encoder()
    training = Training(encoder, CHECKPOINT, outer=(encoder.conv_in, encoder.out), dtype=options.dtype)

    def loss_of_batch(generator: torch.Generator) -> Tensor:
        some = rows[torch.multinomial(odds, options.batch, True, generator=generator)].numpy()
        mean, std = torch.from_numpy(latents[some]).float().unbind(dim=1)
        z = scale * (mean + std * torch.randn(mean.shape, generator=generator))
        part = 0.1 * torch.rand(len(z), 1, 1, 1, generator=generator)
        z = z + part * torch.randn(z.shape, generator=generator)
        return 1 - cosine(encoder(z), torch.from_numpy(images.codes[some, 0]).float()).mean()

    for _ in training.run(options.minutes, options.lr, loss_of_batch, decay=options.decay):
        pass
    if training.rank:
        return
    averaged, minutes = load()
    print(f"after {minutes:.0f} minutes, {training.step} steps: cosine "
          f"{own_cosine(averaged, 'seen', scale):.3f} on new images of seen objects, "
          f"{own_cosine(averaged, 'held-out', scale):.3f} on held-out objects; "
          f"{sum(p.numel() for p in averaged.parameters()):,} parameters")


if __name__ == "__main__":
    sys.exit(main())
