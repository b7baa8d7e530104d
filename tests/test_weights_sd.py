"""Reading Stable Diffusion's checkpoints: every name and layout in which they occur gives the same model bit
for bit; other models' files are named for what they are; a vocabulary is found if the file has none."""
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from helpers import DATA
from helpers.weight_files import (
    TEXT,
    UNET,
    assert_same,
    edit_json,
    edit_tensors,
    error_of,
    loads_or_explains,
    snapshot,
)
from ldm import LatentDiffusion, LDMConfig
from weights.files import open_tensors

FILE = DATA / "sd1-tiny/model.ckpt"
CLIP = TEXT + "text_model."


@pytest.fixture(scope="session")
def original():
    """The tensors of the original-layout reference, by the file's keys. Tests must not change them."""
    return {key: tensor.read().clone() for key, tensor in open_tensors(FILE).tensors.items()}


def only_weights(tensors):
    return {key: value for key, value in tensors.items()
            if key.startswith((UNET, TEXT, "first_stage_model.")) and not key.endswith("position_ids")}


# ---- the original layout

def without_text_model(tensors):
    return {key.replace(CLIP, TEXT): value for key, value in tensors.items()}


def with_positions(value):
    return lambda tensors: tensors | {CLIP + "embeddings.position_ids": value}


def with_strays(tensors):
    return tensors | {"cond_stage_model.logit_scale": torch.ones(()),
                      "scale_factor": torch.tensor(0.18215, dtype=torch.float64),
                      "cond_stage_model.transformer.text_projection.weight": torch.ones(3, 3),
                      "cond_stage_model.text_projection": torch.ones(3, 3), "logvar": torch.zeros(1000),
                      "embedding_manager.embedder.transformer.text_model.x": torch.ones(2),
                      "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7).int()}


def with_newer_attention(tensors):
    """The autoencoder's attention under the names of newer diffusers."""
    new = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    return {re.sub(r"(?<=mid\.attn_1\.)(q|k|v|proj_out)(?=\.)", lambda match: new[match[1]], key): value
            for key, value in tensors.items()}


def with_flat_attention(tensors):
    """Linear layers in the autoencoder's attention, as converted files have them."""
    return {key: value[:, :, 0, 0].contiguous() if "attn_1" in key and value.ndim == 4 else value
            for key, value in tensors.items()}


@pytest.mark.parametrize("change", [
    only_weights, without_text_model, with_positions(torch.arange(77)[None]), with_strays,
    with_flat_attention, with_newer_attention, with_positions(torch.linspace(0, 75.24, 77).half()[None]),
    with_positions(torch.zeros(1, 77)),
    with_positions(torch.zeros(1, 77).int()),
    lambda tensors: with_positions(torch.ones(1, 77).half())(without_text_model(tensors))],
    ids=["bare", "no text_model", "int64", "strays", "flat attention", "newer attention",
         "wrong fp16 positions", "fp32 positions", "int32 positions", "no text_model, positions"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_names_as_they_occur(tmp_path, sd1, original, name, change):
    tensors = change(original)
    if name == "model.ckpt":
        torch.save({"state_dict": tensors}, tmp_path / name)
    else:
        save_file(tensors, tmp_path / name, {"modelspec.architecture": "stable-diffusion-xl-v1-base"})
    assert_same(weights.load(tmp_path / name), sd1[0])


def test_positions_without_the_prefix_are_ignored(tmp_path, sd1, original):
    tensors = {key.replace(CLIP, TEXT): value for key, value in original.items()}
    assert TEXT + "embeddings.position_ids" in tensors
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same(weights.load(tmp_path / "model.safetensors"), sd1[0])


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state},
                                  lambda state: {"state_dict": {"state_dict": state}, "epoch": 3}],
                         ids=["bare", "one", "one in another"])
def test_state_dicts(tmp_path, sd1, original, wrap):
    torch.save(wrap(original), tmp_path / "model.ckpt")
    assert_same(weights.load(tmp_path / "model.ckpt"), sd1[0])


def test_mixed_dtypes(tmp_path, sd1, original):
    """As after merging: the values are ones that both fp16 and fp32 can hold."""
    dtypes = [torch.float32, torch.float16]
    mixed = {key: value.to(dtypes[i % 2]) if value.is_floating_point() else value
             for i, (key, value) in enumerate(original.items())}
    save_file(mixed, tmp_path / "model.safetensors")
    assert_same(weights.load(tmp_path / "model.safetensors"), sd1[0])
    assert weights.load(tmp_path / "model.safetensors", dtype=torch.bfloat16).dtype == torch.bfloat16


def averages(tensors):
    """The running average of the UNet as training keeps it, with values of its own."""
    return {"model_ema." + key.removeprefix("model.").replace(".", ""): value + 1
            for key, value in tensors.items() if key.startswith(UNET)}


def test_the_averaged_weights_are_preferred(tmp_path, sd1, original, capsys):
    ema = averages(original)
    assert "model_ema.diffusion_modelinput_blocks00weight" in ema
    save_file(original | ema, tmp_path / "full.safetensors")
    model = weights.load(tmp_path / "full.safetensors")
    said = capsys.readouterr().err
    assert "full.safetensors" in said and "running average" in said and said.count("\n") == 1
    assert "If this is a merge, drop the keys model_ema.*" in said
    for key, value in sd1[0].state_dict().items():
        expected = value if not key.startswith("unet.") else original[key.replace("unet.", UNET, 1)] + 1
        assert torch.equal(model.state_dict()[key], expected.float())


def test_an_incomplete_average_is_not_taken(tmp_path, sd1, original, capsys):
    ema = averages(original)
    ema.popitem()
    save_file(original | ema, tmp_path / "model.safetensors")
    assert_same(weights.load(tmp_path / "model.safetensors"), sd1[0])
    assert capsys.readouterr().err == ""


def test_saved_and_loaded_again(tmp_path, sd1, sd1_hf):
    """With config and vocabulary, whichever layout it came from."""
    prompts = json.loads((DATA / "sd1-tiny/prompts.json").read_text())
    for model, _ in (sd1, sd1_hf):
        weights.save(model, tmp_path / "model.safetensors")
        again = weights.load(tmp_path / "model.safetensors")
        assert_same(again, model)
        assert torch.equal(again.tokenizer(prompts), model.tokenizer(prompts))
        assert open_tensors(tmp_path / "model.safetensors").tensors.keys() >= {
            CLIP + "final_layer_norm.weight", UNET + "out.2.bias"}


def test_a_saved_model_keeps_what_shapes_do_not_say(tmp_path, sd_folder):
    edit_json(sd_folder / "text_encoder/config.json", hidden_act="gelu")
    edit_json(sd_folder / "unet/config.json", attention_head_dim=[2, 4])
    edit_json(sd_folder / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    model = weights.load(sd_folder)
    weights.save(model, tmp_path / "model.safetensors")
    assert_same(weights.load(tmp_path / "model.safetensors"), model)
    assert model.config.unet.level_heads == (2, 4) and model.config.diffusion.prediction == "v"


# ---- other models

def renamed_unet(channels):
    key = UNET + "input_blocks.0.0.weight"
    return lambda tensors: tensors | {key: torch.zeros(32, channels, 3, 3).half()}


def plus(*keys):
    return lambda tensors: tensors | {key: torch.zeros(2, 2) for key in keys}


def alone(*keys):
    return lambda tensors: {key: torch.zeros(2, 2) for key in keys}


KINDS = [
    (plus("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
          "conditioner.embedders.1.model.ln_final.bias"), "Stable Diffusion XL, which has two text encoders"),
    (plus("conditioner.embedders.0.model.ln_final.bias"), "the refiner of Stable Diffusion XL"),
    (alone("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"), "Stable Diffusion 3"),
    (alone("double_blocks.0.img_attn.qkv.weight"), "Flux"),
    (alone("model.diffusion_model.double_blocks.0.img_attn.qkv.weight"), "Flux"),
    (plus("cond_stage_model.model.token_embedding.weight"), "Stable Diffusion 2 in its original layout"),
    (plus("cond_stage_model.roberta.embeddings.word_embeddings.weight"), "AltDiffusion"),
    (plus("control_model.input_blocks.0.0.weight"), "a ControlNet"),
    (alone("lora_unet_down_blocks_0.lora_down.weight"), "a LoRA"),
    (alone("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"), "a LoRA"),
    (alone("unet.down_blocks.0.attn1.processor.to_q_lora.down.weight"), "a LoRA"),
    (alone("lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a"), "a LoRA"),
    (alone("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
     "a ControlNet"),
    (alone("model.diffusion_model.label_emb.0.0.weight"), "a UNet of Stable Diffusion XL"),
    (alone("transformer_blocks.0.attn.add_q_proj.weight"), "a diffusion transformer"),
    (alone("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"), "only the UNet of a folder"),
    (alone("text_model.embeddings.token_embedding.weight"), "only a text encoder"),
    (lambda tensors: plus("cond_stage_model.model.ln_final.bias")(renamed_unet(5)(tensors)),
     "a depth-to-image model"),
    (alone("encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"), "only an autoencoder"),
    (plus("v_pred"), "predicts v"), (plus("ztsnr"), "predicts v"),
    (renamed_unet(9), "an inpainting model: its UNet takes 9 channels instead of 4"),
    (renamed_unet(8), "an InstructPix2Pix model: its UNet takes 8 channels"),
    (renamed_unet(7), "an upscaler: its UNet takes 7 channels"),
    (renamed_unet(5), "a depth-to-image model: its UNet takes 5 channels")]


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize("change, kind", KINDS, ids=[kind.split(",")[0] for _, kind in KINDS])
def test_other_models_are_refused_by_name(tmp_path, original, change, kind, name):
    tensors = change(original)
    save_file(tensors, tmp_path / name) if name.endswith("rs") else torch.save(tensors, tmp_path / name)
    message = error_of(weights.load, tmp_path / name)
    assert message.startswith(f"{tmp_path / name}: this is ") and kind in message
    assert ". Use a complete checkpoint of text2img-large or Stable Diffusion 1, or a folder" in message


@pytest.mark.parametrize("lost", ["embeddings.token_embedding.weight", "encoder.layers.1.mlp.fc2.bias",
                                  "final_layer_norm.weight", "embeddings.position_embedding.weight"])
def test_a_missing_tensor_is_named(tmp_path, original, lost):
    tensors = dict(original)
    del tensors[CLIP + lost]
    save_file(tensors, tmp_path / "model.safetensors")
    assert f"lacks {CLIP}{lost}" in error_of(weights.load, tmp_path / "model.safetensors")


# ---- Hugging Face layout

def without_positions(folder):
    edit_tensors(folder / "text_encoder/model.safetensors", lambda tensors: {
        key: value for key, value in tensors.items() if not key.endswith("position_ids")})


def with_positions_of_old_versions(folder):
    edit_tensors(folder / "text_encoder/model.safetensors", lambda tensors: tensors | {
        "text_model.embeddings.position_ids": torch.arange(77)[None]})


def text_names(prefix):
    def change(folder):
        edit_tensors(folder / "text_encoder/model.safetensors", lambda tensors: {
            prefix + key.removeprefix("text_model."): value for key, value in tensors.items()})
    return change


def old_autoencoder_names(folder):
    """As diffusers wrote them before 0.17, as linear layers."""
    olds = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        renamed = {}
        for key, value in tensors.items():
            for new, old in olds.items():
                key = key.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
            renamed[key] = value
        assert len(renamed.keys() - tensors.keys()) == 16
        return renamed
    edit_tensors(folder / "vae/diffusion_pytorch_model.safetensors", rename)


WEIGHTS = {"unet": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
           "vae": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
           "text_encoder": ("model", "pytorch_model")}


def files(safe_variant, bin_variant=None):
    """Renames the weights' files: the variants' words, None for a file that is not there."""
    def change(folder):
        for sub, (safe, torch_) in WEIGHTS.items():
            file = folder / sub / f"{safe}.safetensors"
            tensors = load_file(file)
            file.unlink()
            if safe_variant is not None:
                save_file(tensors, folder / sub / f"{safe}{safe_variant}.safetensors")
            if bin_variant is not None:
                torch.save(tensors, folder / sub / f"{torch_}{bin_variant}.bin")
    return change


def vocabulary_files_of_old(folder):
    """vocab.json and merges.txt instead of tokenizer.json."""
    model = json.loads((folder / "tokenizer/tokenizer.json").read_text())["model"]
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2"] + [" ".join(merge)
                                                                               for merge in model["merges"]]))
    (folder / "tokenizer/special_tokens_map.json").write_text(json.dumps(
        {"pad_token": {"content": "<|endoftext|>", "lstrip": False}}))


def configs_of_2022(folder):
    """The entries that the public files of version 1.5 have."""
    keep = {"unet": ("act_fn", "attention_head_dim", "block_out_channels", "center_input_sample",
                     "cross_attention_dim", "down_block_types", "downsample_padding", "flip_sin_to_cos",
                     "freq_shift", "in_channels", "layers_per_block", "mid_block_scale_factor", "norm_eps",
                     "norm_num_groups", "out_channels", "sample_size", "up_block_types"),
            "vae": ("act_fn", "block_out_channels", "down_block_types", "in_channels", "latent_channels",
                    "layers_per_block", "out_channels", "sample_size", "up_block_types")}
    for sub, names in keep.items():
        path = folder / sub / "config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({name: values[name] for name in names}))
    edit_json(folder / "text_encoder/config.json", bos_token_id=0, eos_token_id=2, pad_token_id=1,
              model_type="clip_text_model")
    edit_json(folder / "scheduler/scheduler_config.json", _class_name="PNDMScheduler", skip_prk_steps=True,
              prediction_type=..., rescale_betas_zero_snr=...)


def all_of_2022(folder):
    for change in (configs_of_2022, vocabulary_files_of_old, old_autoencoder_names,
                   with_positions_of_old_versions, files(None, "")):
        change(folder)
    for sub in ("safety_checker", "feature_extractor"):
        (folder / sub).mkdir()
        (folder / sub / "config.json").write_text("{}")


@pytest.mark.parametrize("change", [
    lambda folder: None, without_positions, with_positions_of_old_versions, text_names(""),
    text_names("text_model."), old_autoencoder_names, files(".fp16"), files(None, ""), files(None, ".fp16"),
    vocabulary_files_of_old, configs_of_2022, all_of_2022],
    ids=["as it is", "no positions", "positions", "no text_model", "text_model", "old VAE", "fp16 only",
         "bin", "fp16 bin only", "vocab.json", "short configs", "all of 2022"])
def test_huggingface_layout(sd_folder, sd1_hf, change):
    prompts = json.loads((DATA / "sd1-hf-tiny/prompts.json").read_text())
    change(sd_folder)
    model = weights.load(sd_folder)
    assert_same(model, sd1_hf[0])
    assert torch.equal(model.tokenizer(prompts), sd1_hf[1]["tokenizer.ids"])


def test_order_of_preference(sd_folder, sd1_hf):
    """Plain safetensors, plain bin, fp16 safetensors, fp16 bin; never non_ema."""
    stem = "unet/diffusion_pytorch_model"
    good = load_file(sd_folder / f"{stem}.safetensors")
    names = [".safetensors", ".bin", ".fp16.safetensors", ".fp16.bin", ".non_ema.safetensors", ".non_ema.bin"]
    for i, name in enumerate(names):
        tensors = {key: value + i for key, value in good.items()}
        path = sd_folder / f"{stem}{name}"
        save_file(tensors, path) if name.endswith("safetensors") else torch.save(tensors, path)
    for i, name in enumerate(names[:4]):
        bias = weights.load(sd_folder).unet.out[2].bias
        assert torch.equal(bias, (good["conv_out.bias"] + i).float())
        (sd_folder / f"{stem}{name}").unlink()
    assert "has no unet/diffusion_pytorch_model.safetensors" in error_of(weights.load, sd_folder)


@pytest.mark.parametrize("sub, changes, complaint", [
    ("unet", dict(class_embed_type="timestep"), "class_embed_type='timestep'.*not supported"),
    ("unet", dict(addition_embed_type="text_time"), "addition_embed_type.*not supported"),
    ("unet", dict(encoder_hid_dim=768), "not supported"),
    ("unet", dict(time_cond_proj_dim=256), "not supported"),
    ("unet", dict(dual_cross_attention=True), "not supported"),
    ("unet", dict(in_channels=9), "an inpainting model: its UNet takes 9 channels instead of 4"),
    ("vae", dict(latent_channels=9), "unet.in_channels is 4, but autoencoder.embed_dim is 9"),
    ("unet", dict(attention_head_dim=[8, 4, 8]), "unet.heads has 3 entries"),
    ("unet", dict(attention_head_dim=[8, 7]), "unet.channels has 64, which is not divisible by its 7 heads"),
    ("vae", dict(shift_factor=0.1), "not supported"), ("vae", dict(latent_channels=16), "must be equal"),
    ("text_encoder", dict(layer_norm_eps=1e-6), "not supported"),
    ("text_encoder", dict(hidden_act="relu"), "Use quick_gelu or gelu"),
    ("text_encoder", dict(hidden_act=...), "hidden_act"),
    ("text_encoder", dict(num_hidden_layers=4), "lacks text_encoder/encoder.layers.3"),
    ("text_encoder", dict(num_hidden_layers=2), "has unknown text_encoder/encoder.layers.2"),
    ("text_encoder", dict(num_hidden_layers=2 ** 31), "blocks of layers"),
    ("text_encoder", dict(hidden_size=128), "must be equal"),
    ("scheduler", dict(prediction_type="sample"), "predicts 'sample'"),
    ("scheduler", dict(beta_end=0.02), "not supported"),
    ("scheduler", dict(rescale_betas_zero_snr=True), "not supported"),
    ("scheduler", dict(trained_betas=[0.1]), "not supported")])
def test_configs_of_other_models(sd_folder, sub, changes, complaint):
    path = sd_folder / sub / ("scheduler_config.json" if sub == "scheduler" else "config.json")
    edit_json(path, **changes)
    message = error_of(weights.load, sd_folder)
    assert str(sd_folder) in message and re.search(complaint, message), message


def test_latents_of_nine_channels_are_not_an_inpainting_model(sd_folder):
    edit_json(sd_folder / "unet/config.json", in_channels=9, out_channels=9)
    edit_json(sd_folder / "vae/config.json", latent_channels=9)
    assert "has the wrong shape" in error_of(weights.load, sd_folder)       # from the model with four


@pytest.mark.parametrize("index, kind", [
    ({"_class_name": "StableDiffusionXLPipeline"}, "Stable Diffusion XL"),
    ({"_class_name": "StableDiffusionPipeline", "text_encoder_2": ["transformers", "CLIPTextModel"]},
     "Stable Diffusion XL"),
    ({"_class_name": "StableDiffusion3Pipeline"}, "Stable Diffusion 3"),
    ({"_class_name": "FluxPipeline"}, "Flux"),
    ({"_class_name": "StableDiffusionInpaintPipeline"}, "an inpainting model"),
    ({"_class_name": "StableDiffusionInstructPix2PixPipeline"}, "an InstructPix2Pix model"),
    ({"_class_name": "StableDiffusionUpscalePipeline"}, "an upscaler"),
    ({"_class_name": "StableDiffusionDepth2ImgPipeline"}, "a depth-to-image model"),
    ({"_class_name": "StableDiffusionControlNetPipeline"}, "a ControlNet"),
    ({"_class_name": "AltDiffusionPipeline"}, "AltDiffusion"),
    ({"_class_name": "PixArtAlphaPipeline", "transformer": ["diffusers", "T"]}, "a PixArtAlphaPipeline")])
def test_pipelines_of_other_models(sd_folder, index, kind):
    (sd_folder / "model_index.json").write_text(json.dumps(index))
    message = error_of(weights.load, sd_folder)
    assert f"this is {kind}" in message and str(sd_folder) in message


@pytest.mark.parametrize("files, kind", [
    ({"model_index.json": {"_class_name": "StableDiffusion3Pipeline"}, "transformer/config.json": {}},
     "Stable Diffusion 3"),
    ({"transformer/config.json": {}}, "whose denoiser is not a UNet"),
    ({"text_encoder_2/config.json": {}, "unet/config.json": {}}, "Stable Diffusion XL"),
    ({"config.json": {"_class_name": "ControlNetModel"}}, "a ControlNet"),
    ({"config.json": {"_class_name": "FluxTransformer2DModel"}}, "Flux"),
    ({"config.json": {"_class_name": "AutoencoderKL"}}, "has no unet/"), ({}, "has no unet/")])
def test_folders_of_other_models(tmp_path, files, kind):
    """Their weights are not looked at, and need not be there."""
    for name, values in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(values))
    message = error_of(weights.load, tmp_path)
    assert kind in message and ". Use a complete checkpoint" in message and str(tmp_path) in message


def test_a_folder_is_named_whatever_its_name(tmp_path, monkeypatch):
    (tmp_path / "unet").mkdir()
    monkeypatch.chdir(tmp_path)
    assert error_of(weights.load, "unet").startswith("unet: has no unet/")


def test_weights_in_several_files_are_refused(sd_folder):
    (sd_folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    (sd_folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    assert "several files" in error_of(weights.load, sd_folder)


@pytest.mark.parametrize("lost", [
    "scheduler/scheduler_config.json", "text_encoder/config.json", "vae/config.json", "unet/config.json",
    "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_a_missing_file_is_named(sd_folder, lost):
    (sd_folder / lost).unlink()
    message = error_of(weights.load, sd_folder)
    assert lost in message and "whole" in message


# ---- the hub, and vocabularies

MAP = "tokenizer/special_tokens_map.json"


def to_cache(cache, folder, absent=(MAP,)):
    """As the hub's library leaves it, which records what it has found missing."""
    place = snapshot(cache, "org/name")
    place.rmdir()
    folder.rename(place)
    for name in absent:
        note = place.parents[1] / ".no_exist" / place.name / name
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


@pytest.mark.parametrize("change, absent", [
    (lambda folder: None, [MAP]), (all_of_2022, []), (files(".fp16"), [MAP]), (vocabulary_files_of_old, [])],
    ids=["of today", "of 2022", "fp16 only", "vocab.json"])
def test_hub_id_from_the_cache(cache, sd_folder, sd1_hf, change, absent):
    change(sd_folder)
    to_cache(cache, sd_folder, absent)
    model = weights.load("org/name")
    assert_same(model, sd1_hf[0])
    prompts = json.loads((DATA / "sd1-hf-tiny/prompts.json").read_text())
    assert torch.equal(model.tokenizer(prompts), sd1_hf[1]["tokenizer.ids"])


def test_without_the_file_of_the_padding_there_is_no_model(cache, sd_folder):
    """In Stable Diffusion 2 the next file in line gives a different padding."""
    to_cache(cache, sd_folder, absent=[])
    message = error_of(weights.load, "org/name")
    assert f"{MAP} is not in the local cache" in message and "offline" in message


def test_a_padding_without_its_token_is_none(cache, sd_folder, sd1_hf):
    """The other file decides."""
    (sd_folder / MAP).write_text('{"pad_token": {"lstrip": false}}')
    to_cache(cache, sd_folder, absent=[])
    assert_same(weights.load("org/name"), sd1_hf[0])


def test_what_is_fetched_of_a_repository(monkeypatch, sd_folder):
    """Not the safety checker, not a second format, no variant when there is the plain file."""
    fetched = []

    def fetch(repo, names, commit=None):
        name = next((name for name in names if (sd_folder / name).is_file()), None)
        if name is None:
            raise weights.hub.Absent("none")
        fetched.append(name)
        return sd_folder / name

    all_of_2022(sd_folder)
    files_there = {str(path.relative_to(sd_folder)) for path in sd_folder.rglob("*") if path.is_file()}
    (sd_folder / "unet/diffusion_pytorch_model.non_ema.bin").write_bytes(b"")
    monkeypatch.setattr(weights.hub, "download_file", fetch)
    assert weights.hub.download_folder("org/name") == sd_folder
    assert set(fetched) == {name for name in files_there if not name.startswith((
        "safety_checker", "feature_extractor", "prompts"))}


@pytest.mark.parametrize("sub, changes, kind", [
    ("model_index.json", dict(_class_name="StableDiffusionXLPipeline"), "Stable Diffusion XL"),
    ("unet/config.json", dict(in_channels=9), "an inpainting model")])
def test_another_model_is_refused_before_its_weights_are_fetched(cache, sd_folder, sub, changes, kind):
    edit_json(sd_folder / sub, **changes)
    for file in [*sd_folder.rglob("*.safetensors"), *sd_folder.rglob("vocab*")]:
        file.unlink()                       # whatever is asked for now would have to be downloaded
    to_cache(cache, sd_folder)
    assert f"this is {kind}" in error_of(weights.load, "org/name")


def test_no_vocabulary_offline(cache, tmp_path):
    """The original layout holds none; the public model's may be in the cache."""
    assert "664 tokens are not those of openai/clip-vit-large-patch14" in error_of(
        weights.load(FILE).tokenizer, ["a cat"])
    config = LDMConfig.stable_diffusion_1()
    with torch.device("meta"):
        model = LatentDiffusion(config)
    model.tokenizer.read_from(weights.hub.find_vocabulary(None, config.text))
    message = error_of(model.tokenizer, ["a cat"])
    assert "offline" in message and "vocab.json as `vocab`" in message and "openai/clip-vit" in message
    place = snapshot(cache, "openai/clip-vit-large-patch14")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(DATA / "sd1-tiny" / name, place)
    assert model.tokenizer(["a cat"]).shape == (1, 77)              # asked again, it looks again


# ---- sizes that no file can have

@pytest.mark.parametrize("part, changes", [
    ("text", {"layers": 2 ** 31}), ("unet", {"depth": 10 ** 9}), ("unet", {"num_res_blocks": 10 ** 9}),
    ("autoencoder", {"num_res_blocks": 10 ** 9}), ("diffusion", {"timesteps": 10 ** 12}),
    ("text", {"layers": -1}), ("unet", {"num_res_blocks": -5}), ("diffusion", {"timesteps": 0}),
    ("diffusion", {"latent_size": 10 ** 9}),
    ("unet", {"channels": [32] * 10 ** 5, "attention": [True] * 10 ** 5})])
def test_a_config_may_not_claim_more_than_there_is(tmp_path, sd1, part, changes):
    """A few bytes of a header would otherwise build modules for hours, or take all memory."""
    path = tmp_path / "model.safetensors"
    weights.save(sd1[0], path)
    values = sd1[0].config.to_dict()
    values[part] |= changes
    save_file(load_file(path), path, {"ldm.config": json.dumps(values)})
    assert "Download it again" in error_of(weights.load, path)
    assert not loads_or_explains(path)


@pytest.mark.parametrize("sub, changes", [
    ("unet", {"layers_per_block": 10 ** 9}), ("unet", {"transformer_layers_per_block": 10 ** 9}),
    ("vae", {"layers_per_block": 10 ** 9}), ("text_encoder", {"num_hidden_layers": 10 ** 9}),
    ("unet", {"sample_size": 10 ** 9})])
def test_a_folders_config_may_not_claim_more_than_there_is(sd_folder, sub, changes):
    edit_json(sd_folder / sub / "config.json", **changes)
    assert "Download it again" in error_of(weights.load, sd_folder)


def test_errors_without_a_text_are_named(monkeypatch, tmp_path, original):
    """MemoryError says nothing."""
    def fails(*_):
        raise MemoryError

    save_file(original, tmp_path / "model.safetensors")
    monkeypatch.setattr("weights.filling.LatentDiffusion", fails)
    assert "MemoryError" in error_of(weights.load, tmp_path / "model.safetensors")
