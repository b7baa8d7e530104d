"""A tuned model's delta: what it adds, the size of its file, and files that are none."""
import json

import pytest
import torch
from safetensors.torch import save_file

import weights
from helpers import DATA
from ldm import InputError
from textinv.concept import model_hash
from textinv.editing.deltas import Delta, applied
from weights import TINY


def test_applied_weights_are_w_plus_ba(own_model):
    names = ["input_blocks.1.0.in_layers.2.weight", "time_embed.0.weight"]          # a convolution, a linear
    before = {name: own_model.unet.get_parameter(name).clone() for name in names}
    down = {name: torch.randn(2, before[name][0].numel()) for name in names}
    up = {name: torch.randn(len(before[name]), 2) for name in names}
    delta = Delta(down, up, model_hash(own_model))
    with applied(own_model, delta):
        for name in names:
            change = torch.einsum("or,ri->oi", up[name].half().float(), down[name].half().float())
            expected = before[name] + change.reshape(before[name].shape)
            assert torch.allclose(own_model.unet.get_parameter(name), expected, atol=1e-5)


def test_a_fingerprint_is_of_the_factors_their_names_and_the_model():
    A, B = {"w": torch.ones(2, 5)}, {"w": torch.ones(7, 2)}
    deltas = [Delta(A, B, "m"), Delta({"w": 2 * A["w"]}, B, "m"), Delta(A, {"w": 2 * B["w"]}, "m"),
              Delta({"u": A["w"]}, {"u": B["w"]}, "m"), Delta(A, B, "n")]
    assert len({delta.fingerprint for delta in deltas}) == 5
    assert Delta(A, B, "m", {"rank": 2}).fingerprint == deltas[0].fingerprint


def test_a_delta_of_the_embedded_model_takes_little_room(tmp_path):
    tiny = weights.load("tiny")
    matrices = [weight for weight in tiny.unet.parameters() if weight.ndim > 1]
    Delta({str(i): torch.zeros(4, weight[0].numel()) for i, weight in enumerate(matrices)},
          {str(i): torch.zeros(len(weight), 4) for i, weight in enumerate(matrices)}, "").save(tmp_path / "x")
    assert (tmp_path / "x").stat().st_size < 0.1 * TINY.stat().st_size


def test_files_that_are_no_delta(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "word.safetensors")
    (tmp_path / "text.safetensors").write_text("not a file of tensors")
    for path, message in ((tmp_path / "nowhere.safetensors", "no such file"),
                          (tmp_path / "word.safetensors", "not the delta of a tuned model"),
                          (tmp_path / "text.safetensors", "text.safetensors"),
                          (DATA / "diffusers-tiny/unet/diffusion_pytorch_model.safetensors",
                           "not the delta of a tuned model")):
        with pytest.raises(InputError, match=message) as error:
            Delta.load(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [
    {"down": torch.zeros(2, 5).half()}, {"down": torch.zeros(5).half()}, {"up": torch.zeros(7).half()},
    {"down": torch.zeros(3, 5)}, {"up": torch.zeros(7, 3, dtype=torch.int8)},
    {"up": torch.full((7, 3), float("nan")).half()}, {"down": torch.full((3, 5), float("inf")).half()}])
def test_a_damaged_delta_is_refused(changes, tmp_path):
    """Ranks, shapes, types and values: none of them is left to where the delta is applied."""
    good = {"down": torch.zeros(3, 5).half(), "up": torch.zeros(7, 3).half()}
    about = {"textinv.delta": json.dumps({"model": "0123", "info": {}})}
    for factors in (good, {**good, **changes}):
        save_file({f"w.{which}": factor for which, factor in factors.items()}, tmp_path / "x", about)
        if factors is good:
            assert Delta.load(tmp_path / "x").up["w"].shape == (7, 3)
    with pytest.raises(InputError, match="x: not the delta of a tuned model, or damaged. Give a file"):
        Delta.load(tmp_path / "x")
