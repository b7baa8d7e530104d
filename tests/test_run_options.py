"""The options of a run, and what "auto" stands for."""
from pathlib import Path

import pytest
import torch

from ldm import InputError
from textinv.running import options
from textinv.running.options import RunOptions, resolve_device, resolve_dtype


def test_runs_are_named_after_their_images(image_dir):
    names = [RunOptions(images=str(images)).folder for images in
             (image_dir, f"{image_dir}/", image_dir / "0.png")]
    assert names == [Path("runs/cat"), Path("runs/cat"), Path("runs/0")]
    assert RunOptions(images=str(image_dir), out="elsewhere/x").folder == Path("elsewhere/x")


@pytest.mark.parametrize("given, message", [
    ({"dtype": "int8"}, "`dtype` is 'int8'. Use auto or float32 or bfloat16"),
    ({"preview_every": -1}, "`preview_every` is -1. Use 0 or more"),
    ({"save_every": 0}, "`save_every` is 0. Use 1 or more")])
def test_values_without_meaning_are_refused(given, message):
    with pytest.raises(InputError) as error:
        RunOptions(**given)
    assert message in str(error.value)


def test_auto_is_a_fixed_rule(monkeypatch):
    """bfloat16 where it is faster; an explicit choice stays."""
    for has_it, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(options, "cpu_has_fast_bfloat16", lambda has_it=has_it: has_it)
        assert resolve_dtype("auto", "cpu") == dtype and resolve_dtype("auto", "cuda") == "bfloat16"
        assert [resolve_dtype(dtype, "cpu") for dtype in ("float32", "bfloat16")] == ["float32", "bfloat16"]
        assert resolve_dtype("auto", "mps") == "float32"


@pytest.mark.parametrize("cuda, mps, device", [
    (True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_is_the_accelerator_that_is_there(cuda, mps, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == device


@pytest.mark.parametrize("device", ["foo", "meta", "cuda:99", "xpu", "mps", ""])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(InputError, match=f"`device` {device} is not available here .*Use cpu or auto."):
        resolve_device(device)
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("names, has_it", [
    (["avx2", "sse4a"], False), (["avx2", "avx512_bf16"], False), (["avx512_bf16", "sse4a"], True),
    (["amx_bf16"], True), (["avx512_fp16"], False)])
def test_what_a_cpu_says(names, has_it, monkeypatch):
    """By PyTorch's own list of capabilities, or by Linux's if PyTorch is older."""
    listed = dict.fromkeys(("amx_bf16", "avx512_bf16", "sse4a"), False) | dict.fromkeys(names, True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: listed, raising=False)
    assert options.cpu_has_fast_bfloat16() == has_it
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags\t\t: fpu {' '.join(names)}\n")
    assert options.cpu_has_fast_bfloat16() == has_it


def test_a_cpu_that_says_nothing(monkeypatch):
    def missing(self):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(Path, "read_text", missing)
    assert not options.cpu_has_fast_bfloat16()
