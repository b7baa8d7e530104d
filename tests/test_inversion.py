"""The loop of Equation 2: against the original code's own steps, and its promises: only v moves, a seed
gives one word, non-finite steps change nothing, words and variants do not disturb each other."""
import pytest
import torch
from safetensors.torch import load_file

import textinv.inversion
import weights
from helpers import DATA, assert_close, private_ids
from helpers.loops import dataset, loop, start, teach
from ldm import InputError
from textinv import InversionConfig, invert
from textinv.dataset import Dataset
from textinv.inversion import Batch, Variant, inversion_loss, sample_batch, step_generator


@pytest.fixture
def model(model_with_a_word):
    return model_with_a_word


def test_a_model_that_is_not_frozen_gathers_no_gradients(own_model, image_dir):
    frozen = invert(own_model, image_dir, InversionConfig(init="cat", steps=2, eval_every=0))
    own_model.requires_grad_()
    learned = invert(own_model, image_dir, InversionConfig(init="cat", steps=2, eval_every=0))
    assert torch.equal(learned.vectors, frozen.vectors)
    assert all(parameter.grad is None for parameter in own_model.parameters())


@pytest.mark.parametrize("reference", ["compvis-tiny", "compvis-tiny-3vec"])
def test_steps_are_the_originals(monkeypatch, model, reference):
    expected = load_file(DATA / reference / "expected.safetensors")
    v0, placeholder = expected["ti.v0"], expected["ti.placeholder"].item()
    ids = private_ids(expected["ti.ids"], placeholder, 200, len(v0))
    batches = iter([Batch(expected["ti.z0"], ids, noise, t, None)
                    for noise, t in zip(expected["ti.noise"], expected["ti.t"], strict=True)])
    monkeypatch.setattr(textinv.inversion, "sample_batch", lambda *_: next(batches))
    teach(model, {"*": len(v0)})
    inversion = loop(model, v0=v0, steps=5, decay=0.01)
    for i, progress in enumerate(inversion):
        assert abs(progress.loss / expected["ti.loss"][i].item() - 1) <= 1e-5
        assert_close(inversion.v.detach(), expected[f"ti.v{i + 1}"], 1e-4)
        if i == 0:
            assert abs(progress.grad_norm / expected["ti.grad0"].norm().item() - 1) <= 1e-4
        assert abs(progress.v_norm / expected[f"ti.v{i + 1}"].norm(dim=-1).mean().item() - 1) <= 1e-4
    assert i == 4


def test_only_v_changes(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inversion = loop(model, steps=5)
    list(inversion)
    assert not torch.equal(inversion.v.detach(), start())
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in model.parameters())


def test_a_seed_is_a_word(model):
    words = [loop(model, seed=seed) for seed in (3, 3, 4)]
    records = [list(inversion) for inversion in words]
    assert torch.equal(words[0].v, words[1].v) and records[0] == records[1]
    assert not torch.equal(words[0].v, words[2].v)


def test_it_can_be_left_and_taken_up(model):
    """The loop belongs to its caller: half the steps now and half later are the same steps."""
    whole, halves = loop(model, steps=4), loop(model, steps=4)
    list(whole)
    for progress in halves:
        if progress.step == 2:
            break
    assert [progress.step for progress in halves] == [3, 4]
    assert torch.equal(whole.v, halves.v)


def test_a_state_stays_as_it_was(model):
    """Neither the loop that it was taken from nor one that continues from it changes it, though the optimizer
    works in place."""
    whole = loop(model, steps=4)
    steps = iter(whole)
    next(steps), next(steps)
    state = whole.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    continued = loop(model, steps=4)
    continued.restore(state)
    list(steps), list(continued)
    assert torch.equal(whole.v, continued.v) and not torch.equal(whole.v.detach(), before["v"])
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_progress_measures_v(model):
    teach(model, {"*": 2})
    inversion = loop(model, v0=start(2), lr=0.5)
    *_, last = inversion
    v, v0 = inversion.v.detach(), start(2)
    assert last.v_norm == pytest.approx(v.norm(dim=-1).mean().item())
    assert (last.cosine == pytest.approx(torch.cosine_similarity(v, v0, dim=-1).mean().item())
            and last.cosine < 0.999)


def test_batches_are_samples_of_the_expectation():
    """Equation 2's expectation: views, prompts and timesteps uniform, z0 from its posterior,
    eps standard normal."""
    templates, caption = torch.arange(4)[:, None], torch.tensor([[4]])
    views = Dataset(torch.tensor([1.0, 2.0, 3.0])[:, None, None, None].expand(3, 1, 2, 2),
                    torch.full((3, 1, 2, 2), 0.5), None, [templates, caption, templates])
    batch = sample_batch(views, 1000, 30_000, torch.Generator().manual_seed(0))
    view = (batch.z0.mean(dim=(1, 2, 3))).round().clamp(1, 3)
    assert batch.z0.shape == (30_000, 1, 2, 2) and batch.loss_weights is None
    with_caption = batch.ids[:, 0] == 4
    assert abs(with_caption.float().mean() - 1 / 3) < 0.01
    counts = torch.bincount(batch.ids[:, 0])
    assert ((counts[:4] / 30_000 - 1 / 6).abs() < 0.01).all()
    assert view[with_caption].mean() == pytest.approx(2, abs=0.02)
    assert abs(batch.z0[with_caption].std() - 0.5) < 0.01
    assert abs(batch.eps.mean()) < 0.01 and abs(batch.eps.std() - 1) < 0.01
    assert batch.t.min() == 0 and batch.t.max() == 999 and abs(batch.t.float().mean() - 499.5) < 8


def test_weights_of_a_view_go_with_it():
    weight = torch.tensor([0.0, 2.0])[:, None, None, None].expand(2, 1, 8, 8)
    marked = Dataset(torch.tensor([-9.0, 9.0])[:, None, None, None].expand(2, 4, 8, 8),
                     torch.zeros(2, 4, 8, 8), weight, [torch.tensor([[5]])] * 2)
    batch = sample_batch(marked, 1000, 50, torch.Generator().manual_seed(0))
    assert torch.equal(batch.loss_weights[:, 0, 0, 0], (batch.z0[:, 0, 0, 0] > 0) * 2.0)


def test_weighted_loss(model):
    """Positions of weight 0 do not count; a weight of 1 everywhere changes nothing."""
    generator = torch.Generator().manual_seed(0)
    z0, eps, c = (torch.randn(shape, generator=generator)
                  for shape in ((2, 4, 8, 8), (2, 4, 8, 8), (2, 77, 64)))
    t, half = torch.tensor([10, 700]), torch.ones(2, 1, 8, 8)
    assert_close(model.loss(z0, c, eps, t, half), model.loss(z0, c, eps, t), 1e-6)
    half[..., :4] = 0
    eps_hat = model.unet(model.schedule.add_noise(z0, eps, t), t, c)
    assert_close(model.loss(z0, c, eps, t, half), (eps - eps_hat)[..., 4:].square().mean() / 2, 1e-5)


class Slope(Variant):
    """A penalty with a known gradient."""

    def penalty(self, v, step):
        return 3 * v.sum()


@pytest.mark.parametrize("variants", [[], [Slope()]])
def test_accumulated_batches_are_one_large_batch(monkeypatch, model, variants):
    whole = sample_batch(dataset(), 1000, 4, torch.Generator().manual_seed(5))
    halves = [Batch(whole.z0[rows], whole.ids[rows], whole.eps[rows], whole.t[rows], None)
              for rows in (slice(0, 2), slice(2, 4))]
    results = []
    for batches, accumulate in (([whole], 1), (halves, 2)):
        queue = iter(batches)
        monkeypatch.setattr(textinv.inversion, "sample_batch", lambda *_, queue=queue: next(queue))
        inversion = loop(model, steps=1, accumulate=accumulate, variants=variants)
        results.append((next(iter(inversion)), inversion.v.detach(), inversion.v.grad))
    assert results[0][0].loss == pytest.approx(results[1][0].loss, rel=1e-5)
    assert results[0][0].grad_norm == pytest.approx(results[1][0].grad_norm, rel=1e-4)
    assert_close(results[0][1], results[1][1], 1e-4)
    assert_close(results[0][2], results[1][2], 1e-4)


def test_accumulated_batches_are_sampled_one_after_another(monkeypatch, model):
    """Each continues the step's generator where the previous one left it."""
    taken = []

    def spy(model, rows, batch, loss=inversion_loss):
        taken.append(batch)
        return loss(model, rows, batch)

    monkeypatch.setattr(textinv.inversion, "inversion_loss", spy)
    next(iter(loop(model, seed=7, accumulate=3)))
    generator = step_generator(7, 0, 1)
    for batch in taken:
        expected = sample_batch(dataset(), model.schedule.timesteps, 2, generator)
        assert all(torch.equal(getattr(batch, name), getattr(expected, name))
                   for name in ("z0", "ids", "eps", "t"))
    assert len(taken) == 3 and not torch.equal(taken[0].eps, taken[1].eps)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weight_decay_is_the_options(monkeypatch, model, decay):
    """With a gradient of 0, AdamW moves v only by weight decay, which is 0 unless it was requested."""
    monkeypatch.setattr(textinv.inversion, "inversion_loss", lambda model, rows, batch: 0 * rows.sum())
    inversion = loop(model, lr=0.1, decay=decay, steps=1)
    next(iter(inversion))
    assert torch.equal(inversion.v.detach(), start() * (1 - 0.1 * decay))


def test_v_and_its_moments_are_fp32_on_a_bf16_model():
    """Steps of 1e-4 would be lost in bf16. Adam's first step is the learning rate, whatever the gradient."""
    model = weights.load(DATA / "compvis-tiny/model.ckpt", dtype=torch.bfloat16)
    teach(model, {"*": 1})
    inversion = loop(model, lr=1e-4, steps=1)
    next(iter(inversion))
    adam = inversion.optimizer.state[inversion.v]
    assert model.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in (inversion.v, inversion.v.grad, inversion.v0, adam["exp_avg"],
                                        adam["exp_avg_sq"])} == {torch.float32}
    moved = (inversion.v.detach() - start()).abs()
    assert_close(moved, torch.full_like(moved, 1e-4), 0.01)


def test_steps_without_a_finite_gradient_change_nothing(monkeypatch, model):
    def poisoned(model, v, batch, good=inversion_loss):
        return good(model, v, batch) * (
            float("nan") if step in (2, 3) else float("inf") if step == 5 else 1.0)

    monkeypatch.setattr(textinv.inversion, "inversion_loss", poisoned)
    inversion, step, words = loop(model, steps=6), 1, [start()]
    for progress in inversion:
        assert progress.skipped == (step in (2, 3, 5))
        words.append(inversion.v.detach().clone())
        step += 1
    same = [torch.equal(a, b) for a, b in zip(words[:-1], words[1:], strict=True)]
    assert same == [False, True, True, False, True, False]
    assert inversion.skipped == 3 and all(word.isfinite().all() for word in words)


def test_ten_bad_steps_in_a_row_end_the_run(monkeypatch, model):
    inversion, done = loop(model, steps=100), 0
    monkeypatch.setattr(textinv.inversion, "inversion_loss", lambda model, v, batch, good=inversion_loss:
                        good(model, v, batch) * (1.0 if done < 2 else float("nan")))
    with pytest.raises(InputError, match="10 steps in a row, up to step 12"):
        for _ in inversion:
            done += 1
            if done == 2:
                good = inversion.v.detach().clone()
    assert done == 12 and torch.equal(inversion.v.detach(), good)
    resumed = loop(model, steps=100)
    resumed.restore(inversion.state())
    with pytest.raises(InputError, match="10 steps in a row, up to step 13"):
        list(resumed)


def test_bad_steps_are_counted_in_a_row(monkeypatch, model):
    """Nine bad, one good, nine bad, and so on: the run reaches its end."""
    done = 0

    def often_bad(model, rows, batch):
        return rows.sum() * (1.0 if done % 10 == 9 else float("nan"))

    monkeypatch.setattr(textinv.inversion, "inversion_loss", often_bad)
    inversion = loop(model, steps=30)
    for progress in inversion:
        assert progress.skipped == (done % 10 != 9)
        done += 1
    assert done == 30 and inversion.skipped == 27 and inversion.skipped_in_a_row == 0


def test_other_words_keep_their_vectors(model):
    """The second of three words is trained; the others serve their own vectors and get no gradient."""
    known = torch.randn(4, 64, generator=torch.Generator().manual_seed(6))
    teach(model, {"a": 1, "*": 2, "b": 1}, known)
    inversion = loop(model, data=dataset(first_id=201), v0=known[1:3])
    rows = inversion.rows(0)
    assert torch.equal(rows, known)
    list(inversion)
    with inversion.taught():
        learned = model.words.rows()
    assert torch.equal(learned[[0, 3]], known[[0, 3]]) and torch.equal(learned[1:3], inversion.v)
    assert (not torch.equal(learned[1], known[1]) and learned.device.type == "cpu"
            and not learned.requires_grad)


class Recorder(Variant):
    """A variant that uses every hook: the first vector stays out of the prompts, v is pulled to 0 and kept
    at norm 1."""

    def __init__(self):
        self.calls = []

    def active(self, v, step):
        self.calls.append(("active", step))
        return torch.cat([v[1:], v[1:]])

    def penalty(self, v, step):
        self.calls.append(("penalty", step))
        return 0.5 * v[1].square().sum() * 1e3

    def constrain(self, v, step):
        self.calls.append(("constrain", step))
        return torch.nn.functional.normalize(v, dim=-1)


def test_variants_are_called_at_their_points(model):
    teach(model, {"*": 2})
    variant = Recorder()
    inversion = loop(model, v0=start(2), steps=2, variants=[variant])
    list(inversion)
    assert variant.calls == [(name, step) for step in (1, 2) for name in ("active", "penalty", "constrain")]
    assert_close(inversion.v.detach().norm(dim=-1), torch.ones(2), 1e-6)
    assert inversion.v.grad[0].abs().sum() == 0                         # not active, not penalized
    moved = torch.nn.functional.normalize(start(2), dim=-1)[0]
    assert_close(inversion.v.detach()[0], moved, 1e-6)


def test_penalties_are_regularizers_and_not_part_of_the_loss(model):
    class Pull(Variant):
        def penalty(self, v, step):
            return 1e3 * v.sum()

    plain, pulled = next(iter(loop(model))), next(iter(loop(model, variants=[Pull()])))
    assert plain.loss == pulled.loss
    assert pulled.grad_norm == pytest.approx(1e3 * 8, rel=0.05)


def test_ranks_and_steps_have_generators_of_their_own():
    draws = {torch.randn((), generator=step_generator(seed, rank, step)).item()
             for seed in (0, 1) for rank in (0, 1) for step in (1, 2)}
    assert len(draws) == 8
    assert torch.equal(*(torch.randn(5, generator=step_generator(1, 2, 3)) for _ in range(2)))
