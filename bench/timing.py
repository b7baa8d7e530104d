"""Timing in pairs: the candidates take turns, so that a slowdown of the machine affects both, and the
medians of their ratios are reported.
"""
from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch


def machine(device: str) -> str:
    """One line that describes the machine."""
    if torch.device(device).type == "cuda":
        chip = torch.cuda.get_device_name(device)
    else:
        chip = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return f"torch {torch.__version__} on {chip}"


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """Wall-clock time of one call, with the device's queue empty before and after."""
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: str) -> None:
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def compare(runs: dict[str, Callable[[], float]], pairs: int, unit: str = "s") -> dict[str, list[float]]:
    """Take each measurement `pairs` times, alternately; print a table with ratios to the last one named,
    and return the measurements."""
    measured: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(pairs):
        for name, run in runs.items():
            measured[name].append(run())
    base = list(runs)[-1]
    for name, values in measured.items():
        line = (f"  {name:28s} median {statistics.median(values):8.3f} {unit}   "
                f"({min(values):.3f} to {max(values):.3f})")
        if len(runs) > 1 and name != base:
            ratios = [a / b for a, b in zip(values, measured[base], strict=True)]
            line += f"   {statistics.median(ratios):.2f} x {base} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line)
    return measured
