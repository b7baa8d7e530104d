"""The small CLIP (Radford et al. 2021) as a judge of images of the small world: which of several captions
fits an image best.
"""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ldm import InputError
from weights.clip import Clip, load

COMMAND = "python -m recipe.clip"
FOLDER = Path("recipe-work/clip")


def right_first(similarity: Tensor, right: Tensor) -> Tensor:
    """n booleans: whether the candidate with index right (n) is more similar (n k) than all others. A tie
    does not count as first."""
    others = similarity.scatter(1, right[:, None], -torch.inf).amax(dim=1)
    return similarity.gather(1, right[:, None])[:, 0] > others


def read(folder: Path = FOLDER, device: str = "cpu") -> Clip:
    """The CLIP in that folder. Raises InputError if it is missing or damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist. Run {COMMAND} first.")
    return load(folder, device)
