"""The numerics on PyTorch's meta device, where a tensor left on another device is an error: what would
break on a GPU breaks here, without one."""
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import weights
from helpers.loops import dataset, teach
from helpers.runs import MODEL
from textinv.dataset import Dataset, encode
from textinv.evaluation.scores import score
from textinv.inversion import inversion_loss, sample_batch
from textinv.variants import Progressive

META = torch.device("meta")


@pytest.fixture(scope="module")
def model():
    model = weights.load(MODEL).to("meta")
    teach(model, {"*": 1})
    return model


def test_text_encoder(model):
    c = model.context(["a photo of *"])
    assert c.device == META and c.shape == (1, 77, 64)


def test_prompts_of_a_progressive_word():
    variant = Progressive(5, [200, 201, 202], 0, torch.zeros(3, 64, device=META))
    ids = variant.prompts(torch.zeros(2, 9, dtype=torch.int64, device=META), 1)
    assert ids.device == META and ids.shape == (2, 9)


def test_autoencoder(model):
    x = torch.zeros(3, 64, 64)
    assert {(tensor.device, tensor.shape) for tensor in encode(model, x)} == {(META, (4, 8, 8))}
    assert model.decode(model.encode(x[None].to(META), generator=torch.Generator())).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("sampler, eta", [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0), ("dpm++", 0.0)])
def test_guided_sampling(model, sampler, eta):
    z0 = model.sample(model.context(["a *"]), model.context([""]), steps=3, guidance=5.0, eta=eta,
                      sampler=sampler, generator=torch.Generator())
    assert z0.device == META and z0.shape == (1, 4, 8, 8)


def test_an_inversion_step(model, monkeypatch):
    # the schedule keeps its values on the CPU when a model is on "meta"
    monkeypatch.setattr(model.schedule, "alphas_cumprod", model.schedule.alphas_cumprod.to(META))
    on_cpu = dataset(loss_weights=torch.ones(3, 1, 8, 8))
    cached = Dataset(on_cpu.mean.to(META), on_cpu.std.to(META), on_cpu.loss_weights.to(META), on_cpu.prompts)
    batch = sample_batch(cached, model.schedule.timesteps, 2, torch.Generator().manual_seed(0))
    assert {getattr(batch, name).device for name in ("z0", "ids", "eps", "t", "loss_weights")} == {META}
    v = torch.zeros(1, 64, device=META, requires_grad=True)
    inversion_loss(model, model.words.replaced({"*": v}), batch).backward()
    assert v.grad.device == META and v.grad.shape == (1, 64)


def test_intervals_of_an_accelerators_samples():
    """A fake tensor has no values: that one is requested means that all devices agreed."""
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        score(0.0, torch.empty(1000, device="cuda"))
