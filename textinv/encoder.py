"""An encoder that predicts a word from images, the paper's own future work (Gal et al. 2022, section 6:
inversion times "could likely be shortened by training an encoder"). A small residual network on the
autoencoder's latents regresses the vector for what an image shows; v starts at the mean over the images. It
is meant for a model in which vectors mean something everywhere, as in the embedded default (recipe/codes.py),
and must be trained for that model.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm import InputError, LatentDiffusion

FILE = "encoder.safetensors"            # next to a model's weights


class Residual(nn.Module):
    """x + block(x), where the block is two convolutions (He et al. 2016, pre-activation)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:                                     # b c h w -> b c h w
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class WordEncoder(nn.Module):
    """Scaled latents z (b c h w) of images -> vectors (b d), all with norm `norm`."""
    norm: Tensor

    def __init__(self, latent_channels: int = 4, width: int = 192, channels: Sequence[int] = (48, 96, 176)):
        super().__init__()
        self.conv_in = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        self.stages = nn.ModuleList()
        for before, after in zip([channels[0], *channels[:-1]], channels, strict=True):
            down = (nn.Identity() if before == after else
                    nn.Conv2d(before, after, 3, stride=2, padding=1))           # halves h and w
            self.stages.append(nn.Sequential(down, Residual(after), Residual(after)))
        self.norm_out = nn.GroupNorm(8, channels[-1])
        self.out = nn.Linear(channels[-1], width)
        self.register_buffer("norm", torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)
        for stage in self.stages:
            h = stage(h)
        h = F.silu(self.norm_out(h)).mean(dim=(-2, -1))                         # b c
        return self.norm * F.normalize(self.out(h).float(), dim=-1)

    @torch.no_grad()
    def word(self, z: Tensor) -> Tensor:
        """One vector (1 d) for what n images (n c h w) show: the mean direction of their vectors."""
        return self.norm * F.normalize(self(z).mean(dim=0, keepdim=True), dim=-1)


def encoder_file(model: LatentDiffusion) -> Path:
    """The encoder's file next to the model's weights. Raises InputError if there is none."""
    folder = None if model.source is None else model.source if model.source.is_dir() else model.source.parent
    if folder is None or not (path := folder / FILE).is_file():
        raise InputError("`init` is auto, but this model has no encoder to predict a word from images. Give "
                         "a word for what the images show, such as 'cup'.")
    return path


def load_encoder(model: LatentDiffusion) -> WordEncoder:
    """Load the encoder next to the model's weights, in fp32 on the model's device.
    Raises InputError if there is none, or if it is damaged or made for a model of other sizes."""
    path = encoder_file(model)
    encoder = WordEncoder(model.config.autoencoder.embed_dim, model.text_encoder.config.width)
    try:
        encoder.load_state_dict(load_file(path))
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{path} is damaged, or for a different model ({type(error).__name__}). Restore it, "
                         "or give a word as `init`.") from error
    return encoder.eval().requires_grad_(False).to(model.device)
