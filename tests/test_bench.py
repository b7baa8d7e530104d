"""What the benchmarks compute from their measurements, and that their methods are options of train.py. Their
times are not tested."""
import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ldm.unet
from bench import load, memory, observer, resume, words
from bench.__main__ import main as bench
from bench.timing import compare, seconds
from helpers import ROOT
from ldm.attention import attention
from textinv.commands.train import parse


@pytest.mark.parametrize("method", words.METHODS)
def test_every_method_is_a_set_of_options(method):
    config, _ = parse(["--images", "x", "--init", "cat", *words.METHODS[method]])
    assert config.init == ("auto" if method.startswith("auto") else "cat")
    assert method in ("paper", "dvar") or config.steps == int(method.rpartition("-")[2])


def test_intervals_hold_the_mean_and_are_of_the_objects():
    def interval(names, values):
        return words.interval([words.Metrics(name, 0.8, 0.3, 0.9, 0.95, 0.4, 400, 20.0) for name in names],
                              values)

    assert interval("abcd", [0.5] * 4) == "0.500"
    mean, low, high = (float(part) for part in interval(map(str, range(100)), [0.0, 1.0] * 50).replace(
        "(", "").replace(")", "").replace(" to", "").split())
    assert mean == 0.5 and low == pytest.approx(0.4, abs=0.02) and high == pytest.approx(0.6, abs=0.02)
    assert interval("aabbcc", [0.0, 1.0, 1.0, 0.0, 0.5, 0.5]) == "0.500"            # all means are 0.5
    assert interval("aabbcc", [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]) == "0.500 (-0.742 to 1.742)"


def test_the_table_of_words():
    some = [words.Metrics("fox", 0.8, 0.3, 0.9, 0.95, 0.4, 400, 20.0),
            words.Metrics("panda", 0.6, 0.1, 0.7, 1.05, 0.4, 200, 10.0)]
    lines = words.table({"plain-400": some}).splitlines()
    assert lines[2].startswith("| plain-400 | 0.700 |") and "| 80% |" in lines[2] and "| 100% |" in lines[2]
    assert lines[2].endswith("| 300 | 15.0 |")
    assert "| the init word | 0.400 | 46% |" in lines[3]
    # 0.4 of what the images' own are: 0.8 / 0.9 and 0.6 / 0.7
    # pairs: 0.8 - 0.6 and 0.6 - 0.4, though the words themselves differ
    others = [replace(word, reconstruction=word.reconstruction + 0.2) for word in some]
    lines = words.differences({"paper": some, "plain-400": others}).splitlines()
    assert lines[0].startswith("| minus paper")
    assert lines[2] == "| plain-400 | 0.200 | 0.000 |"


def test_every_object_has_a_folder():
    parser = argparse.ArgumentParser()
    words.add_arguments(parser)
    choices = next(action.choices for action in parser._actions if action.dest == "objects")
    assert len(choices) > 10 and all((ROOT / "examples" / name).is_dir() for name in choices)


@pytest.mark.parametrize(("options", "message"), [
    (["sample", "--batch", "0"], "--batch is 0. Give 1 or more."), (["words", "-n", "0"], "-n is 0"),
    (["attention", "--repeats", "-1"], "--repeats is -1"), (["load", "--pairs", "0"], "--pairs is 0"),
    (["resume", "--kills", "0"], "--kills is 0"), (["train", "--device", "abacus"], "--device abacus is not"),
    (["words", "--methods", "auto-20", "paper"], "auto-20 is the first, whose init word is measured too"),
    (["observer", "--device", "meta"], "--device meta is not")])
def test_counts_and_devices_without_meaning_are_one_line(options, message, capsys):
    assert bench(options) == 2
    error, = capsys.readouterr().err.splitlines()
    assert message in error


@pytest.mark.parametrize(("device", "calls"), [("cuda:1", ["cuda", "cuda:1", "run", "cuda", "cuda:1"]),
                                               ("mps", ["mps", "run", "mps"]), ("cpu", ["run"])])
def test_the_devices_own_queue_is_empty_before_and_after(device, calls, monkeypatch):
    said = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *which: said.extend(["cuda", *which]))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: said.append("mps"))
    assert seconds(lambda: said.append("run"), device) >= 0 and said == calls


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the peak")
def test_peak_memory_is_of_what_runs():
    def run():
        assert np.ones(40_000_000).any()        # 320 MB

    before, most, after = (memory.peak(what, "cpu") for what in (list, run, list))
    assert most > max(before, after) + 250e6 and memory.peak_so_far("cpu") < most


def test_a_run_that_cannot_be_killed_is_an_error(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(resume, "saving", lambda *args: None)
    monkeypatch.setattr(resume, "start", lambda *args: None)
    monkeypatch.setattr(resume, "finish", lambda process: None)
    monkeypatch.setattr(resume, "compare_runs", lambda *args: None)
    monkeypatch.setattr(resume, "one_killed_run", lambda args, out, most, rng: asked.append(
        rng.random()) or (2 if len(asked) < 3 else 0))
    assert bench(["resume", "--steps", "5", "--kills", "4"]) == 0 and len(set(asked)) == 2
    assert bench(["resume", "--steps", "5", "--kills", "4"]) == 2
    assert "a run of 5 steps ended before it could be killed. Give more --steps." in capsys.readouterr().err


def test_why_loading_failed_is_said(monkeypatch, capsys):
    monkeypatch.setattr(load, "_write", lambda folder, args: {"nothing": ["ours", str(folder / "none.ckpt")]})
    assert bench(["load"]) == 2
    error, = capsys.readouterr().err.splitlines()
    assert "loading with nothing exited with status 1: " in error
    assert "none.ckpt: there is no such file" in error


def test_ratios_are_of_the_pairs(capsys):
    values = {"ours": iter([1.0, 3.0, 2.0]), "theirs": iter([2.0, 3.0, 8.0])}
    results = compare({name: lambda one=one: next(one) for name, one in values.items()}, pairs=3)
    assert results["ours"] == [1.0, 3.0, 2.0]
    assert "0.50 x theirs (0.25 to 1.00)" in capsys.readouterr().out


def test_the_kernel_without_an_observer_is_the_same_and_put_back():
    q, k, v = torch.randn(3, 2, 5, 16)
    for causal in (False, True):
        assert torch.equal(observer.unobserved(q, k, v, 4, causal), attention(q, k, v, 4, causal))
    seen = []
    observer._with_kernel(observer.unobserved, lambda: seen.append(ldm.unet.attention), "cpu")
    assert seen == [observer.unobserved] and ldm.unet.attention is attention
