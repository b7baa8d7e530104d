"""Encodes the training images once, then trains text encoder and UNet together on Equation 1.

    python -m recipe.diffusion --minutes 120 [--decay] [--device cuda]
    torchrun --nproc_per_node 2 -m recipe.diffusion ...     two single-threaded processes: faster on two cores

In about half of the captions a slot replaces a name: its embedding is the code (codes.py) of what the image
shows, plus noise. Names start at the mean code of their sprites. A tenth of the captions is dropped for
classifier-free guidance (Ho & Salimans 2022). The loss at each timestep is weighted by min(SNR, 5) / SNR
(Hang et al. 2023, arXiv 2303.09556), and a batch's timesteps are spread evenly over the schedule. A sheet of
samples is saved every half hour and at the end.
"""
from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

import textinv
from ldm import Autoencoder, InputError, LatentDiffusion, LearnedWords, TextEncoder, Tokenizer
from recipe import autoencoder, codes, data, sheets, vocabulary
from recipe.artwork import Artwork
from recipe.captions import SLOTS
from recipe.sizes import CONFIG
from recipe.training import (
    Training,
    add_dtype_option,
    autocast,
    averaged_weights,
    barrier,
    check_options,
    join,
)
from textinv.commands import command
from weights.vocabularies import read_vocabulary

COMMAND = "python -m recipe.diffusion"
CHECKPOINT = Path("recipe-work/diffusion.pt")
LATENTS, DIGEST = Path("recipe-work/latents.npy"), Path("recipe-work/latents.sha256")
EMPTY = 0.1                     # fraction of the captions that are dropped
SNR_CAP = 5.0
SHEET_SECONDS = 1800
PROMPTS = ("a photo of a glossy cat on a red background", "a photo of a flat dog on the beach",
           "a photo of a cartoon hamburger in the city", "a photo of a glossy car on the moon",
           "a dark photo of a frog on a blue background",
           "a photo of a small flat tiger on a white background",
           "a close-up photo of a strawberry", "a photo of a cartoon rocket in the snow",
           "a photo of a penguin on a yellow background", "a photo of a glossy house on the grass")


def read_latents(pixels: np.ndarray, encoder: Autoencoder, device: str, dtype: str) -> np.ndarray:
    """Mean and standard deviation of every image's posterior, float16 (n 2 c h w), memory-mapped from a file.
    Unless the file already holds these images encoded by this encoder, in whatever dtype, it is written
    first, with matrix products and convolutions in `dtype`; under torchrun each process encodes its share.
    Raises InputError if the file is damaged or cannot be written."""
    shape = (len(pixels), 2, CONFIG.autoencoder.embed_dim, *[CONFIG.diffusion.latent_size] * 2)
    rank, world_size = join()
    digest = source_digest(pixels, encoder)
    known = DIGEST.read_text(encoding="utf-8") if DIGEST.exists() else ""
    if not LATENTS.exists() or known != digest:
        partial = LATENTS.with_suffix(".partial")
        try:
            if rank == 0:
                data.write_zeros(partial, np.float16, shape)
            barrier()
            latents = np.load(partial, mmap_mode="r+")
            shares = np.array_split(np.arange(len(pixels)), len(pixels) // 100 + 1)[rank::world_size]
            with torch.no_grad(), autocast(device, dtype):
                for rows in tqdm(shares, desc="encoding", disable=rank > 0, mininterval=10):
                    posterior = encoder.encode(autoencoder.pixels_to_x(pixels[rows]).to(device))
                    both = torch.stack([posterior.mean.float(), posterior.std.float()], dim=1)
                    latents[rows] = both.half().cpu().numpy()
            latents.flush()
            barrier()
            if rank == 0:
                DIGEST.unlink(missing_ok=True)      # must never be next to latents from another source
                partial.replace(LATENTS)
                DIGEST.write_text(digest, encoding="utf-8")
            barrier()
        except OSError as error:
            raise InputError(f"{LATENTS} cannot be written ({error.strerror}). "
                             "Check the free space.") from error
    try:
        return np.load(LATENTS, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{LATENTS} is damaged. Delete it; it will be recreated.") from error


def source_digest(pixels: np.ndarray, encoder: Autoencoder) -> str:
    """SHA-256 of what latents are made from: the images, and the weights that encode them."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    for name, tensor in encoder.state_dict().items():
        if name.startswith(autoencoder.ENCODER):
            digest.update(tensor.cpu().numpy().tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def scale_factor(latents: np.ndarray) -> float:
    """The factor that scales latents to unit variance (Rombach et al. 2021, appendix G)."""
    some = latents[:2000].astype(np.float32)
    return float(1 / np.sqrt(some[:, 0].var() + np.square(some[:, 1]).mean()))


def load(device: str, weights_of: dict[str, Tensor] | None = None) -> tuple[LatentDiffusion, float]:
    """The model from all stages, with averaged weights, and the minutes that text encoder and UNet were
    trained. Raises InputError if they have not been trained."""
    minutes = 0.0
    if weights_of is None:
        weights_of, minutes = averaged_weights(CHECKPOINT, COMMAND)
    scale = float(weights_of["scale_factor"])
    diffusion = dataclasses.replace(CONFIG.diffusion, scale_factor=scale)
    model = LatentDiffusion(dataclasses.replace(CONFIG, diffusion=diffusion))
    model.autoencoder = autoencoder.load()[0]
    for part in ("unet", "text_encoder"):
        getattr(model, part).load_state_dict({name.removeprefix(f"{part}."): tensor
                                              for name, tensor in weights_of.items()
                                              if name.startswith(part)})
    model.tokenizer.read_from(lambda: read_vocabulary(vocabulary.OUT))
    return model.eval().requires_grad_(False).to(device), minutes


def tokenizer() -> Tokenizer:
    """The tokenizer with the captions' vocabulary. Raises InputError if that has not been written."""
    if not vocabulary.OUT.exists():
        raise InputError(f"{vocabulary.OUT} is missing. Run {vocabulary.COMMAND} first.")
    return Tokenizer(lambda: read_vocabulary(vocabulary.OUT), CONFIG.text.length,
                     LearnedWords(CONFIG.text.vocab_size, CONFIG.text.width))


class Denoiser(nn.Module):
    """What this stage trains. The latents' scale factor is stored with the weights trained on it."""
    scale_factor: Tensor

    def __init__(self, scale: float):
        super().__init__()
        model = LatentDiffusion(CONFIG)
        self.text_encoder = cast(TextEncoder, model.text_encoder)       # CONFIG asks for the paper's
        self.unet, self.schedule = model.unet, model.schedule
        self.register_buffer("scale_factor", torch.tensor(scale))

    def loss(self, z0: Tensor, ids: Tensor, v: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Equation 1 with each sample weighted by its timestep. z0 and eps (b c h w), ids (b n), t (b);
        v (b s d) are the codes of each sample's slots."""
        c = self.text_encoder.encode(self.text_encoder.embed(own_rows(ids, self.text_encoder.vocab_size, v),
                                                             v.flatten(0, 1)))
        eps_hat = self.unet(self.schedule.add_noise(z0, eps, t), t, c)
        a = self.schedule.alphas_cumprod[t]
        weight = (SNR_CAP * (1 - a) / a).clamp(max=1)                        # min(SNR, cap) / SNR
        return ((eps - eps_hat.float()).square().mean(dim=(1, 2, 3)) * weight).mean()


def own_rows(ids: Tensor, first: int, v: Tensor) -> Tensor:
    """Offset slot ids (first + s) in ids (b n): each sample gets its own rows of v (b s d) as (b*s d)."""
    offset = v.shape[1] * torch.arange(len(ids), device=ids.device)[:, None]
    return torch.where(ids >= first, ids + offset, ids)


def noisy(v: Tensor, generator: torch.Generator) -> Tensor:
    """Codes (b s d) plus noise of up to NOISE times their norm."""
    part = codes.NOISE * torch.rand(*v.shape[:2], 1, generator=generator)
    return v + part * codes.NORM * v.shape[-1] ** -0.5 * torch.randn(v.shape, generator=generator)


def either_side(v: Tensor, generator: torch.Generator) -> Tensor:
    """Codes (b s d) with the object codes mirrored in half of the samples, at random: images show either
    side, whatever the code."""
    mirror = torch.rand(len(v), 1, 1, generator=generator) < 0.5
    with torch.autocast("cpu", enabled=False):
        objects = torch.where(mirror, codes.read()["object"].mirrored(v[:, :2]), v[:, :2])
    return torch.cat([objects, v[:, 2:]], dim=1)


def caption_ids(captions: list[list[str]]) -> Tensor:
    """Token ids, int16 (n CAPTIONS length); slots are the first private ids."""
    model = LatentDiffusion(CONFIG)
    model.tokenizer.read_from(lambda: read_vocabulary(vocabulary.OUT))
    for slot in SLOTS:
        textinv.patch(model, textinv.Concept(slot, torch.zeros(1, CONFIG.text.width)))
    flat = model.tokenizer([text for texts in captions for text in texts])
    return flat.to(torch.int16).view(len(captions), -1, CONFIG.text.length)


def set_names(encoder: TextEncoder, rows: dict[str, Tensor]) -> None:
    """Set the embeddings of those names, or any tokens, that are a single token."""
    tokens = {token: i for i, token in enumerate(vocabulary.tokens())}
    with torch.no_grad():
        for name, row in rows.items():
            if name in tokens:
                encoder.token_emb.weight[tokens[name]] = row


def even_times(count: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """`count` timesteps, one uniform in each of `count` equal intervals: a batch's loss then varies less."""
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (spread * timesteps).long().clamp(max=timesteps - 1)


@torch.no_grad()
def sheet(model: LatentDiffusion, path: Path, each: int = 4, guidance: float = 5.0) -> None:
    """Save samples of every prompt, in two columns. Raises InputError if the file cannot be written."""
    prompts = [prompt for prompt in PROMPTS for _ in range(each)]
    images = model.generate(prompts, steps=50, guidance=guidance, batch=20)
    pixels = rearrange(np.stack([np.asarray(image) for image in images]),
                       "(row two each) y x rgb -> (row y) (two each x) rgb", two=2, each=each)
    sheets.save(sheets.enlarged(pixels), path)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=120,
                        help="0 to only generate samples (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=8e-4)
    add_dtype_option(parser)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--decay", action="store_true", help="decay the learning rate to 0, for the last run")
    parser.add_argument("--average", type=float, default=0.999,
                        help="decay of the averaged weights (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    check_options(options, CHECKPOINT)
    train(options)


def train(options: argparse.Namespace) -> None:
    images, device = data.read("train"), options.device
    latents = read_latents(images.pixels, autoencoder.load(device)[0], device, options.dtype)
    ids, empty = caption_ids(images.captions), tokenizer()([""])
    torch.manual_seed(0)
    denoiser, timesteps = Denoiser(scale_factor(latents)).to(device), CONFIG.diffusion.timesteps
    set_names(denoiser.text_encoder, codes.name_codes(Artwork()))
    training = Training(denoiser, CHECKPOINT, options.average,
                        outer=(denoiser.unet.input_blocks[0], denoiser.unet.out), dtype=options.dtype)
    with torch.no_grad():
        denoiser.scale_factor.fill_(scale_factor(latents))

    def loss_of_batch(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(ids), (options.batch,), generator=generator)
        worded = ids[rows, torch.randint(ids.shape[1], (options.batch,), generator=generator)].long()
        v = noisy(either_side(torch.from_numpy(images.codes[rows.numpy()]).float(), generator), generator)
        mean, std = torch.from_numpy(latents[rows.numpy()]).float().unbind(dim=1)
        z0 = denoiser.scale_factor.cpu() * (mean + std * torch.randn(mean.shape, generator=generator))
        dropped = torch.rand(options.batch, 1, generator=generator) < EMPTY
        batch = (z0, torch.where(dropped, empty, worded), v, torch.randn(z0.shape, generator=generator),
                 even_times(options.batch, timesteps, generator))
        return denoiser.loss(*(tensor.to(device) for tensor in batch))

    last_sheet = time.monotonic()
    for _ in training.run(options.minutes, options.lr, loss_of_batch, decay=options.decay):
        if training.rank == 0 and time.monotonic() - last_sheet > SHEET_SECONDS:
            sheet(load(device, training.averaged.weights)[0], CHECKPOINT.with_suffix(".png"))
            last_sheet = time.monotonic()
    if training.rank:
        return
    model, minutes = load(device)
    sheet(model, CHECKPOINT.with_suffix(".png"))
    print(f"after {minutes:.0f} minutes, {training.step} steps")


if __name__ == "__main__":
    sys.exit(main())
