"""The recipe's trainings: checkpoints, averages, the way from weights/tiny back to a checkpoint, and what
shipping changes."""
import pytest
import torch
from torch import nn

import weights
from ldm import InputError
from recipe import autoencoder, diffusion, restore, ship, vocabulary
from recipe.training import Averaged, Training, averaged_weights
from textinv.initialization import vocabulary_norm


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The stages' files in a folder of their own."""
    for stage in (autoencoder, diffusion):
        monkeypatch.setattr(stage, "CHECKPOINT", tmp_path / stage.CHECKPOINT.name)
    monkeypatch.setattr(vocabulary, "OUT", tmp_path / "vocab.txt")
    vocabulary.write(vocabulary.OUT)
    return tmp_path


def line():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def train(training, minutes=0.0004):
    """Fits y = x1 - x2; returns the steps that the time allowed."""
    def loss_of_batch(generator):
        x = torch.randn(16, 3, generator=generator)
        return (training.module(x)[:, 0].float() - x[:, 0] + x[:, 1]).square().mean()

    return list(training.run(minutes, 0.01, loss_of_batch, warm_up=2))


def test_a_training_goes_on_where_it_stopped(tmp_path):
    training = Training(line(), tmp_path / "x.pt")
    steps = train(training)
    assert steps == list(range(1, len(steps) + 1)) and training.minutes > 0
    other = Training(nn.Linear(3, 1), tmp_path / "x.pt")
    assert other.step == training.step and other.averaged.steps == training.step
    assert torch.equal(other.module.weight, training.module.weight)
    assert torch.equal(other.averaged.weights["weight"], training.averaged.weights["weight"])
    assert torch.equal(other.generator.get_state(), training.generator.get_state())
    assert torch.equal(other.optimizer.state[other.module.weight]["exp_avg"],
                       training.optimizer.state[training.module.weight]["exp_avg"])
    assert train(other)[0] == len(steps) + 1


def test_what_is_averaged_is_what_is_read(tmp_path):
    training = Training(line(), tmp_path / "x.pt")
    train(training)
    found, minutes = averaged_weights(tmp_path / "x.pt", "the stage")
    assert torch.equal(found["weight"], training.averaged.weights["weight"]) and minutes == training.minutes
    with pytest.raises(InputError, match="run the stage first"):
        averaged_weights(tmp_path / "y.pt", "the stage")


def test_the_average_is_exponential_after_its_beginning():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    averaged = Averaged(module, 0.9)
    averaged.steps = 1000
    nn.init.ones_(module.weight)
    for n in range(1, 4):
        averaged.update(module)
        assert averaged.weights["weight"].item() == pytest.approx(1 - 0.9 ** n)
    nn.init.zeros_(module.weight)
    early = Averaged(module, 0.9)               # it warms up: (1 + n) / (10 + n) in its n-th step
    nn.init.ones_(module.weight)
    early.update(module)
    assert early.weights["weight"].item() == pytest.approx(1 - 2 / 11)


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match="x.pt: a checkpoint of another model, or damaged"):
        Training(line(), tmp_path / "x.pt")


def test_what_is_shipped_can_be_trained_on(work, capsys):
    assert restore.main([]) == 0
    assert capsys.readouterr().out.split() == [str(autoencoder.CHECKPOINT), str(diffusion.CHECKPOINT)]
    again, shipped = diffusion.load("cpu")[0], weights.load("tiny")
    theirs = shipped.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    assert again.config.diffusion.scale_factor == pytest.approx(shipped.config.diffusion.scale_factor)
    training = Training(diffusion.Denoiser(1.0), diffusion.CHECKPOINT)
    assert training.step == 0 and all(p.requires_grad for p in training.module.parameters())
    before = diffusion.CHECKPOINT.read_bytes()
    assert restore.main([]) == 2
    error = capsys.readouterr().err
    assert "move it away" in error and error.count("\n") == 1
    assert diffusion.CHECKPOINT.read_bytes() == before


def test_the_vocabularys_norm_is_free():
    model = weights.load("tiny")
    prompts = ["a photo of a cat on the beach", "", "a small flat dog"]
    before = model.context(prompts)
    for norm in (0.7, 5.0):
        ship.set_vocabulary_norm(model.text_encoder, norm)
        assert vocabulary_norm(model) == pytest.approx(norm, rel=1e-5)
        assert (model.context(prompts) - before).abs().max() < 0.01 * before.abs().max()
