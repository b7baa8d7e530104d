"""Several processes: real ones under torchrun, over gloo, and threads in their place. One word, one record,
and what happens when one dies."""
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import textinv
import textinv.inversion
import train
import weights
from helpers import ROOT, assert_close
from helpers.loops import loop
from helpers.runs import MODEL, config, train_word
from ldm import InputError
from textinv.inversion import Batch, Processes, sample_batch, step_generator
from textinv.running.processes import TorchrunProcesses, init_processes, local_device
from textinv.running.run import Run
from textinv.running.stopping import EvaluationLoss


def test_every_process_closes_its_connections(image_dir, tmp_path, monkeypatch):
    """A process that does not is sometimes aborted at its very end, with its work done."""
    left = []
    monkeypatch.setattr(Processes, "close", lambda self: left.append(self))
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "run") == 0
    assert left == [Processes()]
    monkeypatch.undo()
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append("group"))
    TorchrunProcesses(1, 2).close()
    assert left[1:] == ["group"]


@pytest.mark.parametrize("script", [
    "import train; train.main()",
    "import torch; from recipe.training import join; join(); import torch._dynamo; atexit._run_exitfuncs()"])
def test_no_thread_of_a_connection_is_left(script, image_dir, tmp_path):
    """One that outlives the interpreter may abort the process. Optimizers import torch._dynamo."""
    path = tmp_path / "script.py"
    path.write_text(f"""
import atexit, subprocess, sys, time
sys.path.insert(0, {str(ROOT)!r})
{script}
time.sleep(0.5)             # the system lists a thread for a moment after its end
print("threads:", subprocess.getoutput("cat /proc/$PPID/task/*/comm").split(), flush=True)
""")
    status, said = ended(torchrun(image_dir, tmp_path / "run", "--steps", 1, script=path))
    assert status == 0 and said.count("threads: ") == 2 and "gloo" not in said.split("threads: ", 1)[1], said


def torchrun(image_dir, out, *argv, count=2, script="train.py"):
    """Starts the processes in a session of their own, so that a test can end them all."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "--standalone",
         script, "--weights", MODEL, "--images", image_dir, "--init", "cat", "--out", out, "--batch", "2",
         "--preview-every", "0", "--dtype", "float32", "--save-every", "2", "--eval-every", "2",
         *map(str, argv)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def ended(process, seconds=120):
    try:
        said, _ = process.communicate(timeout=seconds)
        return process.returncode, said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def steps(out):
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_learn_one_word_and_go_on(image_dir, tmp_path):
    for name, first in (("whole", 6), ("halves", 3)):
        status, said = ended(torchrun(image_dir, tmp_path / name, "--steps", first))
        assert status == 0, said
        assert said.count("effective learning rate 0.02 = 0.005 x batch 2 x 2 processes") == 1
    status, said = ended(torchrun(image_dir, tmp_path / "halves", "--steps", 6, "--resume"))
    assert status == 0 and said.count("resumed after step 3") == 1, said
    words = [textinv.Concept.load(tmp_path / name) for name in ("whole", "halves")]
    assert torch.equal(words[0].vectors, words[1].vectors) and words[0].info["batch"] == 4
    assert steps(tmp_path / "halves") == steps(tmp_path / "whole") == list(range(1, 7))
    first = json.loads((tmp_path / "whole/metrics.jsonl").read_text().splitlines()[0])
    loss, grad_norm = means_over_ranks(image_dir)
    assert first["loss"] == pytest.approx(loss, rel=1e-5)
    assert first["grad_norm"] == pytest.approx(grad_norm, rel=1e-4)
    alone = ["--resume", "--out", str(tmp_path / "whole"), "--steps", "7"]
    assert train.main(alone) == 2, "the number of processes is a setting of the run"


def means_over_ranks(images):
    """The loss of step 1 and the norm of its gradient, by hand: the mean over what each rank samples."""
    with Run(weights.load(MODEL), images, config(eval_every=0)) as run:
        model, inversion = run.inversion.model, run.inversion
        losses = torch.stack([textinv.inversion.inversion_loss(model, inversion.rows(1), sample_batch(
            inversion.dataset, model.schedule.timesteps, 2, step_generator(0, rank, 1))) for rank in (0, 1)])
        losses.mean().backward()
        return losses.mean().item(), inversion.v.grad.norm().item()


def test_a_dead_process_ends_the_run_with_a_state(image_dir, tmp_path):
    out = tmp_path / "run"
    process = torchrun(image_dir, out, "--steps", 100_000)
    deadline = time.monotonic() + 120
    while not (out / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {rank_of(child): int(child) for child in children}
    os.kill(ranks["1"], signal.SIGKILL)
    status, said = ended(process)
    assert status != 0
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) <= 1 and all("another process of this run has died" in line for line in lines), said
    assert "Traceback" not in said.split("torch/distributed")[0]
    done = max(steps(out))
    status, said = ended(torchrun(image_dir, out, "--steps", done + 2, "--resume"))
    assert status == 0 and "resumed after step" in said, said
    assert steps(out) == list(range(1, done + 3))


def rank_of(pid):
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((entry.split(b"=")[1].decode() for entry in entries if entry.startswith(b"RANK=")), "none")


def test_what_all_processes_find_is_said_once(image_dir, tmp_path):
    """A mistake in the options, and an image that cannot be read."""
    (image_dir / "notes.md").write_text("no image")
    status, said = ended(torchrun(image_dir, tmp_path / "run", "--steps", 1, "--init", "zqzx"))
    assert status == 1, "torchrun's own"
    lines = [line for line in said.splitlines() if line.startswith(("error: ", "warning: "))]
    assert len(lines) == 2 and "notes.md: skipped" in lines[0]
    assert "'zqzx' is not in the vocabulary" in lines[1]
    assert "Traceback" not in said.split("torch/distributed")[0]


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert init_processes("cpu") == Processes(0, 1)
    x = torch.ones(3)
    assert Processes().all_reduce_mean(x)[0] is x
    Processes().close()


def test_each_process_has_its_own_accelerator(monkeypatch):
    """Whatever device one of them has recorded; a single process gets the one it asks for."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert [local_device(name) for name in ("cuda", "cpu", "cuda:0")] == ["cuda:3", "cpu", "cuda:3"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(InputError, match=r"more processes than this machine has GPUs \(3\)"):
        local_device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert [local_device(name) for name in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]


def test_a_lost_connection_is_one_line(monkeypatch):
    def lost(x):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", lost)
    with pytest.raises(InputError, match="another process of this run has died. .*`resume`"):
        TorchrunProcesses(0, 2).all_reduce_mean(torch.ones(1))


@pytest.fixture
def model(model_with_a_word):
    return model_with_a_word


class Meeting:
    """All-reduce for ranks that are threads of this process, in place of torch.distributed's."""

    def __init__(self, count):
        self.parts, self.barrier = {}, threading.Barrier(count, timeout=60)

    def all_reduce(self, x):
        self.parts[threading.get_ident()] = x.clone()
        self.barrier.wait()
        x.copy_(sum(self.parts[thread] for thread in sorted(self.parts)))
        self.barrier.wait()


def in_threads(work, count=2):
    """What work(processes) returns on each of the ranks."""
    results = {}
    threads = [threading.Thread(target=lambda rank=rank: results.update(
        {rank: work(TorchrunProcesses(rank, count))})) for rank in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", Meeting(count).all_reduce)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [results[rank] for rank in range(count)]


def test_the_mean_of_each_tensor():
    """Packed into one message and unpacked again, whatever the shapes."""
    def work(processes):
        rank = float(processes.rank)
        return processes.all_reduce_mean(torch.tensor([[rank, 1.0], [2.0, 3 * rank]]), torch.tensor(rank))

    for matrix, number in in_threads(work, 3):
        assert torch.equal(matrix, torch.tensor([[1.0, 1.0], [2.0, 3.0]]))
        assert torch.equal(number, torch.tensor(1.0))


def test_two_processes_are_one_of_twice_the_batch(monkeypatch, model):
    """Given the same samples: those of both ranks, put together."""
    def both(dataset, timesteps, b, generator):
        halves = [sample_batch(dataset, timesteps, b // 2, step_generator(0, rank, both.step))
                  for rank in (0, 1)]
        return Batch(*(torch.cat([getattr(half, name) for half in halves])
                              for name in ("z0", "ids", "eps", "t")), None)

    def work(processes):
        inversion = loop(model, steps=3, batch=2, processes=processes)
        return [(progress, inversion.v.detach().clone()) for progress in inversion]

    ranks = in_threads(work)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(*ranks, strict=True))
    assert [progress for progress, _ in ranks[0]] == [progress for progress, _ in ranks[1]]
    monkeypatch.setattr(textinv.inversion, "sample_batch", both)
    alone = loop(model, steps=3, batch=4)
    for step, (progress, v) in enumerate(ranks[0], 1):
        both.step = step
        expected = next(iter(alone))
        assert progress.loss == pytest.approx(expected.loss, rel=1e-5)
        assert_close(v, alone.v.detach(), 1e-4)


def test_processes_share_a_measurement(model):
    def work(processes):
        return EvaluationLoss(loop(model, batch=5, processes=processes)).measure()

    losses = in_threads(work, 3)
    alone = EvaluationLoss(loop(model)).measure()
    assert losses[0] == losses[1] == losses[2] == pytest.approx(alone, rel=1e-5)


def test_one_process_stops_all(model):
    def work(processes):
        inversion = loop(model, steps=9, processes=processes)
        for progress in inversion:
            inversion.stop_requested = processes.rank == 1 and progress.step >= 2
        return inversion.step

    assert in_threads(work) == [3, 3]
