"""Attention, the one function that every network here calls (Vaswani et al. 2017, equation 1; Rombach et
al. 2021, section 3.3). Kernels differ by device; results agree within rounding.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# When no gradient is needed, materializing more scores than this per head and sample costs more
# memory traffic than it saves.
_EXPLICIT_SCORES = 512 * 512

_observer: ContextVar[Callable[[Tensor], None] | None] = ContextVar("observer", default=None)


@contextlib.contextmanager
def observe_attention(observer: Callable[[Tensor], None]) -> Iterator[None]:
    """Context manager: `observer` receives the weights (b heads n m) of every call to `attention` in this
    thread. Their rows sum to 1. They are computed only for the observer: no result changes."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in each head.

    q (b n heads*d), k and v (b m heads*d) -> (b n heads*d); d is the width of one head.
    causal: position i attends only to 0 .. i, and n equals m.
    """
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    if (observer := _observer.get()) is not None:
        observer(_weights(q, k, causal))
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and (
            k.requires_grad or q.shape[2] * k.shape[2] <= _EXPLICIT_SCORES):
        # PyTorch's fused kernel is up to twice as slow here as the plain product, its backward three times;
        # whenever a gradient is computed, the keys depend on v of Equation 2 or on a weight
        out = _weights(q, k, causal) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return rearrange(out, "b h n d -> b n (h d)")


def _weights(q: Tensor, k: Tensor, causal: bool) -> Tensor:                  # b h n d, b h m d -> b h n m
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(diagonal=1)
        scores = scores.masked_fill(later, float("-inf"))
    return scores.softmax(dim=-1)
