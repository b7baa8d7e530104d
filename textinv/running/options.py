"""The options of a run, apart from the method's: where things are, what it computes on, what it writes and
when. Also the options of a resumed run, which are the run's own.
"""
from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ldm import InputError
from ldm.errors import first_line
from textinv.options import InversionConfig, check, option
from textinv.running.folder import read_record
from textinv.running.processes import local_device


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of `textinv train` besides those of `InversionConfig`. Raises InputError on invalid
    values."""
    images: str = option("", "folder of images, or one image", metavar="PATH", may_change=True)
    weights: str = option("tiny", "'tiny', a checkpoint, a folder in Hugging Face layout, or a hub id",
                          may_change=True)              # a file may move: its content counts
    vocab: str | None = option(None, "vocabulary for a checkpoint without one: vocab.txt, or for Stable "
                               "Diffusion vocab.json with merges.txt next to it", metavar="FILE",
                               may_change=True)
    out: str | None = option(None, "run folder (default: runs/ plus the name of the images' folder)",
                             metavar="DIR", may_change=True)
    device: str = option("auto", "cpu, cuda, mps, ...; auto picks cuda or mps if available",
                         may_change=True)
    dtype: str = option("auto", "dtype of the frozen weights; auto is bfloat16 on hardware that is fast with "
                        "it, else float32", choices=("auto", "float32", "bfloat16"))
    preview_every: int = option(50, "steps between preview grids; 0 for none, which saves time",
                                minimum=0, may_change=True)
    save_every: int = option(100, "steps between saved states; the last step is always saved", minimum=1,
                             may_change=True)
    tensorboard: bool = option(False, "also write the metrics for TensorBoard", may_change=True)
    resume: bool = option(False, "continue the run in --out; options not given keep their values",
                          may_change=True)

    def __post_init__(self) -> None:
        check(self)
        images = os.path.realpath(os.path.expanduser(self.images))
        if self.images and os.path.realpath(self.folder) == images:
            raise InputError(f"`out` is {self.folder}, where the images are. Choose another folder for the "
                             "run.")

    @property
    def folder(self) -> Path:
        """The run's folder, by default named after the images' folder, or the image."""
        if self.out:
            return Path(os.path.expanduser(self.out))
        path = Path(os.path.expanduser(self.images)).resolve()
        return Path("runs") / (path.stem if path.is_file() else path.name)


def split(given: Mapping[str, Any]) -> tuple[InversionConfig, RunOptions]:
    """Options by name -> the method's and the run's. Other names are dropped."""
    def options_of(cls: type) -> Any:
        return cls(**{name: value for name, value in given.items() if name in cls.__dataclass_fields__})

    return options_of(InversionConfig), options_of(RunOptions)


def resumed(given: Mapping[str, Any]) -> tuple[InversionConfig, RunOptions]:
    """The options of the run to resume, updated with those of `given` that may change. Raises InputError if
    any others differ, or if there is no such run."""
    if not given.get("out") and not given.get("images"):
        raise InputError("`resume` needs a run. Give its folder as `out`, or its `images`.")
    folder = split({name: given[name] for name in ("out", "images") if name in given})[1].folder
    record = read_record(folder)
    try:
        own = split(record)
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from error
    recorded, may_not = as_dict(*own), fixed(*own)
    given = {name: value for name, value in given.items()
             if (name, value) != ("dtype", "auto")}     # already resolved: the record says to what
    may_change = [name for name in recorded if name not in may_not]
    differ = [f"`{name}` {value} (was {recorded[name]})" for name, value in given.items()
              if name in may_not and value != recorded[name]]
    if differ:
        raise InputError(f"{folder}: cannot resume with {', '.join(differ)}. Drop that, or start a new run "
                         "with `out`. You may change "
                         + ", ".join(f"`{name}`" for name in may_change if name != "resume"))
    return split({**recorded, **given, "out": str(folder)})


def as_dict(config: InversionConfig, options: RunOptions) -> dict[str, Any]:
    """All options by name."""
    return {**dataclasses.asdict(options), **dataclasses.asdict(config)}


def fixed(config: InversionConfig, options: RunOptions) -> dict[str, Any]:
    """The options by name that must not change when a run is resumed: those that the word depends on. A
    progressive word also depends on the number of steps, which decides when it grows."""
    kept = {field.name: getattr(part, field.name) for part in (options, config)
            for field in dataclasses.fields(part) if not field.metadata["may_change"]}
    return {**kept, "steps": config.steps} if config.progressive else kept


def resolve_device(device: str) -> str:
    """The device that "auto" stands for, or the one requested.
    Raises InputError if it does not exist here, or cannot compute, such as "meta"."""
    if device == "auto":
        return ("cuda" if torch.cuda.is_available() else
                "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.zeros(1, device=local_device(device)).item()
    except InputError:
        raise
    except Exception as error:          # torch raises a different type for almost every missing device
        why = first_line(error).split(". ")[0]
        raise InputError(f"`device` {device} is not available here ({why}). "
                         "Use cpu or auto.") from error
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """The precision that "auto" stands for on a device, by a fixed rule: bfloat16 on an accelerator or a CPU
    that is faster with it. Other CPUs emulate it at a fraction of float32's speed, as may Apple's MPS."""
    if dtype != "auto":
        return dtype
    kind = torch.device(device).type
    has_bfloat16 = cpu_has_fast_bfloat16() if kind == "cpu" else kind != "mps"
    return "bfloat16" if has_bfloat16 else "float32"


def cpu_has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies faster in bfloat16 than in float32: with AMX, or with AMD's AVX512-BF16.
    With only Intel's AVX512-BF16, it does 0.7 x as many steps as in float32 (bench/NOTES.md). Older versions
    of PyTorch have no public API for this; with those, it is detected only on Linux."""
    if hasattr(torch.cpu, "get_capabilities"):
        flags = {name for name, there in torch.cpu.get_capabilities().items() if there is True}
    else:
        try:
            flags = set(Path("/proc/cpuinfo").read_text().split())
        except OSError:
            return False
    return "amx_bf16" in flags or {"avx512_bf16", "sse4a"} <= flags         # only AMD has SSE4a
