"""The fixed batch, DVAR's test and the best word; and the variants that keep v near its start."""
import math
import threading

import pytest
import torch
import torch.nn.functional as F
from conftest import DATA, assert_close
from test_inversion import loop, start

import weights
from textinv.concept import initial_vectors, vocabulary_norm
from textinv.inversion import draw, inversion_loss, step_generator
from textinv.processes import Processes
from textinv.stopping import EXAMPLES, Dvar, Watch, fixed_batch, select
from textinv.variants import Direction, Pull


@pytest.fixture
def model(model_with_a_word):
    return model_with_a_word


def test_dvar_stops_where_the_variance_of_the_window_falls_under_its_share():
    """A fall from 1 to 0, then noise of a known size: mean and variance can be written down."""
    test = Dvar(every=10, window=40, threshold=0.15)                # 4 looks
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


def test_the_fixed_batch_is_the_same_for_every_step_and_seed(model):
    batches = [fixed_batch(loop(model, seed=seed)) for seed in (0, 1)]
    for name in ("z0", "ids", "eps", "t"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name))
    t = batches[0].t
    assert len(t) == EXAMPLES and t.min() == 15 and t.max() == 984 and (t.diff() > 30).all()
    assert len(batches[0].eps.unique()) == batches[0].eps.numel()


def test_a_look_is_the_loss_of_the_fixed_batch(model):
    inversion = loop(model, batch=5)                                # does not divide the examples
    watch = Watch(inversion)
    with torch.no_grad():
        expected = inversion_loss(model, inversion.v, watch.batch).item()
    assert watch.look() == pytest.approx(expected, rel=1e-5) and watch.losses == [watch.best_loss]
    assert watch.look() == watch.losses[0], "nothing random in it"
    before = inversion.v.detach().clone()
    next(iter(inversion))
    assert not torch.equal(inversion.v.detach(), before) and watch.look() != watch.losses[0]


def test_looking_does_not_change_the_steps(model):
    plain, watched = loop(model, steps=4), loop(model, steps=4)
    watch = Watch(watched)
    records = [list(plain), [(progress, watch.look())[0] for progress in watched]]
    assert records[0] == records[1] and torch.equal(plain.v, watched.v)


def test_the_best_word_is_kept(model):
    inversion = loop(model, lr=0.5)
    watch = Watch(inversion)
    words = {}
    for progress in inversion:
        words[watch.look()] = (progress.step, inversion.v.detach().clone())
    best = min(words)
    assert watch.best_loss == best and watch.best_step == words[best][0]
    assert torch.equal(watch.best_v, words[best][1])


def test_a_watch_goes_on_from_its_state(model):
    inversion = loop(model)
    watch = Watch(inversion)
    for _ in inversion:
        watch.look()
    other = Watch(loop(model))
    other.restore(watch.state())
    assert other.losses == watch.losses and other.best_step == watch.best_step
    assert other.best_loss == watch.best_loss and torch.equal(other.best_v, watch.best_v)


def test_examples_can_be_selected(model):
    batch = fixed_batch(loop(model))
    some = select(batch, [3, 1])
    assert torch.equal(some.t, batch.t[[3, 1]]) and torch.equal(some.z0[0], batch.z0[3])
    assert some.weight is None


class Together(Processes):
    """Processes that are threads of this one: `mean` meets at a barrier."""
    meeting: dict = {}

    def mean(self, x):
        parts, barrier = self.meeting["parts"], self.meeting["barrier"]
        parts[self.rank] = x
        barrier.wait()
        result = sum(parts[rank] for rank in range(self.count)) / self.count
        barrier.wait()
        return result


def in_threads(work, count=2):
    Together.meeting = {"parts": {}, "barrier": threading.Barrier(count, timeout=60)}
    results = {}
    threads = [threading.Thread(target=lambda rank=rank: results.update({rank: work(Together(rank, count))}))
               for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(count)]


def test_two_processes_are_one_of_twice_the_batch(monkeypatch, model):
    """Given the same draws: those of both ranks, put together."""
    import textinv.inversion as module

    def both(latents, prompts, timesteps, b, generator):
        halves = [draw(latents, prompts, timesteps, b // 2, step_generator(0, rank, both.step))
                  for rank in (0, 1)]
        return module.Batch(*(torch.cat([getattr(half, name) for half in halves])
                              for name in ("z0", "ids", "eps", "t")), None)

    def work(processes):
        inversion = loop(model, steps=3, batch=2, processes=processes)
        return [(progress, inversion.v.detach().clone()) for progress in inversion]

    ranks = in_threads(work)
    assert ranks[0] == ranks[0] and all(torch.equal(a, b) for (_, a), (_, b) in zip(*ranks))
    assert [progress for progress, _ in ranks[0]] == [progress for progress, _ in ranks[1]]
    monkeypatch.setattr(module, "draw", both)
    alone = loop(model, steps=3, batch=4)
    for step, (progress, v) in enumerate(ranks[0], 1):
        both.step = step
        expected = next(iter(alone))
        assert progress.loss == pytest.approx(expected.loss, rel=1e-5)
        assert_close(v, alone.v.detach(), 1e-4)


def test_ranks_draw_different_batches():
    draws = {torch.randn((), generator=step_generator(seed, rank, step)).item()
             for seed in (0, 1) for rank in (0, 1) for step in (1, 2)}
    assert len(draws) == 8
    assert torch.equal(*(torch.randn(5, generator=step_generator(1, 2, 3)) for _ in range(2)))


def test_processes_share_a_look(model):
    def work(processes):
        return Watch(loop(model, batch=5, processes=processes)).look()

    looks = in_threads(work, 3)
    assert looks[0] == looks[1] == looks[2] == pytest.approx(Watch(loop(model)).look(), rel=1e-5)


def test_one_process_stops_all(model):
    def work(processes):
        inversion = loop(model, steps=9, processes=processes)
        for progress in inversion:
            inversion.stop_asked = processes.rank == 1 and progress.step >= 2
        return inversion.step

    assert in_threads(work) == [3, 3]


def test_a_direction_keeps_its_norm_and_moves_on_the_sphere(model):
    direction = Direction(2.5)
    inversion = loop(model, v0=direction.project(start(), 0), steps=5, lr=0.1, variants=[direction])
    before = inversion.v.detach().clone()
    for progress in inversion:
        assert progress.v_norm == pytest.approx(2.5, rel=1e-5)
        assert abs(F.cosine_similarity(inversion.v.grad, before).item()) < 1e-4
        before = inversion.v.detach().clone()
    assert progress.cosine < 0.999
    v = torch.randn(2, 64, requires_grad=True)
    direction.active(v, 1).square().sum().backward()                # the norm has no slope
    assert v.grad.abs().max() < 1e-5


def test_a_pull_is_its_closed_form():
    v0 = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    v = torch.tensor([[3.0, 5.0], [1.0, 2.0]])
    assert Pull(2.0, v0).penalty(v, 1).item() == pytest.approx(2 * (1 / 25 + 1 / 4) / 2)
    turned = torch.tensor([[5 * math.cos(0.3), 5 * math.sin(0.3)]])
    pull = Pull(0.5, torch.tensor([[5.0, 0.0]])).penalty(turned, 1)
    assert pull.item() == pytest.approx(1 - math.cos(0.3), rel=1e-5)


def test_a_strong_pull_holds_the_word(model):
    far, near = loop(model, steps=20, lr=0.1), loop(model, steps=20, lr=0.1, variants=[Pull(1e4, start())])
    assert list(near)[-1].cosine > list(far)[-1].cosine


def test_cross_initialization_starts_from_the_encoders_output():
    model = weights.load(DATA / "diffusers-tiny")
    v, note = initial_vectors(model, "cat dog", 2, torch.Generator(), output=True)
    assert torch.equal(v, model.context(["cat dog"])[0, 1:3]) and "cat" in note
    plain, _ = initial_vectors(model, "cat dog", 2, torch.Generator())
    assert not torch.allclose(v, plain)
    random = [initial_vectors(model, "random", 1, torch.Generator().manual_seed(0), output)[0]
              for output in (True, False)]
    assert torch.equal(*random), "what is no word does not go through the encoder"


def test_the_vocabularys_norm(model):
    norms = model.text_encoder.token_emb.weight.square().sum(dim=1).sqrt()
    assert vocabulary_norm(model) == pytest.approx(norms.mean().item(), rel=1e-5)
