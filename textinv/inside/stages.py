"""What is recorded for each stage of a computation: where in the code it happens, what comes out, and what it
costs. Locations come from `inspect`, operation counts from torch's own counter; nothing is typed in by hand.
"""
from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import ldm

ROOT = Path(ldm.__file__).parents[1]
T = TypeVar("T")

_aten = torch.ops.aten
# torch's counter knows only the fused attention of GPUs; its formulas hold for the CPU's too
CPU_ATTENTION: dict[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu:
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward:
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)}


@dataclass(frozen=True)
class Stage:
    """One line of the trace. The tensor's statistics are None if there is no tensor (a prompt is text)."""
    name: str                       # as in the notation of ldm/__init__.py
    formula: str
    source: str                     # paper, and section or number of the equation
    where: str                      # file, line and function
    shape: tuple[int, ...]
    dtype: str
    low: float | None
    high: float | None
    norm: float | None
    bytes: int
    milliseconds: float             # including the wait for a CUDA device to finish
    flops: int                      # multiplications and additions in matmuls, convolutions and attention
    note: str
    digest: str                     # of the value, bit for bit


@dataclass
class Teller:
    """Calls functions and records a stage for each. Either measures time or counts operations, since the
    counter takes time itself."""
    device: torch.device
    counting: bool = False
    stages: list[Stage] = field(default_factory=list)

    def __call__(self, name: str, formula: str, source: str, function: Callable[..., Any],
                 compute: Callable[[], T], *, show: Callable[[T], Tensor | list[str]] | None = None,
                 note: Callable[[T], str] | str = "") -> T:
        """Return the result of `compute`, which calls `function`. show: picks the tensor or the lines to
        describe, by default the result itself."""
        counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) if self.counting else None
        self._wait()
        start = time.perf_counter()
        if counter is None:
            result = compute()
        else:
            with counter:
                result = compute()
        self._wait()
        milliseconds = 1000 * (time.perf_counter() - start)
        shown: Any = result if show is None else show(result)
        self.stages.append(Stage(name, formula, source, where(function), **describe(shown),
                                 milliseconds=milliseconds,
                                 flops=0 if counter is None else counter.get_total_flops(),
                                 note=note if isinstance(note, str) else note(result)))
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def where(function: Callable[..., Any]) -> str:
    """"ldm/schedule.py:39 NoiseSchedule.add_noise": file, line and name of a function or method."""
    function = inspect.unwrap(function)
    path = Path(inspect.getsourcefile(function) or "")
    inside = path.is_relative_to(ROOT)
    shown = path.relative_to(ROOT) if inside else "/".join(path.parts[-3:])
    return f"{shown}:{inspect.getsourcelines(function)[1]} {function.__qualname__}"


@torch.no_grad()
def describe(value: Tensor | list[str]) -> dict[str, Any]:
    """The fields of a Stage that describe a value."""
    if isinstance(value, list):
        data = "\n".join(value).encode()
        return {"shape": (len(value),), "dtype": "text", "low": None, "high": None, "norm": None,
                "bytes": len(data), "digest": hashlib.sha256(data).hexdigest()[:12]}
    low, high = (x.item() for x in torch.aminmax(value))
    return {"shape": tuple(value.shape), "dtype": str(value.dtype).removeprefix("torch."), "low": low,
            "high": high, "norm": value.double().norm().item(), "bytes": value.numel() * value.element_size(),
            "digest": digest(value)[:12]}


def digest(value: Tensor) -> str:
    """A checksum of shape, type and every bit."""
    plain = value.detach().cpu().contiguous()
    text = hashlib.sha256(f"{tuple(plain.shape)} {plain.dtype}".encode())
    text.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return text.hexdigest()
