"""Reading and writing weights. Every layout of the public checkpoint must give the same model bit for bit.
Files are made here from the reference models in tests/data, whose numbers test_reference.py holds against the
original code; the full-size model is built and loaded without its memory.
"""
import json
import math
import resource
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from helpers.weight_files import (
    CKPT,
    DTYPES,
    FOLDER,
    SHAPES,
    TEXT,
    UNET,
    VAE,
    assert_same,
    edit_json,
    edit_tensors,
    error_of,
    small_config,
    snapshot,
    sparse_file,
    write,
)
from ldm import DiffusionConfig, LatentDiffusion, LDMConfig, NoiseSchedule
from weights import huggingface
from weights.vocabularies import read_vocabulary

PROMPTS = ["a photo of a cat", "Na\u00efve D\u00c9J\u00c0-vu, \u00e5\u0301 cafe\u0301",
           "\u732b\u306e\u5199\u771f cat\u732bcat",
           "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 cat\ufe0f", "x" * 101 + " " + "cat" * 40,
           "", " \t\r\n ",
           "a\x00b\x07c\x85d\u2028e\u200bf\ufeffg\ufffdh", "[CLS] [MASK] [pad] ##s [SEP]cat",
           "it's (a) cat-like_thing...",
           "\u0130stanbul \u1e9e \ufb01ne \u01c5",
           "\u0627\u0644\u0642\u0637 \u05d7\u05ea\u05d5\u05dc \u0e41\u0e21\u0e27", "cat " * 200]


# ---- every layout gives the same model

def companions_of_a_model():
    """What checkpoints of this family hold in addition to the model and the schedule."""
    return {"scale_factor": torch.tensor(0.18215, dtype=torch.float64), "logvar": torch.zeros(1000),
            "model_ema.decay": torch.tensor(0.9999),
            "model_ema.num_updates": torch.tensor(7), "first_stage_model.loss.logvar": torch.tensor(0.),
            "first_stage_model.loss.discriminator.main.0.weight": torch.ones(2, 3),
            "model_ema.diffusion_modelout2bias": torch.ones(4),
            "betas": NoiseSchedule(DiffusionConfig()).betas, "posterior_mean_coef2": torch.zeros(1000)}


@pytest.mark.parametrize("companions", [False, True], ids=["bare", "with companions"])
@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "b.pt", "no-ending", "tensors.bin"])
def test_original_layout(tmp_path, compvis, original, name, companions):
    path = tmp_path / name
    tensors = {key: value for key, value in original.items() if key.startswith((UNET, TEXT, VAE))}
    tensors |= companions_of_a_model() if companions else {}
    if name == "a.safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "epoch": 3} if name == "a.ckpt" else tensors, path)
    assert_same(weights.load(path), compvis[0])


def test_original_layout_of_parameters_and_shared_storage(tmp_path, compvis, original):
    """A Parameter; one tensor transposed in memory; all others in one storage; torch's OrderedDict."""
    flat = torch.cat([value.flatten() for value in original.values()])
    parts = flat.split([value.numel() for value in original.values()])
    state = torch.nn.Module().state_dict()                      # an OrderedDict with the attribute _metadata
    assert state._metadata
    state |= {key: part.view(value.shape)
              for (key, value), part in zip(original.items(), parts, strict=True)}
    key = TEXT + "to_logits.weight"
    state[key] = torch.nn.Parameter(original[key].t().contiguous().t(), requires_grad=True)
    torch.save(state, tmp_path / "model.pt")
    assert_same(weights.load(tmp_path / "model.pt"), compvis[0])


def test_the_scale_of_the_latents_is_the_files(tmp_path, compvis, original):
    """Training that measures it keeps it next to the weights."""
    save_file(original | {"scale_factor": torch.tensor(0.25)}, tmp_path / "model.safetensors")
    config, usual = weights.load(tmp_path / "model.safetensors").config, compvis[0].config
    assert config == replace(usual, diffusion=replace(usual.diffusion, scale_factor=0.25))


SCHEDULE = NoiseSchedule(DiffusionConfig())


def rescaled(alphas_cumprod):
    """Rescaled to a signal of zero at the last timestep (Lin et al. 2023, arXiv 2305.08891, algorithm 1)."""
    roots = alphas_cumprod.double().sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square()


@pytest.mark.parametrize("key, values", [
    ("alphas_cumprod", rescaled(SCHEDULE.alphas_cumprod)), ("alphas_cumprod", torch.zeros(1000)),
    ("alphas_cumprod", torch.full((1000,), math.nan)), ("alphas_cumprod", SCHEDULE.alphas_cumprod[:500]),
    ("betas", NoiseSchedule(DiffusionConfig(beta_end=0.02)).betas),
    ("betas", torch.linspace(1e-4, 0.02, 1000)),
    ("betas", NoiseSchedule(DiffusionConfig(timesteps=500)).betas)])
def test_another_noise_schedule_is_refused(tmp_path, original, key, values):
    tensors = {name: tensor for name, tensor in original.items() if name.startswith((UNET, TEXT, VAE))}
    save_file(tensors | {key: values.clone()}, tmp_path / "model.safetensors")
    message = error_of(weights.load, tmp_path / "model.safetensors")
    assert f"noise schedule ({key} [{len(values)}]) is not that of the public models" in message


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("key", ["alphas_cumprod", "betas"])
def test_merging_rounds_the_noise_schedule(tmp_path, compvis, original, key, dtype):
    tensors = {name: tensor for name, tensor in original.items() if name.startswith((UNET, TEXT, VAE))}
    save_file(tensors | {key: getattr(SCHEDULE, key).to(dtype)}, tmp_path / "model.safetensors")
    assert_same(weights.load(tmp_path / "model.safetensors"), compvis[0])


def to_bin(folder):
    for sub, stem in (("unet", "diffusion_pytorch_model"), ("vqvae", "diffusion_pytorch_model"),
                      ("bert", "model")):
        file = folder / sub / f"{stem}.safetensors"
        torch.save(load_file(file), folder / sub / ("pytorch_model.bin" if sub == "bert" else f"{stem}.bin"))
        file.unlink()


def to_old_names(folder):
    def change(tensors):
        olds = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        renamed = {}
        for key, tensor in tensors.items():
            for new, old in olds.items():
                key = key.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
            renamed[key] = tensor
        assert len(renamed.keys() - tensors.keys()) == 16
        return renamed
    edit_tensors(folder / "vqvae/diffusion_pytorch_model.safetensors", change)


def to_dims(dims):
    """Linear and 1x1 convolution weights of the spatial attention as (C C) or as (C C 1 1)."""
    def change(tensors):
        chosen = [key for key,
                  value in tensors.items() if "attentions" in key and "transformer_blocks" not in key
                  and key.endswith("weight") and value.ndim >= 2]
        assert len(chosen) >= 8
        return tensors | {key: tensors[key].reshape(*tensors[key].shape[:2],
                                                    *[1] * (dims - 2)) for key in chosen}

    def edit(folder):
        for sub in ("unet", "vqvae"):
            edit_tensors(folder / sub / "diffusion_pytorch_model.safetensors", change)
    return edit


def all_of_the_old(folder):
    to_dims(4)(folder)
    to_old_names(folder)
    to_bin(folder)
    (folder / "tokenizer/tokenizer.json").unlink()


def without_optional_entries(folder):
    edit_json(folder / "vqvae/config.json", scaling_factor=..., norm_num_groups=..., in_channels=...)
    edit_json(folder / "unet/config.json", norm_num_groups=..., num_attention_heads=..., act_fn=...,
              transformer_layers_per_block=..., flip_sin_to_cos=..., freq_shift=..., center_input_sample=...)


def only(name):
    return lambda folder: [file.unlink() for file in (folder / "tokenizer").iterdir() if file.name != name]


@pytest.mark.parametrize("change", [to_bin, to_old_names, to_dims(2), to_dims(4), all_of_the_old,
                                    without_optional_entries, only("vocab.txt"), only("tokenizer.json")],
                         ids=["bin", "old names", "2-D", "4-D", "all of the old", "short configs",
                              "vocab.txt",
                              "tokenizer.json"])
def test_huggingface_layout(folder, diffusers_tiny, change):
    change(folder)
    model = weights.load(folder)
    assert_same(model, diffusers_tiny[0])
    assert torch.equal(model.tokenizer(PROMPTS), diffusers_tiny[0].tokenizer(PROMPTS))


def test_a_folder_and_a_file_of_the_same_weights_are_the_same(tmp_path, diffusers_tiny):
    """Nothing of the layout is left in the model: saved in the original names, it comes back the same."""
    weights.save(diffusers_tiny[0], tmp_path / "model.safetensors")
    assert_same(weights.load(str(tmp_path / "model.safetensors")), diffusers_tiny[0])


def test_hub_id_from_the_cache(cache, folder, diffusers_tiny):
    place = snapshot(cache, "org/name")
    place.rmdir()
    folder.rename(place)
    model = weights.load("org/name")
    assert_same(model, diffusers_tiny[0])
    assert torch.equal(model.tokenizer(PROMPTS), diffusers_tiny[0].tokenizer(PROMPTS))


def test_hub_id_of_an_old_repository_from_the_cache(cache, folder, diffusers_tiny):
    all_of_the_old(folder)
    place = snapshot(cache, "CompVis/ldm-text2im-large-256")
    place.rmdir()
    folder.rename(place)
    assert_same(weights.load("CompVis/ldm-text2im-large-256"), diffusers_tiny[0])


def test_config_of_the_public_repository(tmp_path):
    """The entries that the public config.json files have, and no others."""
    for sub, values in {
        "unet": dict(act_fn="silu", attention_head_dim=8, block_out_channels=[320, 640, 1280, 1280],
                     center_input_sample=False,
                     down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
                     downsample_padding=1, flip_sin_to_cos=True, freq_shift=0, in_channels=4,
                     layers_per_block=2,
                     mid_block_scale_factor=1, norm_eps=1e-05, norm_num_groups=32, out_channels=4,
                     sample_size=32,
                     up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3),
        "vqvae": dict(act_fn="silu", block_out_channels=[128, 256, 512, 512], in_channels=3,
                      latent_channels=4,
                      layers_per_block=2, out_channels=3, sample_size=256),
        "bert": dict(d_model=1280, encoder_attention_heads=8, encoder_ffn_dim=5120, encoder_layers=32,
                     head_dim=64,
                     max_position_embeddings=77, vocab_size=30522, dropout=0.1),
    }.items():
        (tmp_path / sub).mkdir()
        (tmp_path / sub / "config.json").write_text(json.dumps(values))
    assert huggingface.read_config(tmp_path) == LDMConfig.text2img_large()


def test_vocabulary_given_by_hand(diffusers_tiny):
    for name in ("vocab.txt", "tokenizer.json"):
        model = weights.load(CKPT, vocab=str(FOLDER / "tokenizer" / name))
        assert torch.equal(model.tokenizer(PROMPTS), diffusers_tiny[0].tokenizer(PROMPTS))


def test_vocabulary_given_by_hand_replaces_the_models_own(tmp_path, folder, diffusers_tiny):
    weights.save(diffusers_tiny[0], tmp_path / "model.safetensors")
    tokens = (FOLDER / "tokenizer/vocab.txt").read_text().split()
    tokens[-1], tokens[-2] = tokens[-2:]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    ids = weights.load(folder).tokenizer(tokens[-2:])[:, 1]
    for source in (folder, tmp_path / "model.safetensors"):
        assert torch.equal(weights.load(source, vocab=tmp_path / "vocab.txt").tokenizer(tokens[-2:])[:, 1],
                           ids.flip(0)), source


def test_vocabulary_lines_end_at_newlines_only(tmp_path):
    """Some real vocabularies hold U+2028 and its like as tokens; the ids after them must not shift."""
    tokens = (FOLDER / "tokenizer/vocab.txt").read_text().split()
    strange = tokens[:5] + ["\u2028", "\x85", "\x1c", "\x0b"] + tokens[5:]
    (tmp_path / "vocab.txt").write_text("\n".join(strange) + "\n", encoding="utf-8")
    backend = read_vocabulary(tmp_path / "vocab.txt")
    assert [backend.token_to_id(token) for token in tokens[5:]] == list(range(9, len(strange)))
    assert backend.get_vocab_size() == len(strange)
    (tmp_path / "windows.txt").write_bytes("\r\n".join(tokens).encode())
    assert read_vocabulary(tmp_path / "windows.txt").get_vocab() == {t: i for i,
                                                                             t in enumerate(tokens)}


# ---- dtypes, saving, and the state of the model

@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_dtypes(tmp_path, original, stored, target):
    path = tmp_path / "model.pt"
    torch.save({key: value.to(stored) for key, value in original.items()}, path)
    state = weights.load(path, dtype=target).state_dict()
    for key, value in original.items():
        if key.startswith(UNET):
            got = state[key.replace(UNET, "unet.")]
            assert got.dtype == target and torch.equal(got, value.to(stored).to(target))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_save_and_load(tmp_path, diffusers_tiny, dtype):
    path = tmp_path / "model.safetensors"
    model = weights.load(FOLDER, dtype=dtype)
    weights.save(model, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    again = weights.load(path, dtype=dtype)
    assert_same(again, model)
    assert torch.equal(again.tokenizer(PROMPTS), diffusers_tiny[0].tokenizer(PROMPTS))


def test_save_keeps_the_config(tmp_path):
    """Heads, norm groups, schedule and latent size, which `load` could not read from the shapes."""
    config = small_config()
    values = config.to_dict()
    values["diffusion"] |= dict(timesteps=500, beta_end=0.02, scale_factor=0.5, latent_size=7)
    model = LatentDiffusion(LDMConfig.from_dict(values))
    weights.save(model, tmp_path / "model.safetensors")
    again = weights.load(tmp_path / "model.safetensors")
    assert_same(again, model)
    assert torch.equal(again.schedule.alphas_cumprod, model.schedule.alphas_cumprod)
    assert "as `vocab`" in error_of(again.tokenizer, ["a cat"])         # it had none, and still has none


@pytest.mark.parametrize("channels", [4, 5, 7, 8, 9])
def test_save_with_latents_of_any_number_of_channels(tmp_path, channels):
    """Some are the channels of other models' UNets, whose latents have 4."""
    config = small_config()
    config = replace(config, autoencoder=replace(config.autoencoder, embed_dim=channels),
                     unet=replace(config.unet, in_channels=channels, out_channels=channels))
    model = LatentDiffusion(config)
    weights.save(model, tmp_path / "model.safetensors")
    assert_same(weights.load(tmp_path / "model.safetensors"), model)


def test_save_with_a_vocabulary_that_cannot_be_read(tmp_path):
    """Named by the user, it must not be lost silently."""
    model = weights.load(CKPT, vocab=tmp_path / "nowhere.txt")
    message = error_of(weights.save, model, tmp_path / "model.safetensors")
    assert "nowhere.txt: there is no such file" in message
    assert list(tmp_path.iterdir()) == []


def test_save_in_vain_leaves_the_old_file(tmp_path, compvis):
    """The disk fills up halfway (here: the largest file that this process may write)."""
    path = write(tmp_path / "model.safetensors", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        message = error_of(weights.save, compvis[0], path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in message and "space" in message
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_saved_file_has_the_rights_of_any_other(tmp_path, compvis):
    """safetensors itself writes files that only their owner can read."""
    write(tmp_path / "other", b"")
    weights.save(compvis[0], tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("place", ["no/such/folder/model.safetensors", "a-file/model.safetensors", "a-folder",
                                   "x" * 300])
def test_save_to_an_impossible_place(tmp_path, compvis, place):
    write(tmp_path / "a-file", b"old")
    (tmp_path / "a-folder").mkdir()
    message = error_of(weights.save, compvis[0], tmp_path / place)
    assert ("is a folder. Give the name of a file" if place == "a-folder" else "Check the folder") in message
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a-file", "a-folder"]


@pytest.mark.parametrize("source", [CKPT, FOLDER], ids=["file", "folder"])
def test_all_is_frozen_and_the_schedule_stays_exact(source, compvis):
    model = weights.load(source, dtype=torch.bfloat16)
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and model.dtype == torch.bfloat16
    assert torch.equal(model.schedule.alphas_cumprod, compvis[0].schedule.alphas_cumprod)
    assert model.schedule.betas.dtype == torch.float32


def test_the_model_outlives_the_file(tmp_path, original, compvis):
    """No tensor is still mapped: the file may be overwritten in place."""
    for name, store in (("model.safetensors", save_file), ("model.pt", torch.save)):
        path = tmp_path / name
        store(original, path)
        model = weights.load(path, dtype=torch.float16)
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
        assert_same(model.float(), compvis[0])


# ---- the full-size model

def count(shapes):
    return sum(math.prod(shape) for shape in shapes)


def test_full_size_keys_and_shapes():
    with torch.device("meta"):
        model = LatentDiffusion(LDMConfig.text2img_large())
    for prefix, part, parameters in ((UNET, model.unet, 872_300_484), (VAE, model.autoencoder, 83_653_863),
                                     (TEXT, model.text_encoder, 581_994_042)):
        expected = {key.removeprefix(prefix): shape for key,
                    shape in SHAPES.items() if key.startswith(prefix)}
        assert {key: list(value.shape) for key, value in part.state_dict().items()} == expected
        assert count(p.shape for p in part.parameters()) == parameters


def test_full_size_file(tmp_path):
    """A file of the public one's length."""
    path = sparse_file(tmp_path / "model.safetensors", SHAPES)
    assert path.stat().st_blocks * 512 < 2 ** 20 < 2 ** 31 < path.stat().st_size
    model = weights.load(path, device="meta", dtype=torch.bfloat16)
    assert model.config == LDMConfig.text2img_large()
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
