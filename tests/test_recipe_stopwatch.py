"""What the embedded default costs, measured in a process of its own."""
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ldm
import weights
from recipe import evaluate, stopwatch, vocabulary
from recipe.sizes import CONFIG
from weights.vocabularies import read_vocabulary


@pytest.fixture(autouse=True)
def usual_threads(monkeypatch):
    """The command sets the number of threads of its process, which here is the tests' own: another number
    changes the last bits of results."""
    monkeypatch.setattr(stopwatch, "CORES", torch.get_num_threads())


def test_peak_memory_is_in_bytes():
    ballast = np.ones(50_000_000)               # 0.4 GB
    assert ballast.nbytes <= stopwatch.peak_bytes() < 32e9


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_where_the_system_does_not_list_it(platform, unit, monkeypatch):
    monkeypatch.setattr(stopwatch, "STATUS", Path("nowhere"))
    monkeypatch.setattr(stopwatch, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(stopwatch.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=7))
    assert stopwatch.peak_bytes() == 7 * unit


def test_stopwatch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stopwatch, "STEPS", 1)
    vocabulary.write(tmp_path / "vocab.txt")
    model = ldm.LatentDiffusion(CONFIG)
    model.tokenizer.read_from(lambda: read_vocabulary(tmp_path / "vocab.txt"))
    weights.save(model, tmp_path / "model.safetensors")
    assert stopwatch.main([str(tmp_path / "model.safetensors")]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert set(measured) <= set(evaluate.METRICS) and all(value > 0 for value in measured.values())


def test_bad_input(capsys):
    assert stopwatch.main(["nowhere.safetensors"]) == 2
    error = capsys.readouterr().err
    assert "nowhere.safetensors" in error and error.count("\n") == 1
