"""Every tensor of a checkpoint is accounted for: compared, or left out for a reason."""
import pytest
import safetensors.torch
import torch

import weights
from helpers import DATA
from ldm import InputError
from weights.inventory import take_inventory


@pytest.mark.parametrize("fixture, source", [
    ("compvis", DATA / "compvis-tiny/model.ckpt"), ("diffusers_tiny", DATA / "diffusers-tiny"),
    ("sd1", DATA / "sd1-tiny/model.ckpt"), ("sd1_hf", DATA / "sd1-hf-tiny")])
def test_references(fixture, source, request):
    model = request.getfixturevalue(fixture)[0]
    found = take_inventory(model, source)
    assert found.equal == len(model.state_dict())
    assert not found.different and not found.unexplained


def test_rounded_to_the_models_precision():
    model = weights.load("tiny", dtype=torch.bfloat16)
    assert not take_inventory(model, "tiny").different


def test_a_changed_tensor_is_named(diffusers_tiny):
    model = weights.load(DATA / "diffusers-tiny")
    model.unet.out[2].bias.data[0] += 1e-3
    found = take_inventory(model, DATA / "diffusers-tiny")
    assert found.different == ["unet.out.2.bias"] and found.equal == len(model.state_dict()) - 1


def test_what_is_left_out_has_a_reason(tmp_path):
    """Tensors that only training uses are explained, others are not; loading would refuse the latter."""
    model, path = weights.load("tiny"), tmp_path / "model.safetensors"
    weights.save(model, path)
    tensors = safetensors.torch.load_file(path)
    extra = {"betas": torch.zeros(3), "logvar": torch.zeros(3), "model_ema.decay": torch.zeros(1),
             "first_stage_model.loss.logvar": torch.zeros(1), "something.else": torch.zeros(2)}
    safetensors.torch.save_file(tensors | extra, path)
    found = take_inventory(model, path)
    assert sum(found.left_out.values()) == 4 and all(found.left_out)
    assert found.unexplained == ["something.else"] and not found.different


def test_the_last_weights_next_to_their_average(tmp_path):
    """Where a file has both, the average is loaded, and the last weights are explained."""
    model, path = weights.load("tiny"), tmp_path / "model.safetensors"
    weights.save(model, path)
    tensors = safetensors.torch.load_file(path)
    unet = "model.diffusion_model."
    average = {"model_ema." + key.removeprefix("model.").replace(".", ""): tensor + 1
               for key, tensor in tensors.items() if key.startswith(unet)}
    safetensors.torch.save_file(tensors | average, path)
    assert len(take_inventory(model, path).different) == len(average)        # this model has the last ones
    found = take_inventory(weights.load(path), path)
    assert not found.different and not found.unexplained
    assert list(found.left_out.values()) == [len(average)]


def test_no_such_source(compvis):
    with pytest.raises(InputError, match="no such file"):
        take_inventory(compvis[0], "./nowhere.ckpt")
