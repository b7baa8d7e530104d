"""The judge of the small world: a small ResNet (He et al. 2015) with one head each for objects, backgrounds
and styles, and its weights file. `python -m recipe.recognizer` trains it.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm import InputError
from recipe.autoencoder import pixels_to_x
from recipe.backdrops import BACKDROPS
from recipe.filters import ALL as FILTERS
from recipe.objects import OBJECTS, STYLES
from recipe.scenery import SIZE
from weights.files import atomic_write

COMMAND = "python -m recipe.recognizer"
CHECKPOINT, WEIGHTS = Path("recipe-work/recognizer.pt"), Path("recipe-work/recognizer.safetensors")
SHIPPED = Path(__file__).parent / "shipped/recognizer.safetensors"

NAMES = {"object": tuple(OBJECTS), "background": tuple(BACKDROPS), "style": (*STYLES, *FILTERS)}
INDEX = {head: {name: i for i, name in enumerate(names)} for head, names in NAMES.items()}
CHANNELS, BLOCKS = (32, 64, 128, 224), (1, 1, 1)


class Block(nn.Module):
    """A residual block; the first of each stage halves the resolution."""

    def __init__(self, before: int, after: int):
        super().__init__()
        stride = 1 if before == after else 2
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(8, after) for _ in range(2))
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(h)) + self.skip(x))


class Recognizer(nn.Module):
    """x (b 3 H W) in [-1, 1] -> for each head its logits (b names), divided by the head's temperature. With
    group normalization an image is judged the same in any batch, during training and after."""
    temperature: Tensor

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, CHANNELS[0], 5, stride=2, padding=2, bias=False),
                                  nn.GroupNorm(8, CHANNELS[0]), nn.ReLU())
        self.stages = nn.ModuleList(
            nn.Sequential(Block(before, after), *(Block(after, after) for _ in range(blocks - 1)))
            for before, after, blocks in zip(CHANNELS[:-1], CHANNELS[1:], BLOCKS, strict=True))
        self.heads = nn.ModuleDict({head: nn.Linear(2 * CHANNELS[-1], len(NAMES[head])) for head in NAMES})
        self.register_buffer("temperature", torch.ones(len(NAMES)))

    def features(self, x: Tensor) -> list[Tensor]:
        """After the stem and after each stage: (b 32 H/2 W/2), (b 64 H/4 W/4), ... (b 224 H/16 W/16)."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        last = self.features(x)[-1]
        pooled = torch.cat([last.mean(dim=(2, 3)), last.amax(dim=(2, 3))], dim=1)       # b 2c
        return {head: linear(pooled).float() / self.temperature[i]
                for i, (head, linear) in enumerate(self.heads.items())}

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> dict[str, Tensor]:
        """x (n 3 H W), for any n -> probabilities (n names) for each head, on the CPU."""
        parts = [self(some.to(self.temperature.device)) for some in x.split(250)]
        return {head: torch.cat([part[head] for part in parts]).softmax(dim=1).cpu() for head in NAMES}


def images_to_x(images: Sequence[Image.Image]) -> Tensor:
    """n images of any size -> x (n 3 SIZE SIZE) in [-1, 1]."""
    return pixels_to_x(np.stack([
        np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)) for image in images]))


def save(recognizer: Recognizer, path: Path) -> None:
    """Write the weights in half precision, with the names. Raises InputError if writing fails."""
    with atomic_write(path) as partial:
        save_file({name: tensor.half().cpu() for name, tensor in recognizer.state_dict().items()}, partial,
                  {head: json.dumps(names) for head, names in NAMES.items()})


def load(path: Path | None = None, device: str = "cpu") -> Recognizer:
    """The judge from that file, in single precision and frozen; by default the one trained here, or else the
    shipped one. Raises InputError if it is missing, damaged, or of another world."""
    path = path or (WEIGHTS if WEIGHTS.exists() else SHIPPED)
    if not path.exists():
        raise InputError(f"{path} does not exist. Run {COMMAND} first.")
    recognizer = Recognizer()
    try:
        with safe_open(path, "pt") as file:
            names = {head: tuple(json.loads(text)) for head, text in (file.metadata() or {}).items()}
            if names != NAMES:
                raise InputError(f"{path} was trained on another world. Move it and {CHECKPOINT} away, "
                                 f"then run {COMMAND}.")
            recognizer.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}). "
                         f"Recreate it with {COMMAND} --minutes 0.") from error
    return recognizer.eval().requires_grad_(False).to(device)
