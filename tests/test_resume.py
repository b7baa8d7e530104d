"""Resuming a run: after a signal, a kill at any moment or a full disk, word, metrics and previews are those
of a run that nothing disturbed, bit for bit. What was edited or flipped is in test_resume_edited.py."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import textinv
import train
from helpers import ROOT
from helpers.runs import MODEL, STEPS, assert_same_run, options, train_word
from ldm import InputError
from textinv.concept import load_all
from textinv.running import state
from textinv.running.folder import RunFolder
from textinv.running.run import Run
from textinv.running.stopping import Dvar, EvaluationLoss


def stop_at(monkeypatch, step, number=signal.SIGTERM):
    """Sends this process a signal after a step has been logged."""
    log = RunFolder.log

    def logged(self, progress, lr):
        log(self, progress, lr)
        if progress.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunFolder, "log", logged)


@pytest.mark.parametrize("number, step", [(signal.SIGTERM, 1), (signal.SIGINT, 4), (signal.SIGTERM, 6)])
def test_a_signal_saves_and_stops(whole, image_dir, tmp_path, monkeypatch, capsys, number, step):
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_at(patch, step, number)
        with pytest.raises(SystemExit) as end:
            train_word(*options(image_dir, out))
    assert end.value.code == 128 + number
    # one more step, in which all processes learn of it
    assert f"stopped after step {step + 1} of {STEPS}" in capsys.readouterr().out
    assert train.main(["--resume", "--out", str(out)]) == 0
    assert f"resumed after step {step + 1}" in capsys.readouterr().out
    assert_same_run(whole, out)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_many_kills_leave_no_trace(whole, image_dir, tmp_path):
    """SIGKILL in the middle of steps, writes and measurements, at random moments."""
    out, rng, kills = tmp_path / "killed", random.Random(0), 0
    begin = [sys.executable, "train.py", "--weights", MODEL, "--batch", "2", "--preview-every", "0",
             "--dtype", "float32", *options(image_dir, out, **{"save-every": 1, "steps": 40})]
    while True:
        resume = (out / "config.json").exists()
        process = subprocess.Popen([*begin, *["--resume"] * resume], cwd=ROOT, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        before = size(out / "metrics.jsonl")
        while process.poll() is None and (kills == 4 or size(out / "metrics.jsonl") <= before):
            time.sleep(0.01)
        if process.poll() is None:
            time.sleep(rng.random() * 0.3)
            process.kill()
            kills += 1
        said = process.communicate()[0].decode()
        if process.returncode != -signal.SIGKILL:
            break
    assert process.returncode == 0 and kills >= 2, said
    undisturbed = tmp_path / "undisturbed"
    assert train_word(*options(image_dir, undisturbed, **{"save-every": 1, "steps": 40})) == 0
    assert_same_run(undisturbed, out)


VARIANTS = {"progressive": ["--progressive"], "per-image": ["--per-image"],
            "regularized": ["--regularize", "0.5", "--vectors", "2"],
            "all": ["--progressive", "--per-image", "--regularize", "0.5", "--fix-norm"]}


def variant(images, out, name, **more):
    given = options(images, out, **more)
    at = given.index("--vectors")
    return [*given[:at], *given[at + 2:], *VARIANTS[name]]


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_variant_resumes_bit_for_bit(name, image_dir, tmp_path, monkeypatch, capsys):
    """Stopped by a signal when a progressive word has one vector, and again when it has two."""
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    assert train_word(*variant(image_dir, undisturbed, name)) == 0
    for argv, step in ((variant(image_dir, out, name), 1), (["--resume", "--out", str(out)], 4)):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(SystemExit):
                train_word(*argv) if step == 1 else train.main(argv)
    assert train.main(["--resume", "--out", str(out)]) == 0
    assert_same_run(undisturbed, out)
    if "per-image" in " ".join(VARIANTS[name]):
        own, others = (load_all(folder / "image-words.safetensors") for folder in (out, undisturbed))
        assert len(own) == 3 and all(torch.equal(a.vectors, b.vectors) and a.info == b.info
                                     for a, b in zip(own, others, strict=True))


def test_a_killed_run_of_all_variants_resumes_bit_for_bit(image_dir, tmp_path):
    """SIGKILL in the middle of the loop."""
    out, few = tmp_path / "killed", {"save-every": 1, "steps": 40}
    process = subprocess.Popen([sys.executable, "train.py", "--weights", MODEL, "--batch", "2", "--dtype",
                                "float32", "--preview-every", "0",
                                *variant(image_dir, out, "all", **few)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and size(out / "metrics.jsonl") == 0:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert train.main(["--resume", "--out", str(out)]) == 0
    assert train_word(*variant(image_dir, tmp_path / "undisturbed", "all", **few)) == 0
    assert_same_run(tmp_path / "undisturbed", out)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_more_steps_are_the_steps_of_a_longer_run(whole, image_dir, tmp_path):
    out = tmp_path / "longer"
    assert train_word(*options(image_dir, out, steps=5)) == 0
    assert train.main(["--resume", "--out", str(out), "--steps", str(STEPS)]) == 0
    assert_same_run(whole, out)


def test_a_finished_run_has_nothing_to_do(whole, capsys):
    before = (whole / "metrics.jsonl").read_bytes()
    assert train.main(["--resume", "--out", str(whole)]) == 0
    assert "resumed after step 8" in capsys.readouterr().out
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_a_killed_runs_last_lines_are_written_again(whole, image_dir, tmp_path):
    """What was logged after the state, even half a line, does not stay."""
    out = tmp_path / "killed"
    assert train_word(*options(image_dir, out, steps=3)) == 0
    with (out / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 4, "loss": 0.1}\n{"step": 5, "lo')
    assert train.main(["--resume", "--out", str(out), "--steps", str(STEPS)]) == 0
    assert_same_run(whole, out)
    lines = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, STEPS + 1))
    settings = json.loads((out / "config.json").read_text())
    assert settings["steps"] == STEPS and not settings["resume"]
    assert f"images in {STEPS} steps" in (out / "report.html").read_text()


def test_fewer_steps_than_were_made_are_refused(whole, capsys):
    before = (whole / "config.json").read_bytes()
    assert train.main(["--resume", "--out", str(whole), "--steps", "3"]) == 2
    assert f"--steps is 3, but the run has already taken {STEPS} steps" in capsys.readouterr().err
    assert (whole / "config.json").read_bytes() == before
    assert train.main(["--resume", "--out", str(whole), "--steps", str(STEPS)]) == 0


def test_a_run_without_a_state_begins_at_its_beginning(whole, tmp_path, capsys):
    out = tmp_path / "early"
    shutil.copytree(whole, out)
    for name in ("state.safetensors", "state.previous.safetensors", "concept.safetensors", "metrics.jsonl"):
        (out / name).unlink()
    assert train.main(["--resume", "--out", str(out)]) == 0
    assert "starting from step 0" in capsys.readouterr().out
    assert_same_run(whole, out)


@pytest.mark.parametrize("measurement", [1, 2])
def test_a_step_that_breaks_off_before_it_is_logged_leaves_no_gap(whole, measurement, image_dir, tmp_path,
                                                                  monkeypatch, capsys):
    """As when another process dies while the evaluation loss is measured, which follows the step."""
    out, measure = tmp_path / "broken", EvaluationLoss.measure

    def breaks(self):
        if len(self.losses) + 1 == measurement:
            raise InputError("another process of this run has died")
        return measure(self)

    with monkeypatch.context() as patch:
        patch.setattr(EvaluationLoss, "measure", breaks)
        assert train_word(*options(image_dir, out)) == 2
    assert train.main(["--resume", "--out", str(out)]) == 0
    assert ("after step 3" if measurement == 2 else "from step 0") in capsys.readouterr().out
    assert_same_run(whole, out)


def test_a_full_disk_keeps_the_state_before(whole, image_dir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "full"

    def full(tensors, path, metadata):
        if tensors["counts"][0] > 3:
            Path(path).write_bytes(b"half a sta")
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_file", full)
        assert train_word(*options(image_dir, out)) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(out.glob("*.partial"))
    assert train.main(["--resume", "--out", str(out)]) == 0
    assert "resumed after step 3" in capsys.readouterr().out
    assert_same_run(whole, out)


@pytest.mark.parametrize("argv, message", [
    (["--lr", "0.5"], "--lr 0.5 (was 0.005)"),
    (["--batch", "3", "--seed", "4"], "--batch 3 (was 2), --seed 4"),
    (["--init", "dog"], "--init dog (was cat)"), (["--preset", "paper"], "--preset paper (was default)")])
def test_other_settings_are_named(whole, argv, message, capsys):
    assert train.main(["--resume", "--out", str(whole), *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error and "You may change --images, --weights, --vocab, --out, --device" in error


def marked(self, phrase=None):
    """In place of the images, which take a preview seconds: one pixel that identifies the word."""
    value = int(textinv.concept.fingerprint(self.inversion.concept())[:6], 16)
    return Image.new("RGB", (1, 1), (value >> 16, value >> 8 & 255, value & 255))


@pytest.mark.parametrize("stop", [0, 2, 3])
def test_previews_are_those_of_the_undisturbed_run(stop, image_dir, tmp_path, monkeypatch):
    """Those that are there stay, such as that of step 0; the one that a full disk prevented is made
    later."""
    few = {"steps": 4, "save-every": 1, "preview-every": 2}
    monkeypatch.setattr(Run, "previews", marked)
    assert train_word(*options(image_dir, tmp_path / "undisturbed", **few)) == 0

    def preview(self, step, generate, good=RunFolder.preview):
        if step == stop:
            raise InputError("the disk is full")
        good(self, step, generate)

    def log(self, progress, lr, good=RunFolder.log):
        good(self, progress, lr)
        if progress.step == stop == 3:
            raise InputError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "preview", preview)
        patch.setattr(RunFolder, "log", log)
        assert train_word(*options(image_dir, tmp_path / "out", **few)) == 2
    for _ in range(2):          # the second finds all of them there
        times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/previews").glob("step-*.png")}
        assert train.main(["--resume", "--out", str(tmp_path / "out")]) == 0
        assert_same_run(tmp_path / "undisturbed", tmp_path / "out")
        assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert len(times) == 3


def test_the_same_command_with_resume_goes_on(image_dir, tmp_path):
    assert train_word(*options(image_dir, tmp_path / "a")) == 0
    assert train_word(*options(image_dir, tmp_path / "a"), "--resume") == 0


def test_resume_without_a_run(tmp_path, capsys):
    assert train.main(["--resume", "--out", str(tmp_path / "none")]) == 2
    assert "contains no run" in capsys.readouterr().err
    assert train.main(["--resume"]) == 2
    assert "--resume needs a run" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{")
    assert train.main(["--resume", "--out", str(tmp_path)]) == 2
    assert "damaged" in capsys.readouterr().err


def test_a_run_in_use_is_left_alone(whole, image_dir, tmp_path, capsys):
    (tmp_path / "new").mkdir()
    with filelock.FileLock(whole / ".lock"), filelock.FileLock(tmp_path / "new/.lock"):
        assert train.main(["--resume", "--out", str(whole)]) == 2
        assert "another process is writing to this run" in capsys.readouterr().err
        assert train_word(*options(image_dir, tmp_path / "new")) == 2
        assert "another process is writing to this run" in capsys.readouterr().err
    assert train.main(["--resume", "--out", str(whole)]) == 0


def test_dvar_ends_a_run_and_its_resumption(image_dir, tmp_path, monkeypatch, capsys):
    """Steps so small that the loss does not move at all after the first ones: stopped by the test's rule."""
    monkeypatch.setattr(Dvar, "first", 2)
    monkeypatch.setattr(Dvar, "stops", lambda self, losses: len(losses) == 2)
    assert train_word(*options(image_dir, tmp_path / "a", stop="dvar")) == 0
    assert "has plateaued: done after step 4" in capsys.readouterr().out
    assert train.main(["--resume", "--out", str(tmp_path / "a")]) == 0
    assert textinv.Concept.load(tmp_path / "a").info["step"] == 4
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "b", "--stop", "dvar",
               "--eval-every", "0") == 2
    assert "--eval-every above 0" in capsys.readouterr().err
