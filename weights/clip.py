"""CLIP (Radford et al. 2021), the space in which images and prompts are compared (Gal et al. 2022,
section 5.1): any CLIPModel in transformers' layout. The small one next to the embedded default model knows
that model's small world; for the public checkpoint, use openai/clip-vit-base-patch32.
"""
from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm import InputError

BATCH = 64


@dataclass(frozen=True, eq=False)
class Clip:
    """Embeds images and texts as unit vectors."""
    model: Any                      # CLIPModel
    tokenizer: Any
    processor: Any

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """b images of any size -> (b d) fp32."""
        parts = []
        for start in range(0, len(images), BATCH):
            part = [image.convert("RGB") for image in images[start:start + BATCH]]
            x = self.processor(part, return_tensors="pt")["pixel_values"].to(self.model.device)
            parts.append(embed_x(self.model, x))
        return torch.cat(parts)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """b texts -> (b d) fp32."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return embed_ids(self.model, tokens["input_ids"].to(self.model.device),
                         tokens["attention_mask"].to(self.model.device))

    def spelled(self, texts: Sequence[str]) -> list[str]:
        """The words of the texts that are read letter by letter, or not at all, because the vocabulary has no
        part of them: CLIP does not know what they mean."""
        words = dict.fromkeys(word for text in texts for word in re.findall(r"[^\W\d_]{2,}", text.lower()))
        return [word for word in words if (parts := self.tokenizer.tokenize(word))
                and all(part == self.tokenizer.unk_token
                        or len(part.removeprefix("##").removesuffix("</w>")) == 1 for part in parts)]


def embed_x(model: Any, x: Tensor) -> Tensor:
    """Preprocessed images (b 3 H W) -> (b d)."""
    pooled = model.vision_model(pixel_values=x).pooler_output           # b width
    return F.normalize(model.visual_projection(pooled).float(), dim=-1)


def embed_ids(model: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Token ids (b n) -> (b d). Attention is causal and the pooled token is the last of the text, so
    padding after it has no effect, with or without a mask."""
    pooled = model.text_model(input_ids=ids, attention_mask=mask).pooler_output         # b width
    return F.normalize(model.text_projection(pooled).float(), dim=-1)


def transformers() -> ModuleType:
    """The library, with its progress bars and warnings off. Raises InputError if it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise InputError("transformers, which CLIP needs, is not installed. Run "
                         "pip install transformers.") from error
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def load(source: str | Path, device: str | torch.device = "cpu") -> Clip:
    """Load CLIP in float32 from a folder, or from a hub id such as openai/clip-vit-base-patch32. Raises
    InputError if there is none, or if it is damaged."""
    source, is_folder = str(source), os.path.isdir(source)
    if not is_folder and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        raise InputError(f"{source}: there is no such folder. Set `clip` to one with a CLIPModel in "
                         "transformers' layout, or to a hub id such as openai/clip-vit-base-patch32.")
    library, options = transformers(), {"local_files_only": is_folder}
    try:
        model, info = library.CLIPModel.from_pretrained(source, output_loading_info=True, **options)
        clip = Clip(model.float().eval().requires_grad_(False).to(device),
                    library.AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options),
                    library.CLIPImageProcessor.from_pretrained(source, **options))
    except Exception as error:          # whatever the libraries raise on a damaged file or a lost connection
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise InputError(f"{source}: cannot be read as a CLIPModel ({type(error).__name__}: {reason}). "
                         "Set `clip` to another.") from error
    if lacking := info["missing_keys"]:
        raise InputError(f"{source}: lacks {len(lacking)} tensors of a CLIPModel. Set `clip` to another.")
    return clip
