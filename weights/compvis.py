"""The layout of the original checkpoints (CompVis/latent-diffusion): three prefixes, which leave our own
names, and keys that are not weights. The architecture is read from the shapes.
"""
from __future__ import annotations

import re
from collections.abc import Mapping

from ldm import AutoencoderConfig, DiffusionConfig, InputError, LDMConfig, TextConfig, UNetConfig

# part of LatentDiffusion -> prefix in the file
PREFIXES = {"unet": "model.diffusion_model.",
            "autoencoder": "first_stage_model.",
            "text_encoder": "cond_stage_model.transformer."}

# pattern of the whole key -> why it is not loaded
IGNORED = {
    r"betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|sqrt_recip(m1)?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])":
        "the schedule is computed anew, in float64",
    r"scale_factor": "part of DiffusionConfig",
    r"model_ema\..*":
        "a running average of the UNet, kept for training; the public weights are the plain ones",
    r"first_stage_model\.loss\..*": "discriminator and perceptual network of the autoencoder's training",
    r"logvar": "weight of the loss by timestep, constant in the public models",
}

Shapes = Mapping[str, tuple[int, ...]]


def rename(key: str) -> str:
    """The name in the file of a key of LatentDiffusion."""
    part, _, rest = key.partition(".")
    return PREFIXES[part] + rest


def is_ignored(key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in IGNORED)


def infer_config(shapes: Shapes) -> LDMConfig:
    """The architecture of the tensors of a file. What shapes cannot say is as in the public model:
    8 heads, 32 norm groups, the schedule and the size of the latents. Raises InputError naming the
    tensor that is not there."""
    try:
        return LDMConfig(autoencoder=_autoencoder(shapes), unet=_unet(shapes), text=_text(shapes),
                         diffusion=DiffusionConfig())
    except KeyError as error:
        raise InputError(f"lacks {error.args[0]}: not a text-to-image latent diffusion checkpoint") from error


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different values the one group of the pattern takes among the keys that begin with it."""
    return len({match[1] for key in shapes if (match := re.match(pattern, key))})


def _unet(shapes: Shapes) -> UNetConfig:
    prefix = "model.diffusion_model."
    blocks = _count(shapes, rf"{re.escape(prefix)}input_blocks\.(\d+)\.")
    first, out = shapes[prefix + "input_blocks.0.0.weight"], shapes[prefix + "out.2.weight"]
    downsampled = [i for i in range(blocks) if f"{prefix}input_blocks.{i}.0.op.weight" in shapes]
    n = (downsampled[0] if downsampled else blocks) - 1                          # res blocks a level
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
    prefix, heads = "cond_stage_model.transformer.", TextConfig.heads
    vocab_size, width = shapes[prefix + "token_emb.weight"]
    return TextConfig(
        vocab_size=vocab_size, width=width, heads=heads,
        layers=_count(shapes, rf"{re.escape(prefix)}attn_layers\.layers\.(\d+)\.") // 2,
        head_dim=shapes[prefix + "attn_layers.layers.0.1.to_q.weight"][0] // heads,
        ff_dim=shapes[prefix + "attn_layers.layers.1.1.net.0.0.weight"][0],
        length=shapes[prefix + "pos_emb.emb.weight"][0])
