"""The layout of the original checkpoints (CompVis/latent-diffusion, Stable Diffusion 1): our own
names behind three prefixes, and keys that are not weights. The architecture is inferred from the shapes. From
the other keys, the latent scale is read, and the noise schedule is compared with the public models'.
"""
from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from ldm import (
    AutoencoderConfig,
    CLIPTextConfig,
    DiffusionConfig,
    InputError,
    LDMConfig,
    NoiseSchedule,
    TextConfig,
    UNetConfig,
)
from weights.kinds import READ, refuse_by_channels, refuse_by_keys
from weights.pickles import LazyTensor

_UNET, _TEXT, _CLIP = "model.diffusion_model.", "cond_stage_model.transformer.", "text_model."

# part of LatentDiffusion -> prefix in the file; for CLIP's text encoder, `_CLIP` follows
PREFIXES = {"unet": _UNET, "autoencoder": "first_stage_model.", "text_encoder": _TEXT}

# pattern for the whole key -> why it is not loaded
IGNORED = {
    r"betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|sqrt_recip(m1)?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])":
        "the schedule is compared, and computed anew, in float64",
    r"scale_factor": "part of DiffusionConfig",
    r"model_ema\..*": "a running average of the UNet; where it is complete, it was taken before",
    r"first_stage_model\.loss\..*": "discriminator and perceptual network of the autoencoder's training",
    r"logvar": "weight of the loss by timestep, constant in the public models",
    r"cond_stage_model\.transformer\.(text_model\.)?embeddings\.position_ids":
        "0 .. 76, whatever dtype and values merging tools have left there",
    r"cond_stage_model\.(transformer\.)?(logit_scale|text_projection(\.weight)?)":
        "CLIP's comparison of texts with images, which encoding does not use",
    r"embedding_manager\..*": "learned words of a training run, and the text encoder a second time",
}
# newer diffusers' names in the autoencoder's attention, which some converters left there -> the usual ones
_ATTENTION = re.compile(r"(first_stage_model\.(?:en|de)coder\.mid\.attn_1\.)to_(q|k|v|out\.0)\.")

Shapes = Mapping[str, tuple[int, ...]]


def canonical(tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], str | None]:
    """The weights among the tensors of a file, under the names of the official files, and a note for the user
    if one is needed. Raises InputError, naming the kind, if the file is of another model."""
    channels, latent = (tensors[key].shape[1] if key in tensors and len(tensors[key].shape) > 1 else 4
                        for key in (_UNET + "input_blocks.0.0.weight",
                                    "first_stage_model.post_quant_conv.weight"))
    refuse_by_channels(channels, latent)                    # before the names: SD 2's variants share them
    refuse_by_keys(tensors)
    averages = {key: _average_key(key) for key in tensors if key.startswith(_UNET)}
    is_averaged = len(averages) > 0 and all(average in tensors for average in averages.values())
    weights = {}
    for key, tensor in tensors.items():
        if not any(re.fullmatch(pattern, key) for pattern in IGNORED):
            key = _ATTENTION.sub(lambda match: f"{match[1]}{match[2].replace('out.0', 'proj_out')}.", key)
            rest = key.removeprefix(_TEXT)
            if key.startswith(_TEXT) and re.match(r"(embeddings|encoder|final_layer_norm)\.", rest):
                key = _TEXT + _CLIP + rest              # files of the NovelAI family omit it
            weights[key] = tensor
    if not is_averaged:
        return weights, None
    return (weights | {key: tensors[average] for key, average in averages.items()},
            "used the running average of the UNet's weights, which this file has in addition to the last "
            "ones. If this is a merge, drop the keys model_ema.*: they belong to one of the merged models.")


def _average_key(key: str) -> str:
    """The key of the running average of a UNet weight: a buffer's name cannot contain dots."""
    return "model_ema." + key.removeprefix("model.").replace(".", "")


def file_key(key: str, config: LDMConfig) -> str:
    """The file's name for a key of LatentDiffusion."""
    part, _, rest = key.partition(".")
    is_clip = part == "text_encoder" and isinstance(config.text, CLIPTextConfig)
    return PREFIXES[part] + _CLIP * is_clip + rest


def infer_config(tensors: Mapping[str, LazyTensor], file: Mapping[str, LazyTensor]) -> LDMConfig:
    """Infer the architecture from the weights that `canonical` found in a file. What they do not determine is
    taken from the public models: 8 heads in the UNet, 64 channels per head and quick GELU in CLIP, 32 norm
    groups, the schedule and the latent size. Raises InputError, naming it, if a tensor is missing, or if the
    schedule is different."""
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    diffusion = _diffusion(file)
    try:
        is_clip = any(key.startswith(_TEXT + _CLIP) for key in shapes)
        return LDMConfig(autoencoder=_autoencoder(shapes), unet=_unet(shapes),
                         text=_clip_text(shapes) if is_clip else _text(shapes),
                         diffusion=dataclasses.replace(diffusion, latent_size=64 if is_clip else 32))
    except KeyError as error:
        raise InputError(f"lacks {error.args[0]}. {READ}.") from error


def _diffusion(file: Mapping[str, LazyTensor]) -> DiffusionConfig:
    """The public models' process, with the file's latent scale if its training measured one.
    Raises InputError if the file has another noise schedule; a file not written by training has none."""
    config = DiffusionConfig()
    if "scale_factor" in file:
        config = dataclasses.replace(config, scale_factor=float(file["scale_factor"].read()))
    key = next((key for key in ("alphas_cumprod", "betas") if key in file), None)
    if key is not None and not (file[key].shape == (config.timesteps,) and _is_usual(key, file[key].read())):
        raise InputError(f"its noise schedule ({key} {list(file[key].shape)[:9]}) is not that of the public "
                         f"models, so this kind of model is not supported. {READ}.")
    return config


def _is_usual(key: str, values: Tensor) -> bool:                                                 # T -> bool
    """Merging tools store the schedule in half precision; a different one is off by more than 0.01."""
    alphas_cumprod = values.double() if key == "alphas_cumprod" else (1 - values.double()).cumprod(dim=0)
    usual = NoiseSchedule(DiffusionConfig()).alphas_cumprod
    return bool((alphas_cumprod - usual).abs().max() < 0.01)


def _count(shapes: Shapes, pattern: str) -> int:
    """The number of distinct values of the pattern's one group among the keys that start with the pattern."""
    return len({match[1] for key in shapes if (match := re.match(pattern, key))})


def _unet(shapes: Shapes) -> UNetConfig:
    prefix = _UNET
    blocks = _count(shapes, rf"{re.escape(prefix)}input_blocks\.(\d+)\.")
    first, out = shapes[prefix + "input_blocks.0.0.weight"], shapes[prefix + "out.2.weight"]
    downsampled = [i for i in range(blocks) if f"{prefix}input_blocks.{i}.0.op.weight" in shapes]
    n = (downsampled[0] if downsampled else blocks) - 1                          # res blocks per level
    firsts = [1 + i * (n + 1) for i in range(len(downsampled) + 1)]              # first block of each level
    transformers = [f"{prefix}input_blocks.{i}.1.transformer_blocks." for i in firsts]
    middle = f"{prefix}middle_block.1.transformer_blocks."
    return UNetConfig(
        in_channels=first[1], out_channels=out[0],
        channels=tuple(shapes[f"{prefix}input_blocks.{i}.0.in_layers.2.weight"][0] for i in firsts),
        attention=tuple(f"{name}0.attn2.to_k.weight" in shapes for name in transformers),
        num_res_blocks=n,
        depth=_count(shapes, rf"{re.escape(middle)}(\d+)\."),
        context_dim=shapes[f"{middle}0.attn2.to_k.weight"][1])


def _autoencoder(shapes: Shapes) -> AutoencoderConfig:
    prefix = "first_stage_model.encoder."
    levels = _count(shapes, rf"{re.escape(prefix)}down\.(\d+)\.")
    embed, z = shapes["first_stage_model.post_quant_conv.weight"][1::-1]
    return AutoencoderConfig(
        in_channels=shapes[prefix + "conv_in.weight"][1],
        channels=tuple(shapes[f"{prefix}down.{i}.block.0.conv1.weight"][0] for i in range(levels)),
        num_res_blocks=_count(shapes, rf"{re.escape(prefix)}down\.0\.block\.(\d+)\."),
        z_channels=z, embed_dim=embed)


def _text(shapes: Shapes) -> TextConfig:
    heads = TextConfig.heads
    vocab_size, width = shapes[_TEXT + "token_emb.weight"]
    return TextConfig(
        vocab_size=vocab_size, width=width, heads=heads,
        layers=_count(shapes, rf"{re.escape(_TEXT)}attn_layers\.layers\.(\d+)\.") // 2,
        head_dim=shapes[_TEXT + "attn_layers.layers.0.1.to_q.weight"][0] // heads,
        ff_dim=shapes[_TEXT + "attn_layers.layers.1.1.net.0.0.weight"][0],
        length=shapes[_TEXT + "pos_emb.emb.weight"][0])


def _clip_text(shapes: Shapes) -> CLIPTextConfig:
    prefix = _TEXT + _CLIP
    vocab_size, width = shapes[prefix + "embeddings.token_embedding.weight"]
    return CLIPTextConfig(
        vocab_size=vocab_size, width=width, heads=max(1, width // 64),
        layers=_count(shapes, rf"{re.escape(prefix)}encoder\.layers\.(\d+)\."),
        ff_dim=shapes[prefix + "encoder.layers.0.mlp.fc1.weight"][0],
        length=shapes[prefix + "embeddings.position_embedding.weight"][0])
