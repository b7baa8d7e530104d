"""Files of learned words in the layouts that other tools document, written and read."""
import errno
import json
import os
import pathlib
import struct

import pytest
import safetensors.torch
import torch
from torch import nn

from helpers import DATA
from ldm import InputError
from textinv import Concept
from textinv.concept import load_all, save_all
from textinv.formats import FORMATS

REFERENCE = DATA / "compvis-tiny/embeddings_gs-5.pt"


def vectors(k, seed=0, width=64):
    return torch.randn(k, width, generator=torch.Generator().manual_seed(seed))


# --- what we write ----------------------------------------------------------------------------------------

def layouts():
    return [(name, suffix) for name, layout in FORMATS.items() for suffix in layout.suffixes]


@pytest.mark.parametrize("format, suffix", layouts())
@pytest.mark.parametrize("k", [1, 3])
def test_round_trip(tmp_path, format, suffix, k):
    path = tmp_path / f"<cat>{suffix}"                          # two of the formats use the file's name
    save_all(path, [Concept("<cat>", vectors(k), {"init": "cat", "steps": 5})], format)
    [concept] = load_all(path)
    assert concept.placeholder == "<cat>" and torch.equal(concept.vectors, vectors(k))
    assert concept.info == {"native": {"init": "cat", "steps": 5}, "a1111": {"step": 5},
                            "official": {"token": -1}}.get(format, {})
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("format, suffix", [("native", ".safetensors"), ("official", ".pt")])
def test_several_words(tmp_path, format, suffix):
    path = tmp_path / f"words{suffix}"
    save_all(path, [Concept("<a>", vectors(2, 1)), Concept("*", vectors(1, 2))], format)
    found = {concept.placeholder: concept.vectors for concept in load_all(path)}
    assert found.keys() == {"<a>", "*"}
    assert torch.equal(found["<a>"], vectors(2, 1)) and torch.equal(found["*"], vectors(1, 2))
    with pytest.raises(InputError, match="2 words .*<a>"):
        Concept.load(path)


def test_native_file_of_one_word_is_a_diffusers_file(tmp_path):
    """Byte by byte: a JSON header with one fp32 tensor and the metadata `format: pt`, then its numbers."""
    Concept("<cat>", vectors(2), {"init": "cup", "steps": 5}).save(tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    [size] = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__")
    assert header == {"<cat>": {"dtype": "F32", "shape": [2, 64], "data_offsets": [0, 512]}}
    assert data[8 + size:] == vectors(2).numpy().tobytes()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["textinv.info"]) == {"<cat>": {"init": "cup", "steps": 5}}


def test_the_same_word_gives_the_same_file(tmp_path):
    """The order of a safetensors file's metadata changes from write to write."""
    word = Concept("<caf\u00e9>", vectors(2), {"init": "cup", "model": "\u732b"})
    for i in range(8):
        word.save(tmp_path / f"{i}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert dict(Concept.load(tmp_path / "0.safetensors").info) == dict(word.info)


def test_official_file_has_the_official_structure(tmp_path):
    """What the official code's `load` and `forward` use: tokens that are tensors, parameters that move."""
    cat = Concept("<cat>", vectors(1), {"token": 4937})
    save_all(tmp_path / "a.pt", [Concept("*", vectors(2)), cat], "official")
    content = torch.load(tmp_path / "a.pt", weights_only=False)         # our own file
    tokens, params = content["string_to_token"], content["string_to_param"]
    assert content.keys() == {"string_to_token", "string_to_param"} and type(params) is nn.ParameterDict
    assert {word: token.item() for word, token in tokens.items()} == {"*": 1008, "<cat>": 4937}
    assert all(token.dtype == torch.int64 and token.shape == () for token in tokens.values())
    assert params["*"].dtype == torch.float32 and torch.equal(params["*"], vectors(2))
    assert torch.equal(params["<cat>"], vectors(1))


def test_star_in_official_files_of_stable_diffusion(tmp_path):
    Concept("*", vectors(1, width=768)).save(tmp_path / "a.pt")
    assert load_all(tmp_path / "a.pt")[0].info == {"token": 265}


def test_a1111_file_has_its_structure(tmp_path):
    save_all(tmp_path / "my-cat.pt", [Concept("*", vectors(2), {"steps": 300})], "a1111")
    content = torch.load(tmp_path / "my-cat.pt", weights_only=True)
    assert torch.equal(content["string_to_param"].pop("*"), vectors(2))
    assert content == {"string_to_token": {"*": 265}, "string_to_param": {}, "name": "my-cat", "step": 300,
                       "sd_checkpoint": None, "sd_checkpoint_name": None}


def test_diffusers_and_kohya_files(tmp_path):
    for format, suffix, key in [("diffusers", ".bin", "<cat>"), ("diffusers", ".safetensors", "<cat>"),
                                ("kohya", ".pt", "emb_params"), ("kohya", ".safetensors", "emb_params")]:
        path = tmp_path / f"a{suffix}"
        save_all(path, [Concept("<cat>", vectors(2))], format)
        [(found, tensor)] = (safetensors.torch.load_file(path) if suffix == ".safetensors"
                             else torch.load(path, weights_only=True)).items()
        assert found == key and torch.equal(tensor, vectors(2))


@pytest.mark.parametrize("name, words, format, why", [
    ("a.pt", ["*"], "foo", "native or official"), ("a.pt", ["*"], "native", "ends in .safetensors"),
    ("a.bin", ["*"], "official", "ends in .pt"), ("a.pt", [], "official", "one word, not 0"),
    ("a.bin", ["a", "b"], "diffusers", "one word, not 2"), ("a.pt", ["a", "b"], "a1111", "one word"),
    ("a.safetensors", ["a", "b"], "kohya", "one word"), ("a.pt", ["a", "A"], "official", "the same name"),
    ("a.pt", ["a.b"], "official", "cannot hold"), ("a.pt", ["keys"], "official", "cannot hold"),
    ("no/a.pt", ["*"], "official", "cannot be written")])
def test_what_cannot_be_written(tmp_path, name, words, format, why):
    with pytest.raises(InputError, match=why):
        save_all(tmp_path / name, [Concept(word, vectors(1)) for word in words], format)
    assert not os.listdir(tmp_path)


def test_words_of_different_models_go_to_different_files(tmp_path):
    with pytest.raises(InputError, match="64 and 768"):
        save_all(tmp_path / "a.pt", [Concept("a", vectors(1)), Concept("b", vectors(1, width=768))],
                 "official")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_failing_write_leaves_the_old_file(tmp_path, monkeypatch, suffix, where):
    path = tmp_path / f"a{suffix}"
    Concept("*", vectors(1)).save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        def __init__(self, file): self.file = file
        def __enter__(self): return self
        def __exit__(self, *args): self.file.close()
        def write(self, data):
            self.file.write(data[:10])                                  # a part fits
            full()

    if where == "write":
        open_ = pathlib.Path.open
        monkeypatch.setattr(pathlib.Path, "open", lambda self, *args: Full(open_(self, *args)))
    else:
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (pathlib.Path, "replace")}[where], full)
    with pytest.raises(InputError, match="a.*: cannot be written .No space left"):
        Concept("*", vectors(2)).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_file_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, pathlib.Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: order.append(("fsync", os.fstat(fd).st_size)) or fsync(fd))
    monkeypatch.setattr(pathlib.Path, "replace", lambda *paths: order.append("replace") or replace(*paths))
    Concept("*", vectors(1)).save(tmp_path / "a.safetensors")
    assert order == [("fsync", (tmp_path / "a.safetensors").stat().st_size), "replace"]


# --- what others wrote ------------------------------------------------------------------------------------

def test_reference_file_of_the_official_code(compvis):
    [concept] = load_all(REFERENCE)
    assert concept.placeholder == "199" and concept.info == {"token": 199}
    assert torch.equal(concept.vectors, compvis[1]["ti.v5"])


def save(path, content):
    safetensors.torch.save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


def a1111(params, **more):
    return {"string_to_token": {"*": 265}, "string_to_param": params, "name": "other", "step": 9,
            "sd_checkpoint": None, "sd_checkpoint_name": None, **more}


@pytest.mark.parametrize("name, content, word, k", [
    ("my-cat.pt", a1111({"*": vectors(3)}), "my-cat", 3),
    ("my-cat.pt", a1111(nn.ParameterDict({"*": vectors(3)})), "my-cat", 3),
    ("my-cat.pt", {"string_to_param": {"*": vectors(3)}}, "my-cat", 3),
    ("x.bin", {"<cat>": vectors(2)}, "<cat>", 2),
    ("x.bin", {"<cat>": vectors(1)[0]}, "<cat>", 1),                    # older diffusers: (d)
    ("x.safetensors", {"<cat>": vectors(1)[0]}, "<cat>", 1),
    ("x.bin", {"<cat>": nn.Parameter(vectors(2))}, "<cat>", 2),
    ("toy.pt", {"emb_params": vectors(2)}, "toy", 2), ("toy.pt", {"emp_params": vectors(2)}, "toy", 2),
    ("toy.safetensors", {"emp_params": vectors(2)}, "toy", 2)])
def test_layouts_of_others(tmp_path, name, content, word, k):
    [concept] = load_all(save(tmp_path / name, content))
    assert concept.placeholder == word and torch.equal(concept.vectors, vectors(k))


def test_what_a1111_says_of_the_training(tmp_path):
    save(tmp_path / "a.pt", a1111({"*": vectors(1)}, sd_checkpoint="abc", sd_checkpoint_name=object))
    assert load_all(tmp_path / "a.pt")[0].info == {"step": 9, "sd_checkpoint": "abc"}


def test_several_words_of_the_official_code_keep_their_names_and_ids(tmp_path):
    save(tmp_path / "a.pt", {"string_to_token": {"*": torch.tensor(1008), "dog": 7, "odd": torch.ones(2)},
                             "string_to_param": nn.ParameterDict({"*": vectors(1), "dog": vectors(2),
                                                                  "odd": vectors(1)})})
    found = [(concept.placeholder, len(concept.vectors), concept.info)
             for concept in load_all(tmp_path / "a.pt")]
    assert found == [("*", 1, {"token": 1008}), ("dog", 2, {"token": 7}), ("odd", 1, {})]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_any_precision_becomes_fp32(tmp_path, dtype, suffix):
    [concept] = load_all(save(tmp_path / f"a{suffix}", {"a": vectors(1).to(dtype)}))
    assert concept.vectors.dtype == torch.float32
    assert torch.equal(concept.vectors, vectors(1).to(dtype).float())


def test_vectors_outlive_the_file(tmp_path):
    path = save(tmp_path / "a.bin", {"a": vectors(1)})
    [concept] = load_all(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(concept.vectors, vectors(1))


@pytest.mark.parametrize("info", ["", "{", "[]", '{"a": 3}', "[" * 100_000,
                                  '{"a": {"n": ' + "9" * 5000 + "}}"])
def test_damaged_info_costs_no_vectors(tmp_path, info):
    (tmp_path / "a.safetensors").write_bytes(
        safetensors.torch.save({"a": vectors(1)}, {"format": "pt", "textinv.info": info}))
    [concept] = load_all(tmp_path / "a.safetensors")
    assert torch.equal(concept.vectors, vectors(1)) and concept.info == {}


@pytest.mark.parametrize("name", ["<lora_fox>", "lora_cat"])
@pytest.mark.parametrize("format, suffix", [("native", "safetensors"), ("diffusers", "bin")])
def test_a_word_may_be_called_after_lora(tmp_path, name, format, suffix):
    path = tmp_path / f"word.{suffix}"
    save_all(path, [Concept(name, torch.ones(1, 8))], format)
    assert Concept.load(path).placeholder == name
