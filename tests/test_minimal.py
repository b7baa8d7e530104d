"""The one-page example: it learns a word that lowers the loss, using only ldm and weights."""
import importlib.util
import subprocess
import sys

import pytest
import torch
from PIL import Image

import weights
from helpers import ROOT

PATH = ROOT / "examples/minimal.py"


@pytest.fixture
def minimal():
    spec = importlib.util.spec_from_file_location("minimal", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_one_page():
    assert len(PATH.read_text().splitlines()) <= 80


@pytest.mark.parametrize("argv", [[], ["nowhere", "cat", "x.png"]])
def test_wrong_arguments_are_one_line(argv):
    done = subprocess.run([sys.executable, PATH, *argv], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "usage: minimal.py FOLDER_OF_IMAGES INIT_WORD OUTPUT.png\n"


def test_it_needs_no_textinv():
    code = f"import runpy, sys; runpy.run_path({str(PATH)!r}); print('textinv' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr


def test_the_word_lowers_the_loss(minimal, monkeypatch):
    """On images and noise that no step has seen."""
    monkeypatch.setattr(minimal, "STEPS", 30)
    torch.manual_seed(0)
    model = weights.load("tiny")
    v = minimal.learn(model, ROOT / "examples/fox", "wolf")
    assert v.shape == (1, model.config.text.width) and not any(p.grad is not None for p in model.parameters())
    x = torch.stack([minimal.load_image(path, 64) for path in sorted((ROOT / "examples/fox").iterdir())])
    with torch.no_grad():
        z0, ids = model.encode(x).repeat(8, 1, 1, 1), model.tokenizer(["a good photo of a *"])
        eps, t = torch.randn_like(z0), torch.arange(40) * 25
        contexts = [model.text_encoder.encode(model.text_encoder.embed(ids, rows)).expand(40, -1, -1)
                    for rows in (model.words.rows(), v)]
        losses = [model.loss(z0, c, eps, t) for c in contexts]
    assert losses[1] < 0.98 * losses[0]


def test_it_writes_a_grid(minimal, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(minimal, "STEPS", 1)
    minimal.main(str(ROOT / "examples/fox"), "wolf", str(tmp_path / "grid.png"))
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (4 * 64, 2 * 64)
    assert capsys.readouterr().out.endswith("grid.png\n")
