"""Shared by all tests: the reference tensors in tests/data, computed by the original code and by diffusers on
random weights, and the models loaded from the weights beside them."""
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import weights
from weights.recipe import clip as recipe
from weights.recipe import vocabulary

DATA = Path(__file__).parent / "data"


def assert_close(got: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    """max |difference| <= relative x max |expected|."""
    assert got.shape == expected.shape
    difference, limit = (got - expected).abs().max(), relative * expected.abs().max()
    assert difference <= limit, f"off by {difference:.3g}, allowed {limit:.3g}"


@pytest.fixture(scope="session")
def compvis():
    """(model, expected tensors) of the original code's reference. Tests must not change either."""
    return (weights.load(DATA / "compvis-tiny/model.ckpt"),
            load_file(DATA / "compvis-tiny/expected.safetensors"))


@pytest.fixture(scope="session")
def diffusers_tiny():
    """(model, expected tensors) of diffusers' reference. Tests must not change either."""
    return weights.load(DATA / "diffusers-tiny"), load_file(DATA / "diffusers-tiny/expected.safetensors")


@pytest.fixture
def pictures(tmp_path):
    """A folder of three."""
    folder = tmp_path / "cat"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (80, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def _own_compvis():
    return weights.load(DATA / "compvis-tiny/model.ckpt")


@pytest.fixture
def model_with_a_word(_own_compvis):
    """The original code's model with room for one word, which a test may teach it."""
    _own_compvis.text_encoder.learned = torch.zeros(1, 64)
    yield _own_compvis
    _own_compvis.text_encoder.learned = torch.zeros(0, 64)


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory):
    """A folder as the recipe writes it, with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    vocabulary.write(folder / "vocab.txt")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "OUT", folder / "vocab.txt")
        recipe.save(recipe.new_model(), folder / "clip")
    return folder / "clip"
