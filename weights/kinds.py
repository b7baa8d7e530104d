"""Checkpoints of other models than those that are read here, each by a sign that it bears: they are refused
by name, where strict loading would only list keys.
"""
from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ldm import InputError

READ = "text2img-large, Stable Diffusion 1 and, in Hugging Face layout, Stable Diffusion 2 are read"

# the pattern of a key -> what the file is; the first that is found counts
_BY_KEY = {
    r"conditioner\.embedders\.1\.model\.": "Stable Diffusion XL, which has two text encoders",
    r"conditioner\.embedders\.0\.model\.": "the refiner of Stable Diffusion XL",
    r"(.*\.)?joint_blocks\.": "Stable Diffusion 3",
    r"(.*\.)?double_blocks\.": "Flux",
    r"cond_stage_model\.roberta\.": "AltDiffusion, which has another text encoder",
    r"control_model\.": "a ControlNet, which is no whole model",
    r"lora_|.*\.lora_(down|up|A|B)\b": "a LoRA, which is no whole model",
    r"(.*\.)?(v_pred|ztsnr)$": "a fine-tune that predicts v, not the noise, with a changed noise schedule",
    r"cond_stage_model\.model\.":
        "Stable Diffusion 2 in its original layout, which does not say if the UNet predicts the noise or v",
}
_AUTOENCODER = r"(encoder|decoder|quant_conv|post_quant_conv|loss)\."

# channels that the UNet takes -> what it is; those beyond the latent's are conditions given as images
_BY_CHANNELS = {9: "an inpainting model", 8: "an InstructPix2Pix model", 7: "an upscaler",
                5: "a depth-to-image model"}

# part of the pipeline's name in model_index.json -> what the folder holds; the first that is found counts
_BY_PIPELINE = {"XL": "Stable Diffusion XL, which has two text encoders", "Diffusion3": "Stable Diffusion 3",
                "Flux": "Flux", "Alt": "AltDiffusion, which has another text encoder",
                "Inpaint": "an inpainting model", "Pix2Pix": "an InstructPix2Pix model",
                "Upscale": "an upscaler", "Depth2Img": "a depth-to-image model",
                "ControlNet": "a ControlNet, which is no whole model", "Kandinsky": "Kandinsky"}


def refuse_by_keys(keys: Collection[str]) -> None:
    """Raises InputError if the tensors' names are those of another model."""
    for pattern, kind in _BY_KEY.items():
        if any(re.match(pattern, key) for key in keys):
            raise InputError(f"this is {kind}. Only {READ}")
    if keys and all(re.match(_AUTOENCODER, key) for key in keys):
        raise InputError(f"this is an autoencoder alone, not a whole model. Only {READ}")


def refuse_by_channels(channels: int) -> None:
    """Raises InputError if the UNet takes as many channels as another model's."""
    if channels in _BY_CHANNELS:
        raise InputError(f"this is {_BY_CHANNELS[channels]}: its UNet takes {channels} channels instead of "
                         f"4. Only {READ}")


def refuse_by_index(index: Mapping[str, Any]) -> None:
    """Raises InputError if a model_index.json describes another model."""
    pipeline = str(index.get("_class_name"))
    kind = next((kind for part, kind in _BY_PIPELINE.items() if part in pipeline), None)
    if kind is None and "text_encoder_2" in index:
        kind = _BY_PIPELINE["XL"]
    if kind is None and "transformer" in index:
        kind = f"a {ascii(pipeline)[1:-1]}, whose denoiser is no UNet"
    if kind is not None:
        raise InputError(f"this is {kind}. Only {READ}")
