"""The training stages' loop: where it resumes, how its rate falls, what it averages, several processes."""
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ldm import InputError
from recipe import autoencoder, clip, diffusion, encoder, recognizer, training
from recipe.training import Averaged, Training, averaged_weights

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """The rate does not warm up."""
    monkeypatch.setattr(training, "WARM_UP", 1)


def network():
    """One matrix for Muon; the rest for AdamW."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 1))


def run(one, steps, minutes=5.0, **options):
    """Fits y = x1 - x2 for that many steps, then saves. Returns both optimizers' rates at each step."""
    def loss_of_batch(generator):
        x = torch.randn(16, 16, generator=generator)
        return (one.module(x)[:, 0].float() - x[:, 0] + x[:, 1]).square().mean()

    rates = []
    for _ in one.run(minutes, 0.01, loss_of_batch, **options):
        rates.append({name: optimizer.param_groups[0]["lr"] for name, optimizer in one.optimizers.items()})
        if len(rates) == steps:
            break
    one.save()
    return rates


def same(a, b):
    """True if two states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def state(one):
    return {"module": one.module.state_dict(), "averaged": one.averaged.state_dict(), "step": one.step,
            "generator": one.generator.get_state(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in one.optimizers.items()}}


def test_resumed_it_is_bit_for_bit_what_it_would_have_been(tmp_path):
    whole = Training(network(), tmp_path / "whole.pt")
    run(whole, 7)
    first = Training(network(), tmp_path / "parts.pt")
    run(first, 4)
    second = Training(nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 1)), tmp_path / "parts.pt")
    assert same(state(second), state(first)) and second.minutes == first.minutes > 0
    assert set(second.optimizers) == {"adamw", "muon"} and second.step == 4
    momentum, = (one["momentum"] for one in second.optimizers["muon"].state.values())
    assert momentum.shape == (24, 16) and momentum.any()
    assert all(one["exp_avg_sq"].any() for one in second.optimizers["adamw"].state.values())
    run(second, 3)
    assert same(state(second), state(whole))


def test_it_learns_and_yields_the_count_of_steps(tmp_path):
    one = Training(network(), tmp_path / "x.pt")
    x = torch.randn(500, 16, generator=torch.Generator().manual_seed(9))

    def error():
        with torch.no_grad():
            return (one.module(x)[:, 0] - x[:, 0] + x[:, 1]).square().mean().item()

    before = error()
    run(one, 60)
    assert one.step == 60 and error() < 0.3 * before


def clock(monkeypatch, tick):
    """A clock that is `tick` seconds later whenever the loop asks for the time."""
    ticks = iter(range(10 ** 9))
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: tick * next(ticks)))


def test_the_rate_warms_up_and_stays(tmp_path, monkeypatch):
    clock(monkeypatch, 1.0)                     # three ticks per step
    monkeypatch.setattr(training, "WARM_UP", 4)
    rates = run(Training(network(), tmp_path / "x.pt"), None, minutes=2)
    adamw = [rate["adamw"] for rate in rates]
    assert len(rates) == 40 and adamw[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert set(adamw[4:]) == {0.01}
    assert all(rate["muon"] == pytest.approx(training.MUON_RATE * rate["adamw"]) for rate in rates)


def test_decay_falls_to_nothing_at_the_end(tmp_path, monkeypatch):
    clock(monkeypatch, 1.0)
    rates = run(Training(network(), tmp_path / "x.pt"), None, minutes=2, decay=True)
    adamw = [rate["adamw"] for rate in rates]
    assert adamw == pytest.approx([0.01 * (1 - (1 + 3 * i) / 120) for i in range(40)])     # linear in time
    assert rates[-1]["adamw"] < 0.03 * rates[0]["adamw"]
    assert rates[-1]["muon"] == pytest.approx(training.MUON_RATE * adamw[-1])


def test_it_saves_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    clock(monkeypatch, training.CHECKPOINT_SECONDS / 6)         # two steps per save
    one, saved = Training(network(), tmp_path / "x.pt"), []
    monkeypatch.setattr(one, "save", lambda: saved.append(one.step))
    for _ in one.run(10 * training.CHECKPOINT_SECONDS / 60, 0.01,
                     lambda generator: one.module(torch.ones(2, 16)).square().mean()):
        pass
    assert len(saved) >= 5 and saved[-1] == one.step and saved[0] <= 4
    assert all(later - earlier in (2, 3) for earlier, later in zip(saved, saved[1:-1], strict=False))
    assert one.minutes == pytest.approx(10 * training.CHECKPOINT_SECONDS / 60, rel=0.1)


def test_a_step_without_finite_gradients_is_left_out(tmp_path):
    one, seen = Training(network(), tmp_path / "x.pt"), []
    factors = [1, *[float("nan"), float("inf")] * 4, float("nan")] * 3          # nine times in a row

    def loss_of_batch(generator):
        seen.append(torch.cat([p.detach().flatten() for p in one.module.parameters()]))
        return factors[len(seen) - 1] * noise_loss(one.module, generator)

    steps = one.run(5, 0.01, loss_of_batch)
    assert [next(steps) for _ in range(3)] == [1, 2, 3] and one.averaged.steps == 3
    assert len(seen) == 21 and len({tuple(some.tolist()) for some in seen}) == 3
    assert all(tensor.isfinite().all() for tensor in [*seen, *one.module.parameters()])


def test_no_finite_gradients_at_all_are_the_end_and_the_checkpoint_stays(tmp_path):
    one = Training(network(), tmp_path / "x.pt")
    run(one, 2)
    before = (tmp_path / "x.pt").read_bytes()
    with pytest.raises(InputError, match="10 times in a row after step 2. .*x.pt is unchanged. Use a"):
        list(one.run(5, 0.01, lambda generator: float("nan") * noise_loss(one.module, generator)))
    assert (tmp_path / "x.pt").read_bytes() == before
    assert all(tensor.isfinite().all() for tensor in one.averaged.weights.values())


@pytest.mark.parametrize("stage", [autoencoder, diffusion, encoder, clip, recognizer])
@pytest.mark.parametrize(("options", "message"), [
    (["--batch", "0"], "--batch is 0"), (["--minutes", "-1"], "so there is nothing to measure"),
    (["--minutes", "0"], "--minutes is 0, so there is nothing to measure")])
def test_batches_without_images_and_nothing_to_measure_are_refused(stage, options, message, workshop, capsys):
    assert stage.main(options) == 2
    error, = capsys.readouterr().err.splitlines()
    assert message in error and not list(workshop.glob("recipe-work/*.pt"))


def test_no_time_is_no_step(tmp_path):
    one = Training(network(), tmp_path / "x.pt")
    assert run(one, None, minutes=0) == [] and one.step == 0 and (tmp_path / "x.pt").exists()


def test_what_is_averaged_is_what_is_read(tmp_path):
    one = Training(network(), tmp_path / "x.pt")
    run(one, 5)
    found, minutes = averaged_weights(tmp_path / "x.pt", "the stage")
    assert torch.equal(found["0.weight"], one.averaged.weights["0.weight"]) and minutes == one.minutes
    assert not torch.equal(found["0.weight"], one.module[0].weight)
    with pytest.raises(InputError, match="y.pt is missing. Run the stage first"):
        averaged_weights(tmp_path / "y.pt", "the stage")
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:500])
    with pytest.raises(InputError, match=r"x.pt is damaged .*Move it away and run the stage again"):
        averaged_weights(tmp_path / "x.pt", "the stage")


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
    with pytest.raises(InputError, match="x.pt is a checkpoint of another model, or damaged .*Move it away"):
        Training(network(), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == content


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    Training(nn.Linear(3, 1), tmp_path / "x.pt").save()
    with pytest.raises(InputError, match="another model"):
        Training(network(), tmp_path / "x.pt")


def noise_loss(module, generator):
    """In float32, and so small that no gradient is clipped."""
    with torch.autocast("cpu", enabled=False):
        x = torch.randn(8, 16, generator=generator)
        return 0.1 * (module(x)[:, 0] - x[:, 2]).square().mean()


SCRIPT = """
import time
from pathlib import Path
import torch
from torch import nn
from recipe import training

{functions}

training.WARM_UP = 1
module = network()
one = training.Training(module, Path("together.pt"), outer=[module])            # without Muon
for step in one.run(5, 0.01, lambda generator: noise_loss(module, generator)):
    if step == 4:
        break
torch.save([(p.detach(), p.grad) for p in module.parameters()], f"rank{{one.rank}}.pt")
save = one.save
if not one.rank:                            # as if the disk were slow
    one.save = lambda: (time.sleep(0.5), save())
assert list(one.run(0, 0.01, None)) == [] and Path("together.pt").exists(), "went on before rank 0 had saved"
"""


def test_two_processes_step_with_the_mean_of_their_gradients(tmp_path):
    functions = "\n\n".join(map(inspect.getsource, (network, noise_loss)))
    (tmp_path / "script.py").write_text(SCRIPT.format(functions=functions))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*torchrun, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert same(first, second)

    module = network()
    alone = Training(module, tmp_path / "alone.pt", outer=[module])
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]   # rank 1 samples its own batches

    def mean_loss(_):
        return sum(noise_loss(module, generator) for generator in generators) / 2

    for step in alone.run(5, 0.01, mean_loss):
        if step == 4:
            break
    assert sum(p.grad.square().sum() for p in module.parameters()) < 1
    for p, (weights, gradient) in zip(module.parameters(), first, strict=True):
        torch.testing.assert_close(weights, p.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient, p.grad, rtol=1e-4, atol=1e-6)
