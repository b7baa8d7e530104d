"""The evaluation loss, DVAR's test on it, and the best word."""
import pytest
import torch

from helpers.loops import dataset, loop
from textinv.inversion import inversion_loss
from textinv.running import stopping
from textinv.running.stopping import EXAMPLES, Dvar, EvaluationLoss, evaluation_batch, select


@pytest.fixture
def model(model_with_a_word):
    return model_with_a_word


def test_dvar_stops_where_the_variance_of_the_window_falls_under_its_share():
    """A fall from 1 to 0, then noise of a known size: mean and variance can be written down."""
    test = Dvar(every=10, window=40, threshold=0.15)                # 4 measurements
    still = [1.0] * 4 + [0.0] * 4
    assert test.stops(still)                                        # 0 < 0.15 * 0.25
    for wobble in (0.15, 0.3):      # the window's variance is wobble^2, all of it (2 + wobble^2) / 4 ...
        losses = [1.0, -1.0] * 2 + [wobble, -wobble] * 2
        whole = (4 + 4 * wobble ** 2) / 8
        assert test.stops(losses) == (wobble ** 2 < 0.15 * whole)
    assert Dvar(10, 40, 0.15).stops([1.0, -1.0] * 2 + [0.28, -0.28] * 2)
    assert not Dvar(10, 40, 0.15).stops([1.0, -1.0] * 2 + [0.29, -0.29] * 2)


def test_dvar_waits_until_the_window_is_not_all_there_is():
    test = Dvar(every=10, window=40)
    assert not test.stops([]) and not test.stops([1.0, 0.0, 0.0, 0.0])
    assert not Dvar(every=500).stops([1.0, 0.0]) and Dvar(every=500).stops([1.0, 0.0, 0.0])


def test_the_evaluation_batch_is_the_same_for_every_step_and_seed(model):
    batches = [evaluation_batch(loop(model, seed=seed)) for seed in (0, 1)]
    for name in ("z0", "ids", "eps", "t"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name))
    t = batches[0].t
    assert len(t) == EXAMPLES and t.min() == 15 and t.max() == 984 and (t.diff() > 30).all()
    assert len(batches[0].eps.unique()) == batches[0].eps.numel()


def test_a_look_is_the_loss_of_the_evaluation_batch(model):
    inversion = loop(model, batch=5)                                # does not divide the examples
    evaluation = EvaluationLoss(inversion)
    with torch.no_grad():
        expected = inversion_loss(model, inversion.v, evaluation.batch).item()
    assert evaluation.measure() == pytest.approx(expected, rel=1e-5)
    assert evaluation.losses == [evaluation.best_loss]
    assert evaluation.measure() == evaluation.losses[0], "nothing random in it"
    before = inversion.v.detach().clone()
    next(iter(inversion))
    assert not torch.equal(inversion.v.detach(), before) and evaluation.measure() != evaluation.losses[0]


def test_measuring_does_not_change_the_steps(model):
    plain, measured = loop(model, steps=4), loop(model, steps=4)
    evaluation = EvaluationLoss(measured)
    records = [list(plain), [(progress, evaluation.measure())[0] for progress in measured]]
    assert records[0] == records[1] and torch.equal(plain.v, measured.v)


def test_the_best_word_is_kept(model):
    inversion = loop(model, lr=0.5)
    evaluation = EvaluationLoss(inversion)
    words = {}
    for progress in inversion:
        words[evaluation.measure()] = (progress.step, inversion.v.detach().clone())
    best = min(words)
    assert evaluation.best_loss == best and evaluation.best_step == words[best][0]
    assert torch.equal(evaluation.best_v, words[best][1])


@pytest.mark.parametrize("losses, step", [([3.0, 1.0, 2.0], 2), ([2.0, 2.0, 2.0], 1), ([4.0, 1.0, 1.0], 2)])
def test_the_best_word_is_the_first_with_the_smallest_loss(monkeypatch, model, losses, step):
    inversion, words = loop(model, lr=0.5), []
    evaluation = EvaluationLoss(inversion)
    monkeypatch.setattr(stopping, "inversion_loss", lambda *_: torch.tensor(losses[inversion.step - 1]))
    for _ in inversion:
        words.append(inversion.v.detach().clone())
        evaluation.measure()
    assert evaluation.losses == losses and evaluation.best_step == step
    assert evaluation.best_loss == losses[step - 1] and torch.equal(evaluation.best_v, words[step - 1])
    assert not any(torch.equal(words[step - 1], other) for i, other in enumerate(words, 1) if i != step)


def test_it_continues_from_its_state(model):
    inversion = loop(model)
    evaluation = EvaluationLoss(inversion)
    for _ in inversion:
        evaluation.measure()
    other = EvaluationLoss(loop(model))
    other.restore(evaluation.state())
    assert other.losses == evaluation.losses and other.best_step == evaluation.best_step
    assert other.best_loss == evaluation.best_loss and torch.equal(other.best_v, evaluation.best_v)


def test_examples_can_be_selected(model):
    batch = evaluation_batch(loop(model))
    some = select(batch, [3, 1])
    assert torch.equal(some.t, batch.t[[3, 1]]) and torch.equal(some.z0[0], batch.z0[3])
    assert some.loss_weights is None
    weights = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    batch = evaluation_batch(loop(model, data=dataset(loss_weights=weights)))
    assert torch.equal(select(batch, [3, 1]).loss_weights, batch.loss_weights[[3, 1]])
    assert any(torch.equal(batch.loss_weights[3], one) for one in weights)
