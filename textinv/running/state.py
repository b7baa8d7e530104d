"""A saved state: the tensors that the remaining steps depend on, and what tells whether they can be trusted:
everything that they in turn depend on, and a checksum over all of it. The file is a safetensors file with
one metadata entry, a JSON object.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from ldm import InputError
from weights.files import atomic_write

STATE, PREVIOUS = "state.safetensors", "state.previous.safetensors"
KEY = "state"           # the only metadata entry: several would be written in random order


@dataclass(frozen=True)
class SavedState:
    """A state that a run can be resumed from. `identity` is what the run's word depends on, by name, in JSON
    types; the first `metrics_bytes` bytes of metrics.jsonl belong to the state, with that hash."""
    tensors: dict[str, Tensor]
    identity: Mapping[str, Any]
    metrics_bytes: int
    metrics_sha256: str


def write_state(folder: Path, state: SavedState) -> None:
    """Write the state atomically; the existing one becomes the previous one. Raises InputError if it cannot
    be written."""
    about = {"identity": state.identity, "metrics_bytes": state.metrics_bytes,
             "metrics_sha256": state.metrics_sha256}
    metadata = json.dumps({**about, "sha256": checksum(state.tensors, about)})
    path = folder / STATE
    with atomic_write(path) as partial:
        save_file(state.tensors, partial, {KEY: metadata})
        if path.exists():
            path.replace(folder / PREVIOUS)


def drop_newest(folder: Path) -> None:
    """Replace the newest state, which is damaged or missing, with the previous one, which the next save would
    otherwise overwrite with the damaged one. Raises InputError if it cannot be done."""
    try:
        (folder / PREVIOUS).replace(folder / STATE)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}). Check the folder.") from error


def read_state(path: Path) -> SavedState:
    """Read the state from a file. Raises InputError if it is missing, damaged or of another version."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = json.loads(metadata.get(KEY, "{}"))
        is_whole = about.pop("sha256", None) == checksum(tensors, about)
    except FileNotFoundError as error:
        raise InputError(f"{path.name} is missing") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError
            ) as error:
        raise InputError(f"{path.name} is damaged") from error
    if "metrics_bytes" in metadata or is_whole and "metrics_sha256" not in about:
        raise InputError(f"{path.name} was saved by an older version, which kept no checksum; finish the run "
                         "with that version")
    if not is_whole:
        raise InputError(f"{path.name} is damaged: its checksum does not match")
    return SavedState(tensors, **about)


def check_metrics(path: Path, state: SavedState) -> None:
    """Raise InputError if the beginning of metrics.jsonl has changed since the state was saved."""
    try:
        found = metrics_hash(path, state.metrics_bytes)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror})") from error
    if found != state.metrics_sha256:
        raise InputError(f"{path.name} was truncated or edited: its lines do not match the state")


def metrics_hash(path: Path, size: int) -> str:
    """The SHA-256 of a file's first `size` bytes, or of all of it if it is shorter."""
    with path.open("rb") as metrics:
        return hashlib.sha256(metrics.read(size)).hexdigest()


def checksum(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """A SHA-256 of the names, dtypes, shapes and bytes of the tensors, and of `about`."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def mismatch(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Describe the first tensor whose name, dtype or shape is not as expected; None if there is none. A
    dimension that is 0 in `expected` may have any size."""
    for name in sorted(tensors.keys() | expected.keys()):
        got, wanted = tensors.get(name), expected.get(name)
        if got is None or wanted is None:
            return f"{name} is {'missing' if got is None else 'unexpected'}"
        if got.dtype != wanted.dtype or got.ndim != wanted.ndim or any(
                b not in (a, 0) for a, b in zip(got.shape, wanted.shape, strict=True)):
            return f"{name} is {got.dtype} {list(got.shape)} instead of {wanted.dtype} {list(wanted.shape)}"
    return None
