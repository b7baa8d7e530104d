"""The embedded default as it ships: it loads without a network, generates, can be inverted, and is small."""
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import textinv
import weights
from ldm import InputError, LDMConfig
from recipe import filters
from recipe.objects import HELD_OUT, HELD_OUT_STYLE
from textinv.inversion import inversion_loss, sample_batch
from textinv.running.run import Run

TINY = Path(weights.__file__).parent / "tiny"
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def model():
    return weights.load("tiny")


def test_it_is_frozen_and_has_the_public_models_classes(model):
    assert model.config != LDMConfig() and model.config.autoencoder.factor == 4
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_the_file_is_read_back_exactly(model):
    with safe_open(TINY / "model.safetensors", "pt") as file:
        name = "model.diffusion_model.out.2.weight"
        assert file.get_tensor(name).dtype == torch.float16
        assert torch.equal(file.get_tensor(name).float(), model.unet.out[2].weight)


def test_all_shipped_weights_are_small():
    assert sum(path.stat().st_size for path in TINY.rglob("*.safetensors")) <= 34e6


def test_it_knows_its_words_and_not_the_held_out_ones(model):
    words = (TINY / "vocab.txt").read_text().split("\n")[:-1]
    assert len(words) == len(set(words)) == model.text_encoder.vocab_size
    assert {"cat", "car", "glossy", "beach", "red", "photo"} <= set(words)
    assert not {*HELD_OUT, HELD_OUT_STYLE, *filters.HELD_OUT} & set(words)
    assert all(HELD_OUT[name].init in words for name in HELD_OUT)
    ids = model.tokenizer(["a photo of a glossy cat on the beach"])
    assert ids.shape == (1, model.config.text.length)
    assert [model.tokenizer.backend.id_to_token(i) for i in ids[0, :6].tolist()] == [
        "[CLS]", "a", "photo", "of", "a", "glossy"]


def test_backgrounds_are_as_asked(model):
    """The plainest thing that a prompt can ask for: corners of the wall's color."""
    for name, channel in (("red", 0), ("green", 1), ("blue", 2)):
        prompt = f"a photo of a ball on a {name} background"
        image = np.asarray(model.generate(prompt, steps=20, sampler="dpm++")[0])
        corners = image[[0, 0, -1, -1], [0, -1, 0, -1]].astype(float).mean(axis=0)
        assert corners.argmax() == channel and corners[channel] > corners.sum() / 2.4


def test_a_word_lowers_the_loss_on_its_images(model):
    """Twenty steps on an example, evaluated on samples that they did not see."""
    config = textinv.InversionConfig(init="cup", steps=20, seed=1)
    with Run(model, EXAMPLES / "teapot", config) as run:
        inversion = run.inversion
        batch = sample_batch(inversion.dataset, 1000, 64, torch.Generator().manual_seed(9))
        for _ in inversion:
            pass
        with torch.no_grad():
            before, after = (inversion_loss(model, v, batch).item() for v in (inversion.v0, inversion.v))
    assert after < 0.98 * before


def test_a_damaged_file_is_named(tmp_path, monkeypatch):
    data = (TINY / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:len(data) // 2])
    monkeypatch.setattr(weights, "TINY", tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="model.safetensors: truncated or damaged"):
        weights.load("tiny")
