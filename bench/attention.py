"""`python -m bench attention`: the fused kernel against explicit products, forward and with backward."""
from __future__ import annotations

import argparse
import statistics

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from bench.timing import machine, seconds

SHAPES = [(64, 77, 128, 4), (77, 77, 192, 4), (256, 256, 256, 8), (1024, 1024, 320, 8)]  # n, m, width, heads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:                        # b h n d, b h m d -> b h n d
    """softmax(q k^T / sqrt(d)) v, by explicit products."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(dim=-1) @ v


def main(args: argparse.Namespace) -> None:
    """The command."""
    print(machine(args.device))
    print("milliseconds, plain / fused")
    for dtype in (torch.float32, torch.bfloat16):
        for backward in (False, True):
            for n, m, width, heads in SHAPES:
                times = [_milliseconds(kernel, n, m, width, heads, dtype, backward, args)
                         for kernel in (plain, F.scaled_dot_product_attention)]
                print(f"  {str(dtype)[6:]:9s} {'both' if backward else 'forward':8s} "
                      f"n {n:5d}  m {m:5d}  width {width:4d}  {times[0]:9.2f} / {times[1]:.2f}")


def _milliseconds(kernel, n: int, m: int, width: int, heads: int, dtype: torch.dtype, backward: bool,
                  args: argparse.Namespace) -> float:
    q, k, v = (torch.randn(args.batch, rows, width, device=args.device, dtype=dtype, requires_grad=backward)
               for rows in (n, m, m))

    def run() -> None:
        split = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
        out = rearrange(kernel(*split), "b h n d -> b n (h d)")
        if backward:
            torch.autograd.grad(out.sum(), (q, k, v))

    repeats = max(1, 2 ** 24 // (args.batch * n * m))
    run()
    return 1e3 * statistics.median(seconds(lambda: [run() for _ in range(repeats)], args.device) / repeats
                                   for _ in range(args.repeats))
