"""`python -m bench observer`: what the hook for observing attention costs while nobody observes.
Times denoising steps of the embedded default's UNet with and without `ldm.attention`'s observer, in pairs.
"""
from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

import ldm.unet
import weights
from bench.timing import compare, machine, seconds
from ldm.attention import attention


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20, help="steps per measurement (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=25, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu")


def unobserved(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """`ldm.attention.attention` in float32, without its observer."""
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v, is_causal=causal), "b h n d -> b n (h d)")


def main(args: argparse.Namespace) -> None:
    """The command."""
    print(f"{machine(args.device)}; {args.steps} denoising steps, batch {args.batch}")
    model = weights.load("tiny", args.device)
    pairs = model.unet.keys_values(model.context(["a photo of a cat"] * args.batch))
    z = torch.randn(args.batch, 4, 16, 16, device=args.device)
    t = torch.full((args.batch,), 500, device=args.device)

    @torch.no_grad()
    def steps() -> None:
        for _ in range(args.steps):
            model.unet.denoise(z, t, pairs)

    steps()
    compare({name: functools.partial(_with_kernel, kernel, steps, args.device)
             for name, kernel in (("with the observer", attention), ("without it", unobserved))}, args.pairs)


def _with_kernel(kernel: Callable[..., Tensor], run: Callable[[], object], device: str) -> float:
    before, ldm.unet.attention = ldm.unet.attention, kernel
    try:
        return seconds(run, device)
    finally:
        ldm.unet.attention = before
