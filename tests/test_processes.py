"""Several real processes under torchrun, over gloo: one word, one record, and what happens when one dies."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_run import MODEL, run

import textinv
import train
from ldm import InputError
from textinv.processes import Processes, join, own_device

ROOT = Path(train.__file__).parent


def test_every_process_leaves(pictures, tmp_path, monkeypatch):
    """A process that does not is aborted now and then at its very end, with its work done."""
    left = []
    monkeypatch.setattr(Processes, "leave", lambda self: left.append(self))
    assert run("--images", pictures, "--init", "cat", "--out", tmp_path / "run") == 0
    assert left == [Processes()]
    monkeypatch.undo()
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append("group"))
    Processes(1, 2).leave()
    assert left[1:] == ["group"]


def torchrun(pictures, out, *argv, count=2):
    """Starts the processes in a session of their own, so that a test can end them all."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "--standalone",
         "train.py", "--weights", MODEL, "--images", pictures, "--init", "cat", "--out", out, "--batch", "2",
         "--preview-every", "0", "--dtype", "float32", "--save-every", "2", "--look-every", "2",
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


def test_two_processes_learn_one_word_and_go_on(pictures, tmp_path):
    for name, first in (("whole", 6), ("halves", 3)):
        status, said = ended(torchrun(pictures, tmp_path / name, "--steps", first))
        assert status == 0, said
        assert said.count("effective learning rate 0.02 = 0.005 x batch 2 x 2 processes") == 1
    status, said = ended(torchrun(pictures, tmp_path / "halves", "--steps", 6, "--resume"))
    assert status == 0 and said.count("resumed after step 3") == 1, said
    words = [textinv.Concept.load(tmp_path / name) for name in ("whole", "halves")]
    assert torch.equal(words[0].vectors, words[1].vectors) and words[0].info["batch"] == 4
    assert steps(tmp_path / "halves") == steps(tmp_path / "whole") == list(range(1, 7))
    alone = ["--resume", "--out", str(tmp_path / "whole"), "--steps", "7"]
    assert train.main(alone) == 2, "the number of processes is a setting of the run"


def test_a_dead_process_ends_the_run_with_a_state(pictures, tmp_path):
    out = tmp_path / "run"
    process = torchrun(pictures, out, "--steps", 100_000)
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
    status, said = ended(torchrun(pictures, out, "--steps", done + 2, "--resume"))
    assert status == 0 and "resumed after step" in said, said
    assert steps(out) == list(range(1, done + 3))


def rank_of(pid):
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((entry.split(b"=")[1].decode() for entry in entries if entry.startswith(b"RANK=")), "none")


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join("cpu") == Processes(0, 1)
    x = torch.ones(3)
    assert Processes().mean(x) is x
    Processes().leave()


def test_each_process_has_its_own_accelerator(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("cuda") == "cuda:3" and own_device("cpu") == "cpu" and own_device("cuda:1") == "cuda:1"
    monkeypatch.delenv("LOCAL_RANK")
    assert own_device("cuda") == "cuda"


def test_a_lost_connection_is_one_line(monkeypatch):
    def lost(x):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", lost)
    with pytest.raises(InputError, match="another process of this run has died: .* --resume"):
        Processes(0, 2).mean(torch.ones(1))
