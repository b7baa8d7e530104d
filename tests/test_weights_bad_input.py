"""Files that are not weights, or damaged, or another model's: whatever is not a checkpoint must end in a
one-line InputError that names the remedy, never in another exception and never in a model.
"""
import json
import os
import random
import shutil
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weights
from helpers import DATA
from helpers.weight_files import (
    CKPT,
    DTYPES,
    FOLDER,
    TEXT,
    UNET,
    VAE,
    edit_json,
    edit_tensors,
    error_of,
    loads_or_explains,
    small_config,
    snapshot,
    write,
)
from ldm import DiffusionConfig, InputError, LatentDiffusion
from weights.files import TensorFile, open_tensors
from weights.filling import blank_model
from weights.pickles import LazyTensor


@pytest.mark.parametrize("content, cure", [
    (b"", "Download it again"), (b"P", "Download it again"), (b"PK", "Download it again"),
    (b"PK\5\6" + bytes(18), "without data.pkl"), (b"<!DOCTYPE html><html>",
                                                       "HTML page.*Download the file itself"),
    (b"\xef\xbb\xbf\r\n <html>", "HTML page"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                                                "git lfs pull"),
    (b"\x80\x02}q\x00.", "as a .safetensors file"), (b"Access denied\n", "Download it again"),
    (bytes(4096), "Download it again"),
    (b"\xff" * 7 + b"\x7f{", "Download it again"), (struct.pack("<Q", 2) + b"{}",
                                                    "lacks.*Use a complete checkpoint"),
    (struct.pack("<Q", 2) + b"{]", "Download it again"),
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
def test_hub_id_offline(cache, source, capsys):
    """It is announced once, before half a minute of trying: here the hub is switched off."""
    weights.hub._announce.cache_clear()
    message = error_of(weights.load, source)
    error_of(weights.load, source)
    assert capsys.readouterr().err == f"{source}: contacting the Hugging Face hub\n"
    assert source in message and "offline" in message and "path of a checkpoint" in message


@pytest.mark.parametrize("source", ["org/name--x", "org/.name", "-org/name"])
def test_hub_id_malformed(cache, source):
    assert "Check the name" in error_of(weights.load, source)


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
        assert "Download" in error_of(weights.load, path)


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
    """The tensors from which the architecture is read have arbitrary shapes."""
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
    tensors = original | {f"unknown.{i}": torch.ones(1) for i in range(3)}
    message = error_of(weights.load, saved(tensors, tmp_path / "three.ckpt"))
    assert "has unknown unknown.0, unknown.1, unknown.2. Give" in message


@pytest.mark.parametrize("part", [UNET, TEXT, VAE])
def test_a_part_missing(tmp_path, original, part):
    tensors = {key: value for key, value in original.items() if not key.startswith(part)}
    message = error_of(weights.load, saved(tensors, tmp_path / "model.safetensors"))
    assert f"lacks {part}" in message and "Use a complete checkpoint" in message


@pytest.mark.parametrize("key", ["model.diffusion_model.more", "first_stage_model.lossy", "betas2",
                                 "model_ema",
                                 "xbetas", "unet.out.2.bias", "module.logvar", "two\nlines\x1b[31m",
                                 "x" * 5000])
def test_one_unknown_key(tmp_path, original, key):
    """No key passes for a known companion unless it is one, nor for a weight by our own name for it."""
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


def test_nan_in_float8(tmp_path, original):
    """torch itself cannot tell what is finite in this dtype."""
    key = UNET + "out.0.weight"
    tensors = original | {key: torch.full((32,), float("nan")).to(torch.float8_e4m3fn)}
    message = error_of(weights.load, saved(tensors, tmp_path / "model.safetensors"))
    assert f"tensor {key} contains NaN or infinity" in message


def test_a_tensor_that_does_not_fit_the_memory(monkeypatch):
    def fail(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    lazy = {key: LazyTensor(tensor.shape, fail) for key, tensor in open_tensors(CKPT).tensors.items()
            if "." in key}
    monkeypatch.setattr(weights, "open_tensors", lambda _: TensorFile(lazy))
    assert "does not fit in the memory of cpu. Use dtype bfloat16" in error_of(weights.load, CKPT)


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
    assert "as `vocab`" in error_of(weights.load(CKPT).tokenizer, ["a cat"])
    model = LatentDiffusion(small_config(vocab_size=30522))
    weights.save(model, tmp_path / "model.safetensors")
    model = weights.load(tmp_path / "model.safetensors")
    message = error_of(model.tokenizer, ["a cat"])
    assert "offline" in message and "as `vocab`" in message and "google-bert/bert-base-uncased" in message
    place = snapshot(cache, "google-bert/bert-base-uncased")
    shutil.copy(FOLDER / "tokenizer/vocab.txt", place)
    assert model.tokenizer(["a cat"]).shape == (1, 9)               # asked again, it looks again


def test_a_damaged_vocabulary_in_the_cache_is_named(cache, tmp_path):
    """It is there, and need not be downloaded."""
    weights.save(LatentDiffusion(small_config(vocab_size=30522)), tmp_path / "model.safetensors")
    path = write(snapshot(cache, "google-bert/bert-base-uncased") / "vocab.txt", b"\xff")
    assert f"vocabulary {path}: cannot be read" in error_of(
        weights.load(tmp_path / "model.safetensors").tokenizer, ["a cat"])


def vocab_of(tokens):
    return "\n".join(tokens) + "\n"


@pytest.mark.parametrize("content, complaint", [
    (vocab_of(["[PAD]", "[UNK]", "[SEP]", "cat"]), r"\[CLS\]|cls_token"),
    (vocab_of(["[PAD]", "[UNK]", "[CLS]", "cat"]), r"\[SEP\]|sep_token"),
    (vocab_of(["[UNK]", "[SEP]", "[CLS]", "cat"]), r"\[PAD\]"),
    ("", "Give|needs"), ("{}", "Give|needs"),
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
        assert "Give the vocab.txt or tokenizer.json of a BERT" in error_of(
            weights.load(CKPT, vocab=path).tokenizer, ["a cat"])


def test_damaged_vocabulary_of_a_saved_model(tmp_path, diffusers_tiny):
    path = tmp_path / "model.safetensors"
    weights.save(diffusers_tiny[0], path)
    content = path.read_bytes()
    write(path, content.replace(b"[CLS]", b"[XXX]"))
    assert "[CLS]" in error_of(weights.load(path).tokenizer, ["a cat"])
    write(path, content.replace(b"WordPiece", b"WordPiexe"))
    assert "Download it again" in error_of(weights.load(path).tokenizer, ["a cat"])


@pytest.mark.parametrize("lost", ["unet/config.json", "vqvae/config.json", "bert/config.json",
                                  "bert/model.safetensors",
                                  "unet/diffusion_pytorch_model.safetensors",
                                  "vqvae/diffusion_pytorch_model.safetensors"])
def test_folder_lacking_a_file(folder, lost):
    (folder / lost).unlink()
    message = error_of(weights.load, folder)
    assert lost in message and "Download the whole folder again" in message


@pytest.mark.parametrize("sub, changes, complaint", [
    ("unet", dict(act_fn="gelu"), "act_fn='gelu'.*not supported"),
    ("unet", dict(resnet_time_scale_shift="scale_shift"), "not supported"),
    ("unet", dict(attention_head_dim=[2, 4, 4]), "unet.heads has 3 entries"),
    ("unet", dict(attention_head_dim=0), "is not divisible by its 0 heads"),
    ("unet", dict(attention_head_dim=5), "heads"),
    ("unet", dict(cross_attention_dim=...), "context_dim is 1280"),
    ("unet", dict(block_out_channels=...), "block_out_channels"),
    ("unet", dict(block_out_channels=[]), "config|levels"),
    ("unet", dict(block_out_channels="many"), "config|levels"),
    ("unet", dict(block_out_channels=[32.5, 64]), "config|divisible"),
    ("unet", dict(norm_num_groups=0), "is not divisible by its 0 norm_groups"),
    ("unet", dict(layers_per_block=[1, 2]), "config|differ"),
    ("unet", dict(layers_per_block="1"), "config"),
    ("unet", dict(layers_per_block=2), "does not fit the model"),
    ("unet", dict(in_channels=-4), "config|in_channels"),
    ("vqvae", dict(latent_channels=None), "config|embed_dim"),
    ("vqvae", dict(scaling_factor="big"), "config|scaling_factor"),
    ("vqvae", dict(scaling_factor=0), "scale_factor is 0"),
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


def counts_fit(config, tensors):
    """True if a model of the config is built from that many tensors."""
    try:
        blank_model(lambda: config, dict.fromkeys(map(str, range(tensors))), Path("a.safetensors"))
    except InputError as error:
        assert "its config" in str(error)
        return False
    return True


def test_a_config_may_claim_as_many_blocks_as_there_are_tensors():
    """2 of the text encoder; 3 levels of the UNet with 2 blocks down and 3 up, each with 4 transformer blocks
    at most; 2 levels of the autoencoder with 1 down and 2 up."""
    config = small_config()
    config = replace(config, text=replace(config.text, layers=2),
                     unet=replace(config.unet, num_res_blocks=2, depth=4))
    blocks = 2 + 3 * (2 + 3) * (1 + 4) + 2 * (1 + 2)
    assert counts_fit(config, blocks) and not counts_fit(config, blocks - 1)


@pytest.mark.parametrize("key, least, most", [("timesteps", 1, 100_000), ("latent_size", 1, 1024)])
def test_a_config_may_claim_sizes_within_bounds(key, least, most):
    fit = {value: counts_fit(replace(small_config(), diffusion=DiffusionConfig(**{key: value})), 1000)
           for value in (least - 1, least, most, most + 1)}
    assert fit == {least - 1: False, least: True, most: True, most + 1: False}


def test_folder_with_an_unknown_tensor(folder):
    edit_tensors(folder / "unet/diffusion_pytorch_model.safetensors",
                 lambda tensors: tensors | {"conv_in.extra": torch.ones(1), "unet.out.2.bias": torch.ones(4)})
    message = error_of(weights.load, folder)
    assert "unet/conv_in.extra" in message and "unet/unet.out.2.bias" in message


def test_dtype_and_device():
    for dtype in (torch.int64, torch.float8_e4m3fn, torch.complex64, "float32"):
        message = error_of(weights.load, CKPT, dtype=dtype)
        assert "Use torch.float32, torch.bfloat16 or torch.float16" in message
    assert weights.load(CKPT, dtype=torch.float64).dtype == torch.float64
    for device in ("cuda:99", "nonsense"):
        assert "Use 'cpu'" in error_of(weights.load, CKPT, device=device)


def test_zips_that_are_no_checkpoint(tmp_path, original):
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("holiday/photo.jpg", b"...")
    assert "without data.pkl" in error_of(weights.load, path)
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
    assert "Give a model checkpoint" in error_of(weights.load, tmp_path / "x.pt")


def test_learned_words_are_not_a_checkpoint():
    assert "Give a model checkpoint" in error_of(weights.load, DATA / "compvis-tiny/embeddings_gs-5.pt")
