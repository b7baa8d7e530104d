"""Attention, the one function that every network here calls (Vaswani et al. 2017, equation 1; Rombach et al. 2021,
section 3.3). Kernels differ by device; results agree within rounding.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# Above this many scores a head and sample, the explicit product's memory costs more than the fused kernel's slowness.
_EXPLICIT_SCORES = 2048 * 2048


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in each head.

    q (b n heads*d), k and v (b m heads*d) -> (b n heads*d); d is the width of one head.
    """
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    if q.device.type == "cpu" and q.shape[2] * k.shape[2] <= _EXPLICIT_SCORES:
        # PyTorch's fused kernel is slower than the plain product on the CPU, its backward most of all
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)                         # b h n m
        out = scores.softmax(dim=-1) @ v                                                 # b h n d
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return rearrange(out, "b h n d -> b n (h d)")
