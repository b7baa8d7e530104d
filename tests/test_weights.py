"""Reading and writing weights. Every layout in which the public checkpoint is found must give the same model
to the bit; whatever is not such a checkpoint must end in one line of InputError that names the cure, never
in another exception and never in a model. Files are made here from the reference models in tests/data,
whose numbers test_reference.py holds against the original code; the full-size model is built and loaded
without its memory.
"""
import json
import math
import os
import random
import resource
import shutil
import struct
import zipfile
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from conftest import DATA
from safetensors.torch import load_file, save_file

import weights
from ldm import AutoencoderConfig, InputError, LatentDiffusion, LDMConfig, TextConfig, UNetConfig
from ldm.tokenizer import read_vocabulary
from weights import huggingface
from ldm.files import open_tensors

CKPT, FOLDER = DATA / "compvis-tiny/model.ckpt", DATA / "diffusers-tiny"
SHAPES = json.loads((DATA / "ldm-text2img-large.shapes.json").read_text())
UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.transformer.", "first_stage_model."
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PROMPTS = ["a photo of a cat", "Na\u00efve D\u00c9J\u00c0-vu, \u00e5\u0301 cafe\u0301",
           "\u732b\u306e\u5199\u771f cat\u732bcat",
           "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 cat\ufe0f", "x" * 101 + " " + "cat" * 40,
           "", " \t\r\n ",
           "a\x00b\x07c\x85d\u2028e\u200bf\ufeffg\ufffdh", "[CLS] [MASK] [pad] ##s [SEP]cat",
           "it's (a) cat-like_thing...",
           "\u0130stanbul \u1e9e \ufb01ne \u01c5",
           "\u0627\u0644\u0642\u0637 \u05d7\u05ea\u05d5\u05dc \u0e41\u0e21\u0e27", "cat " * 200]


@pytest.fixture(scope="session")
def original():
    """The tensors of the original-layout reference (fp16), by the file's keys. Tests must not change them."""
    return {key: lazy.read().clone() for key, lazy in open_tensors(CKPT).tensors.items()}


@pytest.fixture
def folder(tmp_path):
    """A copy of the Hugging Face reference, to be changed."""
    return Path(shutil.copytree(FOLDER, tmp_path / "folder", ignore=shutil.ignore_patterns("expected*")))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's library, which is offline. It reads both settings when it is imported."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def snapshot(cache, repo):
    """The empty folder of the only revision of a cached repository, laid out as the hub's library does."""
    home, revision = cache / f"models--{repo.replace('/', '--')}", "0123456789" * 4
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text(revision)
    (home / "snapshots" / revision).mkdir(parents=True)
    return home / "snapshots" / revision


def assert_same(got, expected):
    """Two models equal to the bit, config included."""
    assert got.config == expected.config
    ours, theirs = got.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert [key for key in ours if ours[key].dtype != theirs[key].dtype or not torch.equal(ours[key],
                                                                                           theirs[key])] == []


def error_of(action, *args, **kwargs):
    """The message of the InputError that the action ends in, which is one line."""
    with pytest.raises(InputError) as caught:
        action(*args, **kwargs)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 1000
    return message


def loads_or_explains(path):
    """True if the file loads, False if it ends in an InputError of one line; anything else fails the test. On
    "meta" the tensors are described and mapped but not copied, which is fast."""
    try:
        weights.load(path, device="meta")
    except InputError as error:
        assert str(error).isprintable()
        return False
    return True


def write(path, content):
    path.write_bytes(content)
    return path


def edit_json(path, **changes):
    """Sets entries of a JSON file; those set to `...` are removed."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def edit_tensors(path, change):
    """Replaces the tensors of a safetensors file by change(tensors)."""
    save_file(change(load_file(path)), path)


# ---- every layout gives the same model

def companions_of_a_model():
    """What checkpoints of this family hold beside the model and the schedule."""
    return {"scale_factor": torch.tensor(0.18215), "logvar": torch.zeros(1000),
            "model_ema.decay": torch.tensor(0.9999),
            "model_ema.num_updates": torch.tensor(7), "first_stage_model.loss.logvar": torch.tensor(0.),
            "first_stage_model.loss.discriminator.main.0.weight": torch.ones(2, 3),
            "model_ema.diffusion_modelout2bias": torch.ones(4),
            "betas": torch.zeros(1000), "posterior_mean_coef2": torch.zeros(1000)}


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
    state |= {key: part.view(value.shape) for (key, value), part in zip(original.items(), parts)}
    key = TEXT + "to_logits.weight"
    state[key] = torch.nn.Parameter(original[key].t().contiguous().t(), requires_grad=True)
    torch.save(state, tmp_path / "model.pt")
    assert_same(weights.load(tmp_path / "model.pt"), compvis[0])


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


def small_config(vocab_size=100):
    """Far from the public model in what shapes cannot say."""
    return LDMConfig(autoencoder=AutoencoderConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4),
                     unet=UNetConfig(channels=(12, 24, 24), attention=(False, True, False), num_res_blocks=1,
                                     depth=2,
                                     heads=3, context_dim=24, norm_groups=6),
                     text=TextConfig(vocab_size=vocab_size, width=24, layers=1, heads=2, head_dim=4,
                                     ff_dim=16, length=9))


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
    assert "vocab=" in error_of(again.tokenizer, ["a cat"])         # it had none, and still has none


def test_save_in_vain_leaves_the_old_file(tmp_path, compvis):
    """The disk is full half-way (here: the largest file that this process may write)."""
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
    """safetensors itself writes files that nobody but their owner can read."""
    write(tmp_path / "other", b"")
    weights.save(compvis[0], tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("place", ["no/such/folder/model.safetensors", "a-file/model.safetensors", "a-folder",
                                   "x" * 300])
def test_save_to_an_impossible_place(tmp_path, compvis, place):
    write(tmp_path / "a-file", b"old")
    (tmp_path / "a-folder").mkdir()
    assert "check the folder" in error_of(weights.save, compvis[0], tmp_path / place)
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
    """A file of the public one's length, of which only the header is written, so that it takes no disk."""
    path, end, header = tmp_path / "model.safetensors", 0, {}
    for key, shape in SHAPES.items():
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [end,
                                                                        end := end + 2 * math.prod(shape)]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    assert path.stat().st_blocks * 512 < 2 ** 20 < 2 ** 31 < path.stat().st_size
    model = weights.load(path, device="meta", dtype=torch.bfloat16)
    assert model.config == LDMConfig.text2img_large()
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


# ---- bad input

@pytest.mark.parametrize("content, cure", [
    (b"", "download it again"), (b"P", "download it again"), (b"PK", "download it again"),
    (b"PK\5\6" + bytes(18), "no data.pkl"), (b"<!DOCTYPE html><html>", "HTML page.*download the file itself"),
    (b"\xef\xbb\xbf\r\n <html>", "HTML page"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                                                "git lfs pull"),
    (b"\x80\x02}q\x00.", "save it again"), (b"Access denied\n", "download it again"),
    (bytes(4096), "download it again"),
    (b"\xff" * 7 + b"\x7f{", "download it again"), (struct.pack("<Q", 2) + b"{}",
                                                    "lacks.*not a text-to-image"),
    (struct.pack("<Q", 2) + b"{]", "download it again"),
], ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else "")
def test_files_that_are_no_checkpoint(tmp_path, content, cure):
    path = write(tmp_path / "model.ckpt", content)
    message = error_of(weights.load, path)
    assert message.startswith(str(path))
    with pytest.raises(InputError, match=cure):
        weights.load(path)


@pytest.mark.parametrize("source", ["nowhere.ckpt", "./nowhere", "/nowhere/at/all", "nowhere", "a/b/c",
                                    "sd v1/5", "",
                                    "~no_such_user_here/model.ckpt", "x" * 5000, "nul\0.ckpt",
                                    "models/nowhere.safetensors"])
def test_unknown_sources(cache, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such file") as caught:
        weights.load(source)
    assert "\n" not in str(caught.value) and "checkpoint" in str(caught.value) or source == ""


@pytest.mark.parametrize("source", ["org/name", "CompVis/ldm-text2im-large-256"])
def test_hub_id_offline(cache, source):
    message = error_of(weights.load, source)
    assert source in message and "offline" in message and "path of a checkpoint" in message


@pytest.mark.parametrize("source", ["org/name--x", "org/.name", "-org/name"])
def test_hub_id_malformed(cache, source):
    assert "check the name" in error_of(weights.load, source)


def test_hub_id_half_in_the_cache(cache, folder):
    (folder / "bert/model.safetensors").unlink()
    place = snapshot(cache, "org/name")
    place.rmdir()
    folder.rename(place)
    assert "offline" in error_of(weights.load, "org/name")


def saved(original, path):
    save_file(original, path) if path.suffix == ".safetensors" else torch.save({"state_dict": original}, path)
    return path


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_truncated(tmp_path, original, name):
    """Cut at 30 places, the smallest and the last byte among them; never another exception, never a model."""
    path = saved(original, tmp_path / name)
    size = path.stat().st_size
    cuts = [1, 7, 8, 9, 30, 512, 1000, size // 2, size - 23, size - 1]
    for length in sorted(cuts + [random.Random(0).randrange(size) for _ in range(20)], reverse=True):
        os.truncate(path, length)
        assert "download" in error_of(weights.load, path)


def flips(path, places, n, seed):
    """Changes one byte at a time, n times, at random places, and yields while it is changed."""
    rng = random.Random(seed)
    with path.open("r+b", buffering=0) as file:
        for _ in range(n):
            place = rng.choice(places)
            file.seek(place)
            old = file.read(1)
            file.seek(place)
            file.write(bytes([rng.choice([old[0] ^ 1 << rng.randrange(8), rng.randrange(256)])]))
            yield
            file.seek(place)
            file.write(old)


def test_damaged_safetensors(tmp_path, diffusers_tiny):
    path = tmp_path / "model.safetensors"
    weights.save(diffusers_tiny[0], path)
    header = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    config = path.read_bytes().index(b"ldm.config")
    for places in (range(8), range(8, header), range(config, config + 800)):
        assert {loads_or_explains(path) for _ in flips(path, places, 40, seed=1)} >= {False}
    assert loads_or_explains(path)


def test_damaged_ckpt(tmp_path, original):
    path = saved(original, tmp_path / "model.ckpt")
    with zipfile.ZipFile(path) as archive:
        directory = range(archive.start_dir, path.stat().st_size)
        entries = archive.infolist()
    [pickled] = [range(e.header_offset, e.header_offset + 60 + e.file_size)
                 for e in entries if e.filename.endswith("/data.pkl")]
    headers = [e.header_offset + i for e in entries for i in range(30)]
    for places in (directory, pickled, headers):
        assert {loads_or_explains(path) for _ in flips(path, places, 30, seed=2)} >= {False}
    assert loads_or_explains(path)


def test_wrong_shapes(tmp_path, original):
    key = UNET + "out.0.weight"
    for name in ("model.safetensors", "model.ckpt"):
        message = error_of(weights.load, saved(original | {key: torch.ones(33)}, tmp_path / name))
        assert UNET + "out.0.weight [33] instead of [32]" in message and "complete checkpoint" in message
    swapped = original | {TEXT + "to_logits.weight": original[TEXT + "to_logits.weight"].t().contiguous()}
    assert "[64, 200] instead of [200, 64]" in error_of(weights.load, saved(swapped, tmp_path / "model.ckpt"))


@pytest.mark.parametrize("shape", [(), (7,), (0,), (0, 0), (3, 0, 1, 1), (2, 3, 4, 5, 6), (1, 1, 1, 1)])
def test_shapes_that_give_no_architecture(tmp_path, original, shape):
    """Those tensors from which the architecture is read have any shape at all."""
    for key in (UNET + "input_blocks.0.0.weight", UNET + "out.2.weight", TEXT + "token_emb.weight",
                UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
                VAE + "post_quant_conv.weight",
                TEXT + "attn_layers.layers.0.1.to_q.weight", VAE + "encoder.conv_in.weight"):
        message = error_of(weights.load, saved(original | {key: torch.ones(shape)},
                                               tmp_path / "model.safetensors"))
        assert str(tmp_path) in message


def test_missing_and_unknown_keys(tmp_path, original):
    gone = [key for key in original if key.startswith(TEXT + "attn_layers.layers.2.1.")]
    tensors = {key: value for key, value in original.items() if key not in gone}
    tensors |= {f"unknown.{i}": torch.ones(1) for i in range(10)}
    message = error_of(weights.load, saved(tensors, tmp_path / "model.ckpt"))
    assert f"lacks {gone[0]}" in message and f"and {len(gone) - 3} more" in message
    assert "unknown.0, unknown.1, unknown.2 and 7 more" in message and "unknown.3" not in message


@pytest.mark.parametrize("part", [UNET, TEXT, VAE])
def test_a_part_missing(tmp_path, original, part):
    tensors = {key: value for key, value in original.items() if not key.startswith(part)}
    message = error_of(weights.load, saved(tensors, tmp_path / "model.safetensors"))
    assert f"lacks {part}" in message and "not a text-to-image" in message


@pytest.mark.parametrize("key", ["model.diffusion_model.more", "first_stage_model.lossy", "betas2",
                                 "model_ema",
                                 "xbetas", "unet.out.2.bias", "module.logvar", "two\nlines\x1b[31m",
                                 "x" * 5000])
def test_one_unknown_key(tmp_path, original, key):
    """Nothing is taken for a known companion that is not one, nor for a weight by our own name for it."""
    for name in ("model.safetensors", "model.ckpt"):
        message = error_of(weights.load, saved(original | {key: torch.ones(4)}, tmp_path / name))
        assert "has unknown" in message and ascii(key)[1:-1][:100] in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinity(tmp_path, original, dtype, value):
    key = UNET + "middle_block.1.proj_in.weight"
    tensors = {k: v.to(dtype) for k, v in original.items()}
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[-1] = value
    for target in DTYPES:
        message = error_of(weights.load, saved(tensors, tmp_path / "model.safetensors"), dtype=target)
        assert f"tensor {key} " in message and "NaN or infinity" in message


def test_overflow_of_float16(tmp_path, original):
    key = TEXT + "norm.weight"
    tensors = {k: v.float() for k, v in original.items()}
    tensors[key][0] = 1e6
    path = saved(tensors, tmp_path / "model.safetensors")
    message = error_of(weights.load, path, dtype=torch.float16)
    assert f"tensor {key} " in message and "overflows" in message and "bfloat16" in message
    assert weights.load(path, dtype=torch.bfloat16).text_encoder.norm.weight[0] > 9e5


def test_no_vocabulary_offline(cache, tmp_path):
    """A model without a vocabulary loads; the first prompt asks for one, and BERT's may be in the cache."""
    assert "vocab=" in error_of(weights.load(CKPT).tokenizer, ["a cat"])
    model = LatentDiffusion(small_config(vocab_size=30522))
    weights.save(model, tmp_path / "model.safetensors")
    model = weights.load(tmp_path / "model.safetensors")
    message = error_of(model.tokenizer, ["a cat"])
    assert "offline" in message and "vocab=" in message and "google-bert/bert-base-uncased" in message
    place = snapshot(cache, "google-bert/bert-base-uncased")
    shutil.copy(FOLDER / "tokenizer/vocab.txt", place)
    assert model.tokenizer(["a cat"]).shape == (1, 9)               # asked again, it looks again


def vocab_of(tokens):
    return "\n".join(tokens) + "\n"


@pytest.mark.parametrize("content, complaint", [
    (vocab_of(["[PAD]", "[UNK]", "[SEP]", "cat"]), r"\[CLS\]|cls_token"),
    (vocab_of(["[PAD]", "[UNK]", "[CLS]", "cat"]), r"\[SEP\]|sep_token"),
    (vocab_of(["[UNK]", "[SEP]", "[CLS]", "cat"]), r"\[PAD\]"),
    ("", "give"), ("{}", "give"),
    (vocab_of(["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + [f"w{i}" for i in range(5000)]), "trained with"),
    (vocab_of(["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + ["same"] * 5000), "trained with"),
], ids=["no CLS", "no SEP", "no PAD", "empty", "JSON", "too large", "ids too large"])
def test_bad_vocabularies(tmp_path, content, complaint):
    (tmp_path / "vocab.txt").write_text(content)
    model = weights.load(CKPT, vocab=tmp_path / "vocab.txt")
    error_of(model.tokenizer, ["a cat"])
    with pytest.raises(InputError, match=complaint):
        model.tokenizer(["a cat"])


def test_vocabulary_files_that_cannot_be_read(tmp_path):
    binary = write(tmp_path / "vocab.txt", b"[PAD]\n\xff\xfe\n")
    damaged = write(tmp_path / "tokenizer.json", (FOLDER / "tokenizer/tokenizer.json").read_bytes()[:-100])
    for path in (binary, damaged, tmp_path / "nowhere.txt", tmp_path):
        assert "give" in error_of(weights.load(CKPT, vocab=path).tokenizer, ["a cat"])


def test_damaged_vocabulary_of_a_saved_model(tmp_path, diffusers_tiny):
    path = tmp_path / "model.safetensors"
    weights.save(diffusers_tiny[0], path)
    content = path.read_bytes()
    write(path, content.replace(b"[CLS]", b"[XXX]"))
    assert "[CLS]" in error_of(weights.load(path).tokenizer, ["a cat"])
    write(path, content.replace(b"WordPiece", b"WordPiexe"))
    assert "download it again" in error_of(weights.load(path).tokenizer, ["a cat"])


@pytest.mark.parametrize("lost", ["unet/config.json", "vqvae/config.json", "bert/config.json",
                                  "bert/model.safetensors",
                                  "unet/diffusion_pytorch_model.safetensors",
                                  "vqvae/diffusion_pytorch_model.safetensors"])
def test_folder_lacking_a_file(folder, lost):
    (folder / lost).unlink()
    message = error_of(weights.load, folder)
    assert lost in message and "download the folder again" in message


@pytest.mark.parametrize("sub, changes, complaint", [
    ("unet", dict(act_fn="gelu"), "act_fn='gelu'.*not supported"),
    ("unet", dict(resnet_time_scale_shift="scale_shift"), "not supported"),
    ("unet", dict(attention_head_dim=[2, 4]), "differs between levels"),
    ("unet", dict(attention_head_dim=0), "config"),
    ("unet", dict(attention_head_dim=5), "heads"),
    ("unet", dict(cross_attention_dim=...), "context_dim is 1280"),
    ("unet", dict(block_out_channels=...), "block_out_channels"),
    ("unet", dict(block_out_channels=[]), "config|levels"),
    ("unet", dict(block_out_channels="many"), "config|levels"),
    ("unet", dict(block_out_channels=[32.5, 64]), "config|divide"),
    ("unet", dict(norm_num_groups=0), "config"),
    ("unet", dict(layers_per_block=[1, 2]), "config|differ"),
    ("unet", dict(layers_per_block="1"), "config"),
    ("unet", dict(layers_per_block=2), "does not fit the model"),
    ("unet", dict(in_channels=-4), "config|in_channels"),
    ("vqvae", dict(latent_channels=None), "config|embed_dim"),
    ("vqvae", dict(scaling_factor="big"), "config|scaling_factor"),
    ("vqvae", dict(norm_num_groups=48), "norm_groups"),
    ("bert", dict(d_model=65), "must be equal"),
    ("bert", dict(encoder_layers=3), "lacks bert/model.layers.2"),
    ("bert", dict(vocab_size=10 ** 30), "config"),
    ("bert", dict(head_dim=-64), "config"),
])
def test_unsupported_and_damaged_configs(folder, sub, changes, complaint):
    edit_json(folder / sub / "config.json", **changes)
    message = error_of(weights.load, folder)
    assert str(folder) in message
    with pytest.raises(InputError, match=complaint):
        weights.load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_config_that_is_no_json_object(folder, content):
    write(folder / "bert/config.json", content)
    assert "bert/config.json" in error_of(weights.load, folder)


@pytest.mark.parametrize("values", [b"[]", b"{}", b"nonsense", b"[" * 100_000, b'{"unet": 1}', b"null"])
def test_config_of_a_saved_file_damaged(tmp_path, original, values):
    save_file(original, tmp_path / "model.safetensors", {"ldm.config": values.decode()})
    assert str(tmp_path) in error_of(weights.load, tmp_path / "model.safetensors")


@pytest.mark.parametrize("part, key, value", [("unet", "heads", 0), ("unet", "norm_groups", 0), ("unet",
                                                                                                 "depth",
                                                                                                 1.0),
                                              ("unet", "channels", []), ("text", "layers", "2"),
                                              ("text", "length", -1),
                                              ("diffusion", "timesteps", 1000.0),
                                              ("diffusion", "timesteps", "x"),
                                              ("autoencoder", "channels", 3),
                                              ("autoencoder", "num_res_blocks", None)])
def test_config_of_a_saved_file_without_sense(tmp_path, original, compvis, part, key, value):
    values = compvis[0].config.to_dict()
    values[part][key] = value
    save_file(original, tmp_path / "model.safetensors", {"ldm.config": json.dumps(values)})
    assert str(tmp_path) in error_of(weights.load, tmp_path / "model.safetensors")


def test_folder_with_an_unknown_tensor(folder):
    edit_tensors(folder / "unet/diffusion_pytorch_model.safetensors",
                 lambda tensors: tensors | {"conv_in.extra": torch.ones(1), "unet.out.2.bias": torch.ones(4)})
    message = error_of(weights.load, folder)
    assert "unet/conv_in.extra" in message and "unet/unet.out.2.bias" in message


def test_dtype_and_device():
    assert "float32, bfloat16 or float16" in error_of(weights.load, CKPT, dtype=torch.int64)
    for device in ("cuda:99", "nonsense"):
        assert "use 'cpu'" in error_of(weights.load, CKPT, device=device)


def test_zips_that_are_no_checkpoint(tmp_path, original):
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("holiday/photo.jpg", b"...")
    assert "no data.pkl" in error_of(weights.load, path)
    with zipfile.ZipFile(saved(original, tmp_path / "plain.ckpt")) as plain, \
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in plain.infolist():
            archive.writestr(entry.filename, plain.read(entry))
    message = error_of(weights.load, path)
    assert "compressed" in message and "torch.save" in message


@pytest.mark.parametrize("content", [[], {}, 3, {"state_dict": {}}, {"state_dict": {"a": 1}},
                                     {"a": torch.ones(1), "b": "c"},
                                     {1: torch.ones(1)}, torch.ones(3),
                                     {"state_dict": {"*": {"*": torch.ones(3)}}}], ids=str)
def test_torch_files_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    assert "not a" in error_of(weights.load, tmp_path / "x.pt")


def test_learned_words_are_not_a_checkpoint():
    assert "not a" in error_of(weights.load, DATA / "compvis-tiny/embeddings_gs-5.pt")
