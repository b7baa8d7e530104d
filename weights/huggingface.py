"""The Hugging Face layout (CompVis/ldm-text2im-large-256, Stable Diffusion 1 and 2, and their copies): a
folder with a subfolder for each part, whose config.json files give the architecture. Rules map our tensor
names to theirs, so that an extra or missing tensor is detected on either side.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ldm import (
    AutoencoderConfig,
    CLIPTextConfig,
    DiffusionConfig,
    InputError,
    LDMConfig,
    TextConfig,
    UNetConfig,
)
from ldm.clip_tokenizer import END
from weights.files import open_tensors
from weights.filling import naming
from weights.huggingface_names import LATENT_DIFFUSION, STABLE_DIFFUSION, modern_name
from weights.kinds import READ, refuse_by_channels, refuse_by_index
from weights.pickles import LazyTensor

# Entries of the config.json files that change the computation but no shape,
# and the values that match our code
_UNET_FACTS = {
    "act_fn": "silu", "flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "resnet_time_scale_shift": "default",
    "resnet_out_scale_factor": 1, "resnet_skip_time_act": False, "only_cross_attention": False,
    "center_input_sample": False, "dual_cross_attention": False, "class_embed_type": None,
    "addition_embed_type": None, "encoder_hid_dim": None, "encoder_hid_dim_type": None,
    "time_cond_proj_dim": None, "time_embedding_type": "positional", "time_embedding_act_fn": None,
    "timestep_post_act": None, "cross_attention_norm": None, "attention_type": "default"}
_VAE_FACTS = {"act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True, "shift_factor": None,
              "latents_mean": None, "latents_std": None, "mid_block_add_attention": True}
_FACTS = {
    "unet": _UNET_FACTS, "vqvae": _VAE_FACTS, "vae": _VAE_FACTS,
    "bert": {"activation_function": "gelu", "scale_embedding": False},
    "text_encoder": {"layer_norm_eps": 1e-5},
    "scheduler": {"beta_schedule": "scaled_linear", "beta_start": DiffusionConfig.beta_start,
                  "beta_end": DiffusionConfig.beta_end, "num_train_timesteps": DiffusionConfig.timesteps,
                  "trained_betas": None, "rescale_betas_zero_snr": False}}
PADDING_FILES = ("special_tokens_map.json", "tokenizer_config.json")
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}


def folders_of(folder: Path) -> dict[str, str]:
    """Where the parts are: Stable Diffusion's folder has text_encoder/, the paper's model has bert/."""
    return STABLE_DIFFUSION if (folder / "text_encoder").is_dir() else LATENT_DIFFUSION


def weight_files(part: str) -> list[str]:
    """The possible file names of a part's weights, best first: full precision before fp16, then safetensors
    before .bin. Names with non_ema are not among them: the averaged weights make better images."""
    safe, torch_ = (("model", "pytorch_model") if part == "text_encoder" else
                    ("diffusion_pytorch_model", "diffusion_pytorch_model"))
    return [f"{safe}.safetensors", f"{torch_}.bin", f"{safe}.fp16.safetensors", f"{torch_}.fp16.bin"]


def read_config(folder: Path) -> LDMConfig:
    """Read the architecture from the config.json files.
    Entries that the public repositories omit default to their models' values.

    Raises InputError if a file is missing or not JSON, or describes a model that is not of this family.
    """
    folders = folders_of(folder)
    unet, vae, text = (_read_part(folder / name / "config.json") for name in folders.values())
    try:
        refuse_by_channels(unet["in_channels"], vae["latent_channels"])
        latent_size = int(unet["sample_size"])
        scale_factor = float(vae.get("scaling_factor", DiffusionConfig.scale_factor))
        if folders is STABLE_DIFFUSION:
            # not for the paper's model: its schedule is known, and its file gives a different one
            scheduler = _read_part(folder / "scheduler/scheduler_config.json")
            text_config, prediction = _clip_config(text, folder), _prediction(scheduler)
        else:
            text_config, prediction = _text_config(text), "eps"
        return LDMConfig(_autoencoder_config(vae), _unet_config(unet), text_config,
                         DiffusionConfig(scale_factor=scale_factor, latent_size=latent_size,
                                         prediction=prediction))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{folder}: {error}") from error
        raise InputError(f"{folder}: its config.json files do not describe this model ({error}). "
                         "Download the whole folder again.") from error


def _read_part(path: Path) -> dict[str, Any]:
    """A part's config. Raises InputError if an entry of _FACTS has a value that is not this family's."""
    config, name = _read_json(path), path.parent.name
    if strange := [f"{key}={config[key]!r}" for key, value in _FACTS[name].items()
                   if config.get(key, value) != value]:
        raise InputError(f"{path}: {', '.join(strange)}, so this kind of model is not supported. "
                         f"{READ}.")
    return config


def _autoencoder_config(vae: dict[str, Any]) -> AutoencoderConfig:
    return AutoencoderConfig(
        in_channels=vae.get("in_channels", 3), channels=tuple(vae["block_out_channels"]),
        num_res_blocks=vae["layers_per_block"], z_channels=vae["latent_channels"],
        embed_dim=vae["latent_channels"], norm_groups=vae.get("norm_num_groups", 32))


def _unet_config(unet: dict[str, Any]) -> UNetConfig:
    # diffusers calls the number of heads attention_head_dim
    heads = unet.get("num_attention_heads") or unet["attention_head_dim"]
    return UNetConfig(
        in_channels=unet["in_channels"], out_channels=unet["out_channels"],
        channels=tuple(unet["block_out_channels"]),
        attention=tuple("CrossAttn" in kind for kind in unet["down_block_types"]),
        num_res_blocks=unet["layers_per_block"],
        depth=_one(unet.get("transformer_layers_per_block", 1), "transformer_layers_per_block"),
        heads=tuple(heads) if isinstance(heads, list) and len(set(heads)) > 1 else _one(heads, "heads"),
        context_dim=_one(unet.get("cross_attention_dim", 1280), "cross_attention_dim"),
        norm_groups=unet.get("norm_num_groups", 32))


def _text_config(text: dict[str, Any]) -> TextConfig:
    return TextConfig(
        vocab_size=text["vocab_size"], width=text["d_model"], layers=text["encoder_layers"],
        heads=text["encoder_attention_heads"], head_dim=text["head_dim"],
        ff_dim=text["encoder_ffn_dim"], length=text["max_position_embeddings"])


def _clip_config(text: dict[str, Any], folder: Path) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=text["vocab_size"], width=text["hidden_size"], layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"], ff_dim=text["intermediate_size"],
        length=text["max_position_embeddings"], activation=text["hidden_act"], padding=_padding(folder))


def _padding(folder: Path) -> str:
    """The token after a prompt's end. In Stable Diffusion 2 the two files disagree: special_tokens_map.json
    is right. pad_token_id in the text encoder's config is wrong nearly everywhere."""
    files = [folder / "tokenizer" / name for name in PADDING_FILES]
    return next((token for path in files if path.is_file() and (token := pad_token(path)) is not None), END)


def pad_token(path: Path) -> str | None:
    """The token after a prompt's end in one of PADDING_FILES, or None if it names none. Raises InputError if
    the file is not JSON."""
    token = _read_json(path).get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    return None if token is None else str(token)


def _prediction(scheduler: dict[str, Any]) -> str:
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in _PREDICTIONS:
        raise InputError(f"its UNet predicts {kind!r}. Use a model that predicts "
                         f"{' or '.join(_PREDICTIONS)}.")
    return _PREDICTIONS[kind]


def check_kind(folder: Path) -> None:
    """Raises InputError, naming the kind, if the folder holds an unsupported model, or only one part of one.
    model_index.json names the pipeline; a config.json next to it or in its place names the part."""
    names = [folder / name for name in ("model_index.json", "config.json")]
    index = next((_read_json(path) for path in names if path.is_file()), {})
    others = {name: True for name in ("text_encoder_2", "transformer") if (folder / name).is_dir()}
    refuse_by_index(index | others)


def open_folder(folder: Path) -> dict[str, LazyTensor]:
    """The tensors of the three files as "folder/name". Raises InputError if a file is missing, or the folder
    holds another model."""
    with naming(folder):
        check_kind(folder)
        if not (folder / "unet").is_dir():
            raise InputError(f"has no unet/, so it is not a model in Hugging Face layout. {READ}.")
    tensors = {}
    for part, sub in folders_of(folder).items():
        names = weight_files(part)
        file = next((folder / sub / name for name in names if (folder / sub / name).is_file()), None)
        if file is None:
            if sharded := next(iter((folder / sub).glob("*.index.json")), None):
                raise InputError(f"{sharded}: these weights are split into several files, which is not "
                                 "supported. Save them as one.")
            raise InputError(f"{folder}: has no {sub}/{' or '.join(names[:2])}. "
                             "Download the whole folder again.")
        tensors |= {f"{sub}/{modern_name(name)}": tensor
                    for name, tensor in open_tensors(file).tensors.items()
                    if not name.endswith("embeddings.position_ids")}            # 0 .. 76, from older versions
    return tensors


def _one(value: Any, name: str) -> int:
    """A number that the config may give per level; they must all be equal."""
    values = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(values) != 1:
        raise InputError(f"{name} differs between levels ({value}), which is not supported. {READ}.")
    return values.pop()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file. Download the whole folder again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}). Download it again.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: is not a JSON object. Download it again.")
    return values
