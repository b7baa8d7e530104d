"""Trains the autoencoder (f = 4: 64x64 images to 16x16 latents with 4 channels).

    python -m recipe.autoencoder --minutes 60 [--decoder-only] [--device cuda]

The loss is the absolute error of the image; the absolute error of its differences between neighboring pixels,
at three scales, which keeps edges sharp without a perceptual network; and a small KL term (Rombach et al.
2021, section 3.1). The decoder can be trained further by itself, leaving the latents that a diffusion model
has learned unchanged. At the end the command prints the PSNR on images never seen and saves a sheet of them.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm import Autoencoder
from ldm.model import to_images
from recipe import data, sheets
from recipe.sizes import CONFIG
from recipe.training import Training, add_dtype_option, averaged_weights, check_options
from textinv.commands import command

COMMAND = "python -m recipe.autoencoder"
CHECKPOINT = Path("recipe-work/autoencoder.pt")
KL_WEIGHT = 1e-4                # of the mean KL per latent element; the mean absolute error has weight 1
SHARPNESS_WEIGHT = 1.0
ENCODER = ("encoder.", "quant_conv.")           # the weights that latents depend on
CHECKED = ("seen", "held-out", "held-out-style", "held-out-filters")


def pixels_to_x(pixels: np.ndarray) -> Tensor:
    """uint8 (b y x 3) -> x (b 3 H W) in [-1, 1]."""
    return rearrange(torch.from_numpy(np.array(pixels)).float() / 127.5 - 1, "b y x rgb -> b rgb y x")


def sharpness(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences, averaged over three scales."""
    total = x.new_zeros(())
    for scale in (1, 2, 4):
        error = F.avg_pool2d(x - y, scale) if scale > 1 else x - y
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return total / 3


def loss(autoencoder: Autoencoder, x: Tensor, generator: torch.Generator) -> Tensor:
    posterior = autoencoder.encode(x)
    y = autoencoder.decode(posterior.sample(generator)).float()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return (y - x).abs().mean() + SHARPNESS_WEIGHT * sharpness(x, y) + KL_WEIGHT * kl


def load(device: str = "cpu") -> tuple[Autoencoder, float]:
    """The trained autoencoder and its minutes of training. Raises InputError if it has not been
    trained."""
    weights, minutes = averaged_weights(CHECKPOINT, COMMAND)
    autoencoder = Autoencoder(CONFIG.autoencoder)
    autoencoder.load_state_dict(weights)
    return autoencoder.eval().requires_grad_(False).to(device), minutes


@torch.no_grad()
def psnr(autoencoder: Autoencoder, pixels: np.ndarray, device: str = "cpu") -> float:
    """Mean PSNR in dB of the autoencoder's 8-bit reconstructions of images (b y x 3)."""
    values = []
    for some in np.array_split(pixels, max(1, len(pixels) // 50)):
        images = to_images(autoencoder.decode(autoencoder.encode(pixels_to_x(some).to(device)).mode()))
        for image, original in zip(images, some, strict=True):
            error = np.mean((np.asarray(image, np.float64) - original) ** 2)
            values.append(10 * np.log10(255 ** 2 / max(error, 1e-2)))
    return float(np.mean(values))


@torch.no_grad()
def sheet(autoencoder: Autoencoder, pixels: np.ndarray, path: Path, device: str = "cpu") -> None:
    """Save the images with their reconstructions below. Raises InputError if the file cannot be written."""
    images = to_images(autoencoder.decode(autoencoder.encode(pixels_to_x(pixels).to(device)).mode()))
    rows = np.stack([np.concatenate(list(pixels), axis=1),
                     np.concatenate([np.asarray(i) for i in images], axis=1)])
    sheets.save(sheets.enlarged(rearrange(rows, "row y x rgb -> (row y) x rgb")), path)


def train(options: argparse.Namespace, pixels: np.ndarray) -> Training:
    """Train on images (n y x 3), only the decoder if options.decoder_only; return the training's state."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(CONFIG.autoencoder).to(options.device)
    if options.decoder_only:
        autoencoder.encoder.requires_grad_(False)
        autoencoder.quant_conv.requires_grad_(False)
    outer = (autoencoder.encoder.conv_in, autoencoder.decoder.conv_out)
    training = Training(autoencoder, CHECKPOINT, outer=outer, dtype=options.dtype)
    if options.decoder_only:                    # all later stages use the averaged encoder
        autoencoder.load_state_dict({name: tensor for name, tensor in training.averaged.weights.items()
                                     if name.startswith(ENCODER)}, strict=False)

    def loss_of_batch(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pixels), (options.batch,), generator=generator).sort().values
        x = pixels_to_x(pixels[rows.numpy()])
        x = torch.where(torch.rand(options.batch, 1, 1, 1, generator=generator) < 0.5, x, x.flip(-1))
        return loss(autoencoder, x.to(options.device), generator)

    for _ in training.run(options.minutes, options.lr, loss_of_batch, decay=options.decay):
        pass
    return training


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="0 to only measure (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3)
    add_dtype_option(parser)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--decay", action="store_true", help="decay the learning rate to 0, for the last run")
    parser.add_argument("--decoder-only", action="store_true", help="leave the latents unchanged, and with "
                        "them a diffusion model trained on them")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    check_options(options, CHECKPOINT)
    pixels = data.read("train").pixels
    checked = {name: data.read(name).pixels for name in CHECKED}
    training = train(options, pixels)
    if training.rank:
        return
    averaged, minutes = load(options.device)
    print(f"after {minutes:.0f} minutes, {training.step} steps, PSNR on unseen images:")
    for name, pixels in checked.items():
        print(f"  {psnr(averaged, pixels, options.device):.2f} dB  {name}")
    some = np.concatenate([pixels[:6] for pixels in checked.values()])
    sheet(averaged, some, CHECKPOINT.with_suffix(".png"), options.device)


if __name__ == "__main__":
    sys.exit(main())
