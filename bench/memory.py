"""`python -m bench memory`: peak memory of each part of the work, on random weights.

On a CPU it is the peak of the whole process (Linux: the high-water mark of its resident memory, reset before
each part), including PyTorch's libraries, about 0.4 GiB, and the weights.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from bench.models import SIZES, random_model
from bench.timing import machine
from ldm import LatentDiffusion
from recipe.stopwatch import peak_bytes

GIB = 2 ** 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--size", choices=SIZES, default="sd1")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--batch", type=int, default=1, help="images at a time (default: %(default)s)")
    parser.add_argument("--device", default="cpu")


def main(args: argparse.Namespace) -> None:
    """The command."""
    print(machine(args.device))
    model = random_model(args.size, args.device, getattr(torch, args.dtype))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"{args.size}, {args.dtype}, batch {args.batch}: weights {size / GIB:.2f} GiB; peaks in GiB")
    for name, run in parts(model, args.batch).items():
        print(f"  {name:20s} {peak(run, args.device) / GIB:.2f}", flush=True)


def parts(model: LatentDiffusion, b: int) -> dict[str, Callable[[], object]]:
    """The parts to measure. Like train.py, they run the autoencoder separately from the training steps."""
    side, length = model.config.diffusion.latent_size, model.config.text.length
    ids = torch.randint(model.text_encoder.vocab_size, (b, length)).to(model.device)
    ids[:, 5] = model.text_encoder.vocab_size
    z = torch.randn(b, 4, side, side).to(model.device)
    x = torch.randn(1, 3, *[side * model.config.autoencoder.factor] * 2).to(model.device, model.dtype)

    def step() -> None:
        v = torch.zeros(1, model.words.width, device=model.device, requires_grad=True)
        c = model.text_encoder.encode(model.text_encoder.embed(ids, v))
        model.loss(z, c, z, torch.full((b,), 500, device=model.device)).backward()

    @torch.no_grad()
    def sample() -> None:
        c = model.text_encoder(ids.clamp(max=model.text_encoder.vocab_size - 1))
        model.sample(c, c, steps=1, z_T=z)

    return {"encode an image": torch.no_grad()(lambda: model.encode(x)), "training step": step,
            "sampling step": sample,
            "decode": torch.no_grad()(lambda: model.decode(z.to(model.dtype)))}


def peak(run: Callable[[], object], device: str) -> int:
    """Peak memory in bytes while `run` executes."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")               # resets the high-water mark
    run()
    return peak_so_far(device)


def peak_so_far(device: str) -> int:
    """This process's peak memory in bytes, since it started or since the peak was reset."""
    return torch.cuda.max_memory_allocated(device) if torch.device(device).type == "cuda" else peak_bytes()
