"""What became of the tensors of a checkpoint: each is in the model, bit for bit at the model's precision, or
was left out for a reason. The source is read again, so the answer is what loading did, not what it meant to
do. In a folder, the files that loading reads are read, without the position_ids of older versions.
"""
from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from ldm import LatentDiffusion
from weights import _locate, compvis, huggingface, huggingface_names
from weights.files import open_tensors


@dataclass(frozen=True)
class Inventory:
    """The tensors of a checkpoint and of a model loaded from it."""
    equal: int                      # tensors of the model that equal the source's
    different: list[str]            # tensors of the model that differ, or are not in the source
    left_out: dict[str, int]        # reason -> number of tensors of the source
    unexplained: list[str]          # tensors of the source that are neither in the model nor known


def take_inventory(model: LatentDiffusion, source: str | Path) -> Inventory:
    """Compare a model with the source that `weights.load` read. Raises InputError if it cannot be read."""
    path = _locate(source)
    if path.is_dir():
        file = tensors = huggingface.open_folder(path)
        file_key = huggingface_names.file_key
    else:
        file = open_tensors(path).tensors
        tensors, _ = compvis.canonical(file)
        file_key = compvis.file_key
    used, different = set(), []
    for key, own in model.state_dict().items():
        lazy = tensors.get(file_key(key, model.config))
        used.add(id(lazy))
        if lazy is None or not torch.equal(lazy.read().reshape(own.shape).to(own.dtype), own.cpu()):
            different.append(key)
    others = [name for name, lazy in file.items() if id(lazy) not in used]
    reasons = {name: _reason(name) for name in others}
    return Inventory(len(model.state_dict()) - len(different), different,
                     dict(Counter(reason for reason in reasons.values() if reason is not None)),
                     [name for name, reason in reasons.items() if reason is None])


def _reason(name: str) -> str | None:
    """Why a tensor of the original layout is not loaded; None if the tensor is not known."""
    if name.startswith(compvis.PREFIXES["unet"]):
        return "last weights of the UNet, of which the file has the running average"
    return next((reason for pattern, reason in compvis.IGNORED.items() if re.fullmatch(pattern, name)), None)
