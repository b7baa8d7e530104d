"""The Hugging Face layout (CompVis/ldm-text2im-large-256 and its copies): a folder with unet/, vqvae/,
bert/ and tokenizer/, whose config.json files give the architecture. Tensors are renamed by rule from our
names to theirs, so that a tensor too many or too few is found on either side.
"""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ldm import AutoencoderConfig, DiffusionConfig, InputError, LDMConfig, TextConfig, UNetConfig
from weights.files import open_tensors
from weights.pickles import LazyTensor

# part of LatentDiffusion -> folder, and the files that may hold its weights
PARTS = {
    "unet": ("unet", ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")),
    "autoencoder": ("vqvae", ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")),
    "text_encoder": ("bert", ("model.safetensors", "pytorch_model.bin")),
}

# Entries of the config.json files that change the computation but no shape,
# and the values with which ours agrees
_FACTS = {
    "unet": {"act_fn": "silu", "flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5,
             "mid_block_scale_factor": 1, "resnet_time_scale_shift": "default", "resnet_out_scale_factor": 1,
             "resnet_skip_time_act": False, "only_cross_attention": False, "center_input_sample": False},
    "vqvae": {"act_fn": "silu"},
    "bert": {"activation_function": "gelu", "scale_embedding": False},
}

_RES_BLOCK = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
              "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}


def read_config(folder: Path) -> LDMConfig:
    """The architecture by the three config.json files.
    What the public repository leaves out is as in its model.

    Raises InputError if a file is missing or no JSON, or describes a model that is not of this family.
    """
    configs = {name: _read_json(folder / name / "config.json") for name in _FACTS}
    for name, facts in _FACTS.items():
        if strange := [f"{key}={configs[name][key]!r}" for key, value in facts.items()
                       if configs[name].get(key, value) != value]:
            raise InputError(f"{folder}/{name}/config.json: {', '.join(strange)}: another kind of model, "
                             "which is not supported")
    unet, vae, text = configs.values()
    try:
        return LDMConfig(
            autoencoder=AutoencoderConfig(
                in_channels=vae.get("in_channels", 3), channels=tuple(vae["block_out_channels"]),
                num_res_blocks=vae["layers_per_block"], z_channels=vae["latent_channels"],
                embed_dim=vae["latent_channels"], norm_groups=vae.get("norm_num_groups", 32)),
            unet=UNetConfig(
                in_channels=unet["in_channels"], out_channels=unet["out_channels"],
                channels=tuple(unet["block_out_channels"]),
                attention=tuple("CrossAttn" in kind for kind in unet["down_block_types"]),
                num_res_blocks=unet["layers_per_block"],
                depth=_one(unet.get("transformer_layers_per_block", 1), "transformer_layers_per_block"),
                # diffusers calls the number of heads attention_head_dim
                heads=_one(unet.get("num_attention_heads") or unet["attention_head_dim"],
                           "attention_head_dim"),
                context_dim=_one(unet.get("cross_attention_dim", 1280), "cross_attention_dim"),
                norm_groups=unet.get("norm_num_groups", 32)),
            text=TextConfig(
                vocab_size=text["vocab_size"], width=text["d_model"], layers=text["encoder_layers"],
                heads=text["encoder_attention_heads"], head_dim=text["head_dim"],
                ff_dim=text["encoder_ffn_dim"], length=text["max_position_embeddings"]),
            diffusion=DiffusionConfig(
                scale_factor=float(vae.get("scaling_factor", DiffusionConfig.scale_factor)),
                latent_size=int(unet["sample_size"])))
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}: its config.json files do not describe this model: {error}") from error
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def open_folder(folder: Path) -> dict[str, LazyTensor]:
    """The tensors of the three files as "folder/name"."""
    tensors = {}
    for sub, names in PARTS.values():
        file = next((folder / sub / name for name in names if (folder / sub / name).is_file()), None)
        if file is None:
            raise InputError(f"{folder}: holds no {sub}/{' or '.join(names)}: "
                             "download the folder again, whole")
        tensors |= {f"{sub}/{_modern(name)}": tensor for name, tensor in open_tensors(file).tensors.items()}
    return tensors


def rename(key: str, config: LDMConfig) -> str:
    """The name, as `open_folder` gives it, of a key of LatentDiffusion."""
    part, _, key = key.partition(".")
    names = {"unet": _unet_name, "autoencoder": _autoencoder_name, "text_encoder": _text_name}
    return f"{PARTS[part][0]}/{names[part](key, config)}"


def _unet_name(key: str, config: LDMConfig) -> str:
    n = config.unet.num_res_blocks
    kinds = ("resnets", "attentions")
    if match := re.match(r"(input|output)_blocks\.(\d+)\.(\d)\.(.*)", key):
        way, block, layer, rest = match[1], int(match[2]), int(match[3]), match[4]
        if way == "input" and block == 0:
            return f"conv_in.{rest}"
        i, j = divmod(block - 1 if way == "input" else block, n + 1)
        if rest.startswith("op."):
            return f"down_blocks.{i}.downsamplers.0.conv.{rest.removeprefix('op.')}"
        if rest.startswith("conv."):
            return f"up_blocks.{i}.upsamplers.0.{rest}"
        return (f"{'down' if way == 'input' else 'up'}_blocks.{i}.{kinds[layer]}.{j}."
                f"{_replace(rest, _RES_BLOCK)}")
    if match := re.match(r"middle_block\.(\d)\.(.*)", key):
        layer = int(match[1])
        return f"mid_block.{kinds[layer % 2]}.{layer // 2}.{_replace(match[2], _RES_BLOCK)}"
    return _replace(key, {"time_embed.0": "time_embedding.linear_1",
                          "time_embed.2": "time_embedding.linear_2",
                          "out.0": "conv_norm_out", "out.2": "conv_out"})


def _autoencoder_name(key: str, config: LDMConfig) -> str:
    last = len(config.autoencoder.channels) - 1
    key = re.sub(r"\bdown\.(\d+)\.", r"down_blocks.\1.", key)
    key = re.sub(r"\bup\.(\d+)\.", lambda match: f"up_blocks.{last - int(match[1])}.", key)
    key = re.sub(r"\bmid\.block_(\d)", lambda match: f"mid_block.resnets.{int(match[1]) - 1}", key)
    if "mid.attn_1." in key:
        key = re.sub(r"\.([qkv])\.", r".to_\1.", key)
        key = key.replace(".proj_out.", ".to_out.0.").replace(".norm.", ".group_norm.")
        return key.replace("mid.attn_1.", "mid_block.attentions.0.")
    for ours, theirs in ((".block.", ".resnets."), (".downsample.", ".downsamplers.0."),
                         (".upsample.", ".upsamplers.0."), (".nin_shortcut.", ".conv_shortcut."),
                         (".norm_out.", ".conv_norm_out.")):
        key = key.replace(ours, theirs)
    return key


def _text_name(key: str, config: LDMConfig) -> str:
    if match := re.match(r"attn_layers\.layers\.(\d+)\.(.*)", key):
        layer, is_feed_forward = divmod(int(match[1]), 2)
        inner = ({"0": "final_layer_norm", "1.net.0.0": "fc1", "1.net.2": "fc2"} if is_feed_forward else
                 {"0": "self_attn_layer_norm", "1.to_q": "self_attn.q_proj", "1.to_k": "self_attn.k_proj",
                  "1.to_v": "self_attn.v_proj", "1.to_out": "self_attn.out_proj"})
        return f"model.layers.{layer}.{_replace(match[2], inner)}"
    return _replace(key, {"token_emb": "model.embed_tokens", "pos_emb.emb": "model.embed_positions",
                          "norm": "model.layer_norm"})


def _replace(key: str, names: dict[str, str]) -> str:
    """The key with the module at its front renamed, if the table has it."""
    module, _, leaf = key.rpartition(".")
    return f"{names.get(module, module)}.{leaf}"


def _modern(name: str) -> str:
    """Attention of the autoencoder had other names before diffusers 0.17."""
    if "mid_block.attentions.0." not in name:
        return name
    for old, new in ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."),
                     (".proj_attn.", ".to_out.0.")):
        name = name.replace(old, new)
    return name


def _one(value: Any, name: str) -> int:
    """A number that the config may give for each level, where they must agree."""
    values = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(values) != 1:
        raise InputError(f"{name} differs between levels ({value}), which is not supported")
    return values.pop()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file: download the folder again, whole") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}): download it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no JSON object: download it again")
    return values
