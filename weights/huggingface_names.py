"""The names of the Hugging Face layout: rules that map our names (the original code's) to theirs."""
from __future__ import annotations

import re

from ldm import CLIPTextConfig, LDMConfig

# part of LatentDiffusion -> its folder
LATENT_DIFFUSION = {"unet": "unet", "autoencoder": "vqvae", "text_encoder": "bert"}
STABLE_DIFFUSION = {"unet": "unet", "autoencoder": "vae", "text_encoder": "text_encoder"}

_RES_BLOCK = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
              "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}


def file_key(key: str, config: LDMConfig) -> str:
    """The name that `open_folder` gives to a key of LatentDiffusion."""
    part, _, key = key.partition(".")
    if isinstance(config.text, CLIPTextConfig):
        folders, text_name = STABLE_DIFFUSION, lambda key, config: key
    else:
        folders, text_name = LATENT_DIFFUSION, _text_name
    names = {"unet": _unet_name, "autoencoder": _autoencoder_name, "text_encoder": text_name}
    return f"{folders[part]}/{names[part](key, config)}"


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
    """The key with its module renamed, if the module is in the table."""
    module, _, leaf = key.rpartition(".")
    return f"{names.get(module, module)}.{leaf}"


def modern_name(name: str) -> str:
    """The current form of one of their names. The autoencoder's attention had other names before diffusers
    0.17, and some versions of transformers prefix those of CLIP's text encoder with `text_model.`"""
    if "mid_block.attentions.0." not in name:
        return name.removeprefix("text_model.")
    for old, new in ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."),
                     (".proj_attn.", ".to_out.0.")):
        name = name.replace(old, new)
    return name
