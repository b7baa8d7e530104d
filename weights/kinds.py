"""Checkpoints of unsupported models, each recognized by a telltale key or entry: they are refused by name,
where strict loading would only list keys.
"""
from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ldm import InputError

READ = ("Use a complete checkpoint of text2img-large or Stable Diffusion 1, or a folder in Hugging Face "
        "layout of these or Stable Diffusion 2")

# pattern of a key -> what the file is; the first match wins
_BY_KEY = {
    r"conditioner\.embedders\.1\.model\.": "Stable Diffusion XL, which has two text encoders",
    r"conditioner\.embedders\.0\.model\.": "the refiner of Stable Diffusion XL",
    r"(.*\.)?joint_blocks\.": "Stable Diffusion 3",
    r"(.*\.)?double_blocks\.": "Flux",
    r"cond_stage_model\.roberta\.": "AltDiffusion, which has a different text encoder",
    r"(control_model|controlnet_cond_embedding)\.": "a ControlNet, not a complete model",
    r"lora_|.*[._]lora[._](down|up|A|B)\b|.*\.(hada|lokr)_w": "a LoRA, not a complete model",
    r"(.*\.)?(v_pred|ztsnr)$": "a fine-tune that predicts v, not the noise, with a changed noise schedule",
    r"cond_stage_model\.model\.":
        "Stable Diffusion 2 in its original layout, which does not say whether its UNet predicts noise or v",
    r"model\.diffusion_model\.label_emb\.": "a UNet of Stable Diffusion XL",
    r"(transformer|single_transformer)_blocks\.":
        "a diffusion transformer, as in Stable Diffusion 3 and Flux",
    r"down_blocks\.": "only the UNet of a folder in Hugging Face layout",
    r"text_model\.": "only a text encoder",
}
_AUTOENCODER = r"(encoder|decoder|quant_conv|post_quant_conv|loss)\."

# channels that the UNet takes -> what it is; those beyond the latent's are conditioning images
_BY_CHANNELS = {9: "an inpainting model", 8: "an InstructPix2Pix model", 7: "an upscaler",
                5: "a depth-to-image model"}

# part of the pipeline's name in model_index.json -> what the folder holds; the first match wins
_BY_PIPELINE = {"XL": "Stable Diffusion XL, which has two text encoders", "Diffusion3": "Stable Diffusion 3",
                "SD3": "Stable Diffusion 3", "Flux": "Flux",
                "Alt": "AltDiffusion, which has a different text encoder",
                "Inpaint": "an inpainting model", "Pix2Pix": "an InstructPix2Pix model",
                "Upscale": "an upscaler", "Depth2Img": "a depth-to-image model",
                "ControlNet": "a ControlNet, not a complete model", "Kandinsky": "Kandinsky"}


def kind_of(keys: Collection[str]) -> str | None:
    """The unsupported kind of file whose tensors have these names; None if it is not a known one."""
    if keys and all(re.match(_AUTOENCODER, key) for key in keys):
        return "only an autoencoder, not a complete model"
    return next((kind for pattern, kind in _BY_KEY.items() if any(re.match(pattern, key) for key in keys)),
                None)


def refuse_by_keys(keys: Collection[str]) -> None:
    """Raises InputError if the tensor names are those of another model."""
    if (kind := kind_of(keys)) is not None:
        raise InputError(f"this is {kind}. {READ}.")


def refuse_by_channels(channels: int, latent: int) -> None:
    """Raises InputError if the UNet takes another number of channels than the latents have, and it is that
    of another model."""
    if channels != latent and channels in _BY_CHANNELS:
        raise InputError(f"this is {_BY_CHANNELS[channels]}: its UNet takes {channels} channels instead of "
                         f"{latent}. {READ}.")


def refuse_by_index(index: Mapping[str, Any]) -> None:
    """Raises InputError if a model_index.json, or the config.json of a single part, is of another model."""
    pipeline = str(index.get("_class_name", "model"))
    kind = next((kind for part, kind in _BY_PIPELINE.items() if part in pipeline), None)
    if kind is None and "text_encoder_2" in index:
        kind = _BY_PIPELINE["XL"]
    if kind is None and "transformer" in index:
        kind = f"a {ascii(pipeline)[1:-1]}, whose denoiser is not a UNet"
    if kind is not None:
        raise InputError(f"this is {kind}. {READ}.")
