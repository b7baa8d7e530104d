"""Words without names: a linear code of appearance. PCA maps a sprite, as 32 x 32 premultiplied RGBA, to a
vector of the text encoder's width: the first components, each divided by its standard deviation to a power,
then rotated by a fixed random rotation and scaled to a fixed norm. In half of the captions such a vector
replaces the object's name, so that the text-to-image model learns to generate from any vector near the
sphere, and the space between the names becomes meaningful. A style's code is made in the same way from a
test card under the style's filter.

    python -m recipe.codes      fits both codes to the artwork and the filters: recipe-work/codes.safetensors
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm import InputError
from recipe import filters, sprites
from recipe.artwork import Artwork, add_artwork_option
from recipe.filters import Filter, pick
from recipe.objects import NAMELESS, SEEN, SEEN_STYLES
from textinv.commands import command
from weights.files import atomic_write

COMMAND = "python -m recipe.codes"
FILE = Path("recipe-work/codes.safetensors")
SHIPPED = Path(__file__).parent / "shipped/codes.safetensors"
SIDE, WIDTH = 32, 192
POWER = {"object": 0.75, "style": 0.75}
NORM = 12.0                 # of every code and, roughly, of the vocabulary's rows during training
NOISE = 0.3                 # maximum noise added to a code in training, as a fraction of the norm
CHANGED, STYLES = 4000, 4000            # changed sprites and styles that the codes are fitted to


def sprite_pixels(sprite: Image.Image) -> np.ndarray:
    """RGBA sprite -> float32 (4096), centered in a square, color premultiplied by alpha."""
    pixels = np.asarray(sprites.squared(sprite, SIDE, Image.Resampling.BILINEAR), np.float32) / 255
    return np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=2).reshape(-1)


@cache
def test_card() -> np.ndarray:
    """The image that styles are applied to, float32 (64 64 3): shades, all hues, lines, a disc and a box."""
    y, x = np.mgrid[0:1:64j, 0:1:64j]
    hues = np.stack([0.5 + 0.5 * np.cos(2 * np.pi * (x - shift)) for shift in (0, 1 / 3, 2 / 3)], axis=2)
    card = np.where((y < 0.3)[..., None], hues * (0.5 + y[..., None]), 0)
    card = np.where(((y >= 0.3) & (y < 0.42))[..., None], x[..., None], card)
    card = np.where((y >= 0.42)[..., None], np.array([0.55, 0.72, 0.9]), card)
    disc, box = np.hypot(x - 0.27, y - 0.71) < 0.2, (abs(x - 0.72) < 0.18) & (abs(y - 0.71) < 0.18)
    card = np.where(disc[..., None], np.array([0.86, 0.25, 0.2]) * (1.1 - y[..., None] / 2), card)
    card = np.where(box[..., None], np.array([0.95, 0.8, 0.25]), card)
    return np.where((box & (abs(x - y) < 0.04))[..., None], 0.1, card).astype(np.float32)


def style_pixels(style: Filter) -> np.ndarray:
    """The test card under the filter, at half size, float32 (3072)."""
    card = style(test_card()).clip(0, 1)
    return card.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3)).reshape(-1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Code:
    """A linear code: pixels (n p) -> codes (n d), all of norm NORM."""
    mean: Tensor            # p
    basis: Tensor           # p d: components over std ** power, rotated

    def __call__(self, pixels: np.ndarray) -> Tensor:
        return NORM * F.normalize((torch.from_numpy(pixels) - self.mean) @ self.basis, dim=-1)

    @cached_property
    def _mirror(self) -> Tensor:
        """d d: B+ P B for the basis B and the left-right flip P. The span of the components is closed under
        P, because sprites and their mirror images were fitted together. P mirrors a sprite exactly if its
        scaled width is even. With an odd width both it and its mirror image lie half a pixel off center, on
        the same side (`sprite_pixels`): for these, a fifth of the sprites, the result is approximate."""
        exchanged = rearrange(self.basis, "(y x rgba) d -> y x rgba d", y=SIDE, x=SIDE).flip(1).flatten(0, 2)
        return torch.linalg.pinv(self.basis) @ exchanged

    def mirrored(self, codes: Tensor) -> Tensor:
        """Codes (... d) of sprites -> codes of their mirror images: nearly exact (a cosine of 0.99) if the
        sprite's width is even, rough (0.8) if it is odd. Zeros stay zeros."""
        return NORM * F.normalize(codes @ self._mirror, dim=-1)


def fit(pixels: np.ndarray, power: float, seed: int = 0) -> tuple[Code, float]:
    """Fit a code to pixels (n p); also returns the fraction of their variance that it explains."""
    torch.manual_seed(seed)
    x = torch.from_numpy(pixels)
    mean = x.mean(dim=0)
    _, s, v = torch.svd_lowrank(x - mean, q=WIDTH + 32, niter=6)
    std = s[:WIDTH] / len(x) ** 0.5
    rotation, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH))
    held = (s[:WIDTH] ** 2).sum() / (x - mean).square().sum()
    return Code(mean, (v[:, :WIDTH] / std ** power) @ rotation), held.item()


def training_sprites(artwork: Artwork, rng: np.random.Generator) -> np.ndarray:
    """All training sprites, some changed ones, and the mirror images of both: (n p)."""
    own = [artwork.sprite(style, name) for style in SEEN_STYLES for name in (*SEEN, *NAMELESS)]
    changed = [sprites.changed(rng, pick(rng, own), pick(rng, own)) for _ in range(CHANGED)]
    return np.stack([sprite_pixels(side) for sprite in [*own, *changed]
                     for side in (sprite, sprites.mirrored(sprite))])


def training_styles(rng: np.random.Generator) -> np.ndarray:
    makers = [*filters.NAMED.values()] * 20
    makers += [filters.nameless] * (STYLES - len(makers))
    return np.stack([style_pixels(maker(rng)) for maker in makers])


@cache
def read(path: Path = FILE) -> dict[str, Code]:
    """The codes "object" and "style". Raises InputError if they have not been fitted or are damaged."""
    if not path.exists():
        raise InputError(f"{path} is missing. Run {COMMAND} first.")
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        return {name: Code(tensors[f"{name}.mean"], tensors[f"{name}.basis"]) for name in POWER}
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path} is damaged. Restore it: refitted codes are rotated differently, "
                         "and a model trained with the old ones does not know them.") from error


def mean_code(code: Code, pixels: Sequence[np.ndarray]) -> Tensor:
    """The mean of several codes, rescaled to NORM: (d)."""
    return NORM * F.normalize(code(np.stack(pixels)).mean(dim=0), dim=0)


def name_codes(artwork: Artwork) -> dict[str, Tensor]:
    """The initial embeddings of names: for an object, the mean code of its sprites and their mirror images;
    for a style, the mean over its random parameters."""
    codes = read()
    objects = {name: mean_code(codes["object"], [
        sprite_pixels(side) for style in SEEN_STYLES for sprite in [artwork.sprite(style, name)]
        for side in (sprite, sprites.mirrored(sprite))]) for name in SEEN}
    rng = np.random.default_rng(0)
    styles = {name: mean_code(codes["style"], [style_pixels(maker(rng)) for _ in range(8)])
              for name, maker in filters.NAMED.items()}
    return objects | styles


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    add_artwork_option(parser)
    options = parser.parse_args(argv)
    if FILE.exists():
        raise InputError(f"{FILE} already exists. Move it away to fit new codes; they are rotated "
                         "differently, so a model trained with these will not know them.")
    if SHIPPED.exists():
        raise InputError(f"{SHIPPED} holds the shipped model's codes. Run python -m recipe.restore to "
                         "continue training with them, or move it away to fit new ones and start over.")
    rng, tensors = np.random.default_rng(0), {}
    for name, pixels in (("object", training_sprites(Artwork(options.artwork), rng)),
                         ("style", training_styles(rng))):
        code, held = fit(pixels, POWER[name])
        print(f"{name}: {WIDTH} components explain {held:.1%} of the variance of {len(pixels)} samples")
        tensors |= {f"{name}.mean": code.mean, f"{name}.basis": code.basis.contiguous()}
    with atomic_write(FILE) as partial:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial)


if __name__ == "__main__":
    sys.exit(main())
