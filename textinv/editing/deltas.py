"""The result of tuning: a low-rank update to a UNet's matrices, its file, and how to apply it. It belongs to
one model, and records which.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ldm import InputError, LatentDiffusion
from textinv.concept import model_hash
from weights.files import atomic_write, open_tensors

_KEY = "textinv.delta"          # metadata key that marks a safetensors file as a delta


def matrices(weight: Tensor) -> tuple[int, int]:
    """A weight's shape as a matrix: its rows, and all other dimensions flattened into columns."""
    return len(weight), weight[0].numel()


@dataclass(frozen=True, eq=False)
class Delta:
    """For each UNet weight W, by name, the factors A (r columns) and B (rows r) of W + B A. They are kept in
    float16 on the CPU, so that a delta and its saved file behave the same, bit for bit.

    model: the hash of the model that it was tuned on. info: how it was made, as a JSON object.
    """
    down: Mapping[str, Tensor]          # A
    up: Mapping[str, Tensor]            # B
    model: str
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("down", "up"):
            object.__setattr__(self, name, {key: factor.detach().to("cpu", torch.float16, copy=True)
                                            for key, factor in getattr(self, name).items()})

    @property
    def fingerprint(self) -> str:
        """A hash that two deltas share only if they are the same, bit for bit."""
        digest = hashlib.sha256(self.model.encode())
        for factors in (self.down, self.up):
            for name, factor in sorted(factors.items()):
                digest.update(f"{name} {list(factor.shape)}".encode() + factor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically. Raises InputError if it cannot be written."""
        tensors = {f"{name}.{which}": factor.contiguous() for which in ("down", "up")
                   for name, factor in getattr(self, which).items()}
        metadata = {"format": "pt", _KEY: json.dumps({"model": self.model, "info": dict(self.info)})}
        path = Path(path)
        with atomic_write(path) as partial:
            path.parent.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file(tensors, partial, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Delta:
        """Read a file. Raises InputError if it is missing or damaged, or was not written by `save`."""
        file = open_tensors(Path(os.path.expanduser(path)))
        try:
            about = json.loads(file.metadata[_KEY])
            tensors = {name: tensor.read() for name, tensor in file.tensors.items()}
            down, up = ({name.removesuffix(f".{which}"): tensor for name, tensor in tensors.items()
                         if name.endswith(f".{which}")} for which in ("down", "up"))
            if not all(tensor.ndim == 2 and tensor.dtype == torch.float16 and tensor.isfinite().all()
                       for tensor in tensors.values()):
                raise ValueError("not finite matrices in float16")
            if not all(len(down[name]) == up[name].shape[1] for name in down):
                raise ValueError("factors of different ranks")
            return cls(down, up, model=about["model"], info=about["info"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: not the delta of a tuned model, or damaged. Give a file written by "
                             "`textinv edit tune`.") from error

    def check_fits(self, model: LatentDiffusion) -> None:
        """Raises InputError if the model is not the one that was tuned."""
        weights = dict(model.unet.named_parameters())
        fits = self.down.keys() == self.up.keys() and all(
            name in weights and (len(self.up[name]), self.down[name].shape[1]) == matrices(weights[name])
            for name in self.down)
        if not fits or model_hash(model) != self.model:
            raise InputError(f"the delta was tuned on a different model (hash {self.model}; this one has "
                             f"{model_hash(model)}). Use it with the weights that it was tuned on.")


@contextlib.contextmanager
def applied(model: LatentDiffusion, delta: Delta) -> Iterator[LatentDiffusion]:
    """Context manager: the model with each W replaced by W + B A. On exit, or on an error, each original W,
    the very same tensor, is restored. Raises InputError if the model is not the one that was tuned."""
    delta.check_fits(model)
    originals: dict[str, nn.Parameter] = {name: model.unet.get_parameter(name) for name in delta.down}
    try:
        for name, weight in originals.items():
            change = delta.up[name].float() @ delta.down[name].float()
            _put(model.unet, name, weight + change.view(weight.shape).to(weight))
        yield model
    finally:
        for name, weight in originals.items():
            _put(model.unet, name, weight)


def _put(unet: nn.Module, name: str, weight: Tensor) -> None:
    module, _, leaf = name.rpartition(".")
    is_own = isinstance(weight, nn.Parameter)
    setattr(unet.get_submodule(module), leaf, weight if is_own else nn.Parameter(weight, requires_grad=False))
