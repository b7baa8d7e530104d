"""The small CLIP (Radford et al. 2021), and which of several captions it finds most similar to an image.
`python -m recipe.clip` trains it.
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
    """n booleans, True where the candidate with index right (n) is more similar (n k) than all others. A tie
    does not count as first."""
    others = similarity.scatter(1, right[:, None], -torch.inf).amax(dim=1)
    return similarity.gather(1, right[:, None])[:, 0] > others


def read(folder: Path = FOLDER, device: str = "cpu") -> Clip:
    """The CLIP in that folder. Raises InputError if it is missing or damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist. Run {COMMAND} first.")
    return load(folder, device)
