"""Pivotal tuning: the images are learned, the model stays as it was, and a delta knows its model."""
from pathlib import Path

import pytest
import torch

from ldm import InputError
from textinv import InversionConfig
from textinv.dataset import Dataset, build_dataset
from textinv.editing.deltas import Delta, applied
from textinv.editing.tuning import Tuning, TuningConfig, tune
from textinv.images import TrainingImage, View


@pytest.fixture
def model(own_model):
    own_model.words.add("*", torch.full((1, own_model.words.width), 0.1))
    return own_model


@pytest.fixture
def data(model):
    """Two random images, each with the caption "a photo of *"."""
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = [TrainingImage(Path("x.png"), (View(one, None),), "a photo of *", "") for one in x]
    return build_dataset(model, images, InversionConfig(flip=False))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_unchanged(model, before):
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def fixed_loss(model, data):
    """Equation 1 on the images, always with the same noise and timesteps."""
    z0 = data.mean.repeat(8, 1, 1, 1)
    generator = torch.Generator().manual_seed(7)
    eps = torch.randn(z0.shape, generator=generator)
    t = torch.randint(1000, (len(z0),), generator=generator)
    with torch.no_grad():
        return model.loss(z0, model.context(["a photo of *"]).expand(len(z0), -1, -1), eps, t).item()


def test_tuning_learns_the_images_and_leaves_the_model_alone(model, data):
    before, loss = state(model), fixed_loss(model, data)
    tensors = dict(model.unet.named_parameters())
    delta = tune(model, data, TuningConfig(steps=25, lr=1e-2))
    assert_unchanged(model, before)
    with applied(model, delta) as tuned:
        assert tuned is model and fixed_loss(model, data) < 0.9 * loss
    assert_unchanged(model, before)
    assert all(tensors[name] is parameter for name, parameter in model.unet.named_parameters())


def test_the_model_is_restored_after_an_error(model, data):
    before, delta = state(model), tune(model, data, TuningConfig(steps=2))
    with pytest.raises(RuntimeError), applied(model, delta):
        assert any(not torch.equal(model.state_dict()[name], before[name]) for name in before)
        raise RuntimeError
    assert_unchanged(model, before)


def test_the_first_step_starts_at_the_model_itself(model, data):
    """B is zero, and the loss under the factors is Equation 1 of the model."""
    tuning = Tuning(model, data, TuningConfig(steps=1))
    assert all(not factor.any() for factor in tuning.up.values())
    seed = tuning.generator.get_state()
    first = tuning.loss().item()
    tuning.generator.set_state(seed)
    with applied(model, tuning.delta()):
        assert tuning.loss().item() == first
    for weight in tuning.weights.values():
        assert not weight.requires_grad


def test_the_same_seed_gives_the_same_delta(model, data):
    first, again = (tune(model, data, TuningConfig(steps=2, prior="a cat", prior_images=2))
                    for _ in range(2))
    assert all(torch.equal(first.up[name], again.up[name]) for name in first.up)
    other = tune(model, data, TuningConfig(steps=2, seed=1, prior="a cat", prior_images=2))
    assert any(not torch.equal(first.up[name], other.up[name]) for name in first.up)


def test_the_prior_is_not_what_sampling_gives(model, data):
    """With the same seed, one would judge the tuned model by the images it was tuned on."""
    tuning = Tuning(model, data, TuningConfig(steps=1, prior="a cat", prior_images=1))
    z0, c = tuning.prior
    sampled = model.sample(c, model.context([""]), generator=torch.Generator().manual_seed(0))
    assert (sampled - z0).abs().mean() > 0.1


def test_a_preserved_prompt_changes_less(model, data):
    c = model.context(["a cat"])
    z0 = model.sample(c.expand(4, -1, -1), model.context([""]), steps=10,
                      generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(6)
    eps = torch.randn(z0.shape, generator=generator)
    t = torch.tensor([100, 400, 700, 900])
    z_t = model.schedule.add_noise(z0, eps, t)

    def loss():
        with torch.no_grad():
            return (model.unet(z_t, t, c.expand(4, -1, -1)) - eps).square().mean().item()

    untouched, losses = loss(), {}
    for prior in ({}, {"prior": "a cat", "prior_weight": 2.0, "prior_images": 4}):
        with applied(model, tune(model, data, TuningConfig(steps=20, lr=1e-2, **prior))):
            losses[bool(prior)] = loss()
    assert losses[True] < losses[False] and losses[True] < untouched


def test_the_loss_samples_the_expectation_and_weighs_the_prior(model, data, monkeypatch):
    """Equation 1's: views, prompts and timesteps uniform, z0 from its posterior, eps standard normal."""
    monkeypatch.setattr(Tuning, "_prior_latents", lambda self: (
        torch.tensor([40.0, 50.0]).reshape(2, 1, 1, 1), torch.full((1, 1, 1), 7.0)))
    tuning = Tuning(model, data, TuningConfig(batch=20_000, prior="a cat", prior_weight=0.25))
    ids, weights = torch.arange(3)[:, None], torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)
    tuning.dataset = Dataset(9 * weights, torch.full((2, 1, 1, 1), 0.5), weights, [ids, ids])
    monkeypatch.setattr(model.text_encoder, "forward", lambda ids: ids[:, None].float())
    batches, losses = [], iter([torch.tensor(1.0), torch.tensor(8.0)])
    monkeypatch.setattr(model, "loss",
                        lambda *batch, weight: batches.append((*batch, weight)) or next(losses))
    assert tuning.loss().item() == 1 + 0.25 * 8
    (z0, c, eps, t, weight), (prior_z0, prior_c, prior_eps, prior_t, none) = batches
    view = z0.sign() * 9
    assert torch.equal(weight, z0.sign()) and none is None                  # each view's own
    assert abs(view.mean()) < 0.2 and abs((z0 - view).std() - 0.5) < 0.01
    assert (torch.bincount(c.flatten().long(), minlength=3) / 20_000 - 1 / 3).abs().max() < 0.02
    assert abs(eps.mean()) < 0.02 and abs(eps.std() - 1) < 0.02
    assert t.min() == 0 and t.max() == 999 and abs(t.float().mean() - 499.5) < 8
    assert prior_eps.shape == prior_z0.shape and prior_eps.std() > 0.9 and prior_t.max() == 999
    assert prior_z0.unique().tolist() == [40, 50] and prior_c.unique().tolist() == [7]


def test_the_first_step_is_the_learning_rate_at_the_given_rank(model, data):
    """Adam's first step is the learning rate, whatever the gradient; only B has one, since B is 0."""
    tuning = Tuning(model, data, TuningConfig(lr=3e-3, rank=2))
    next(iter(tuning))
    assert {len(factor) for factor in tuning.down.values()} == {2}
    assert {factor.shape[1] for factor in tuning.up.values()} == {2}
    moved = torch.cat([factor.detach().abs().flatten() for factor in tuning.up.values()])
    assert moved.median().item() == pytest.approx(3e-3, rel=0.01)


def test_prior_images_are_sampled_a_batch_at_a_time(model, data, monkeypatch):
    sizes = []
    monkeypatch.setattr(model, "sample", lambda c, uncond, generator: sizes.append(len(c)) or torch.full(
        (len(c), 4, 8, 8), float(len(sizes))))
    z0, _ = Tuning(model, data, TuningConfig(batch=2, prior="a cat", prior_images=5)).prior
    assert sizes == [2, 2, 1] and z0[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 3]


def test_the_file_is_read_back_bit_for_bit_and_is_small(model, data, tmp_path):
    delta = tune(model, data, TuningConfig(steps=2))
    delta.save(tmp_path / "new/fox.safetensors")
    again = Delta.load(tmp_path / "new/fox.safetensors")
    assert again.model == delta.model and again.info == delta.info and again.info["rank"] == 4
    for ours, theirs in ((delta.down, again.down), (delta.up, again.up)):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    before = state(model)
    with applied(model, again):
        assert any(not torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_a_delta_refuses_another_model(model, data, compvis):
    delta = tune(model, data, TuningConfig(steps=1))
    with pytest.raises(InputError, match="was tuned on a different model"), applied(compvis[0], delta):
        pass
    with torch.no_grad():
        model.unet.out[2].bias += 1                                 # the same shapes, other weights
    with pytest.raises(InputError, match="was tuned on a different model"), applied(model, delta):
        pass


def test_a_delta_is_not_applied_twice(model, data):
    delta = tune(model, data, TuningConfig(steps=3, lr=1e-1))
    with applied(model, delta), pytest.raises(InputError, match="a different model"), applied(model, delta):
        pass


@pytest.mark.parametrize("values, message", [({"steps": 0}, "`steps` is 0"), ({"rank": 0}, "`rank` is 0"),
                                             ({"prior_images": 0}, "`prior_images` is 0"),
                                             ({"lr": float("nan")}, "`lr` is nan"), ({"lr": 0}, "`lr` is 0"),
                                             ({"prior_images": 2}, "`prior_images` has no effect without"),
                                             ({"prior_weight": 2.0}, "`prior_weight` has no effect without")])
def test_values_without_meaning(values, message):
    with pytest.raises(InputError, match=message):
        TuningConfig(**values)


def test_a_loss_that_diverges_ends_it(model, data):
    before = state(model)
    tuning = Tuning(model, data, TuningConfig(steps=3))
    steps = iter(tuning)
    next(steps)
    tuning.dataset.mean[:] = float("inf")
    with pytest.raises(InputError, match="not finite at step 2"):
        next(steps)
    assert_unchanged(model, before)
