"""Files that are damaged, hostile or something other than learned words end in one line that says so."""
import os

import pytest
import safetensors.torch
import torch
from torch import nn

from helpers import DATA
from ldm import InputError
from textinv import Concept
from textinv.concept import load_all

REFERENCE = DATA / "compvis-tiny/embeddings_gs-5.pt"


def vectors(k, width=64):
    return torch.randn(k, width, generator=torch.Generator().manual_seed(0))


def save(path, content):
    safetensors.torch.save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


@pytest.mark.parametrize("name, content, why", [
    ("xl.safetensors", {"clip_l": vectors(1), "clip_g": vectors(1)}, "Stable Diffusion XL"),
    ("xl.bin", {"clip_g": vectors(1)}, "Use one made for Stable Diffusion 1 or 2"),
    ("lora.safetensors", {"lora_te_text_model_q.lora_down.weight": vectors(1)}, "is a LoRA"),
    ("lora.bin", {"unet.to_q.lora_A.weight": vectors(1)}, "Use a textual inversion file"),
    ("a.bin", {}, "no tensor"), ("a.safetensors", {}, "no tensor"), ("a.bin", [vectors(1)], "no dict"),
    ("a.bin", vectors(1), "no dict"),
    ("a.bin", {"state_dict": {"a": vectors(1)}}, "'state_dict' is not a tensor"),
    ("a.bin", {3: vectors(1)}, "entry 3"), ("a.bin", {"a": [1.0]}, "'a' is not a tensor"),
    ("a.bin", {"a": object}, "'a' is not a tensor"), ("a.bin", {"a" * 9999: 1}, "is not a tensor"),
    ("a.bin", {"a": torch.tensor(1.0)}, r"shape \[\]"), ("a.bin", {"a": torch.ones(1, 2, 3)}, r"\[1, 2, 3\]"),
    ("a.bin", {"a": torch.ones(0, 64)}, r"\[0, 64\]"), ("a.bin", {"a": torch.ones(1, 64).int()}, "int32"),
    ("a.bin", {"a": torch.full((1, 64), float("nan"))}, "NaN"),
    ("a.safetensors", {"a": vectors(1) / 0}, "infinity"),
    ("a.bin", {"a": vectors(1), "b": vectors(1, width=32)}, "different widths: 32, 64"),
    ("a.bin", {"a b": vectors(1)}, "contains a word named 'a b', which cannot be used in prompts"),
    ("a b.pt", {"emb_params": vectors(1)}, "contains a word named 'a b', which cannot be used in prompts"),
    ("a.bin", {"a": torch.ones(1, 1).expand(10 ** 9, 10 ** 9)}, "numbers, more than any words have"),
    ("a.pt", {"emb_params": 3}, "not a tensor"), ("a.pt", {"string_to_param": 3}, "is not a dict"),
    ("a.pt", {"string_to_param": {}}, "no tensor"), ("a.pt", {"string_to_param": {"*": "x"}}, "not a tensor"),
    ("a.pt", {"string_to_param": nn.ParameterDict()}, "no tensor")])
def test_foreign_files(tmp_path, name, content, why):
    path = save(tmp_path / name, content)
    with pytest.raises(InputError, match=why) as error:
        load_all(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 300


@pytest.mark.parametrize("model", ["compvis-tiny/model.ckpt", "diffusers-tiny/bert/model.safetensors",
                                   "diffusers-tiny/unet/diffusion_pytorch_model.safetensors"])
def test_a_model_is_no_word(model):
    with pytest.raises(InputError, match="not a file of learned words"):
        load_all(DATA / model)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("content", [
    Harm(), {"*": Harm()}, {"string_to_param": Harm()}, {"a": vectors(1), "b": Harm()},
    {"string_to_param": {"*": Harm()}, "string_to_token": Harm(), "name": Harm()}])
def test_pickles_run_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "a.pt")
    with pytest.raises(InputError):
        load_all("a.pt")
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_truncated_files(tmp_path, name):
    path = tmp_path / name
    Concept("*", vectors(4)).save(path)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=name):
            load_all(path)


def test_flipped_bytes_end_in_words_or_in_one_line(tmp_path):
    whole, path = REFERENCE.read_bytes(), tmp_path / "a.pt"
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1:])
        try:
            assert all(concept.vectors.shape[1] for concept in load_all(path))
        except InputError as error:
            assert "a.pt" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("data, why", [(b"<!DOCTYPE html>", "HTML"), (b"\x80\x02}.", "pickle.* can run code"),
                                       (b"", "neither"), (b"version https://git-lfs", "LFS")])
def test_other_things(tmp_path, data, why):
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(InputError, match=why):
        load_all(tmp_path / "a.pt")
