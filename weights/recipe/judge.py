"""The small CLIP (Radford et al. 2021) as a judge of pictures of the small world: read from the folder that
its training wrote, transformers' own layout, and asked which of several captions fits a picture best.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ldm import InputError, Tokenizer
from ldm.tokenizer import read_vocabulary
from weights.recipe.autoencoder import pictures_to_x
from weights.recipe.scenery import SIZE

COMMAND = "python -m weights.recipe.clip"
FOLDER = Path("recipe-work/clip")
VOCABULARY = "vocab.txt"


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIPModel with its vocabulary; pictures and captions become vectors of length 1."""
    model: nn.Module
    tokenizer: Tokenizer

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """b square pictures of any size -> (b d)."""
        pixels = np.stack([np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
                           for image in images])
        return embed_x(self.model, pictures_to_x(pixels).to(self.model.device))

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Tensor:
        """b captions -> (b d)."""
        return embed_ids(self.model, self.tokenizer(captions).to(self.model.device))


def embed_x(model: nn.Module, x: Tensor) -> Tensor:
    """Pictures (b 3 H W) in [-1, 1] -> (b d)."""
    pooled = model.vision_model(pixel_values=x).pooler_output           # b width
    return F.normalize(model.visual_projection(pooled).float(), dim=-1)


def embed_ids(model: nn.Module, ids: Tensor) -> Tensor:
    """Captions (b n) -> (b d). Attention is causal and pooling at [SEP], so that padding plays no part."""
    pooled = model.text_model(input_ids=ids).pooler_output              # b width
    return F.normalize(model.text_projection(pooled).float(), dim=-1)


def right_first(similarity: Tensor, right: Tensor) -> Tensor:
    """Whether the right candidate, by its index (n), is more similar than each other one (n k): n booleans.
    One that is only as similar as another does not come first."""
    others = similarity.scatter(1, right[:, None], -torch.inf).amax(dim=1)
    return similarity.gather(1, right[:, None])[:, 0] > others


def transformers() -> ModuleType:
    """The library, without its progress bars and reports. Raises InputError where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise InputError("transformers is not installed, and the small CLIP is a model of it: "
                         'pip install -e ".[eval]"') from error
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def read(folder: Path = FOLDER, device: str = "cpu") -> Clip:
    """The CLIP of that folder in float32. Raises InputError if it is not there, or damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder: run {COMMAND} first")
    library = transformers()
    try:
        model, report = library.CLIPModel.from_pretrained(folder, local_files_only=True,
                                                          output_loading_info=True)
    except Exception as error:          # whatever the library and safetensors make of a damaged file
        raise InputError(f"{folder}: cannot be read as a CLIPModel ({type(error).__name__}): "
                         f"run {COMMAND} again") from error
    if lacking := report["missing_keys"]:
        raise InputError(f"{folder}: lacks {len(lacking)} tensors of the model: run {COMMAND} again")
    backend, text = read_vocabulary(folder / VOCABULARY), model.config.text_config
    return Clip(model.float().eval().requires_grad_(False).to(device),
                Tokenizer(lambda: backend, text.max_position_embeddings, text.vocab_size))
