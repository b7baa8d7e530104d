"""textinv concept --map: a page on how a word moved, from a run's folder or from a file."""
import re

import pytest
import torch

import textinv
from helpers.runs import MODEL, train_word
from textinv.commands import concept
from textinv.inside.vocabulary import read_path


@pytest.fixture
def measured(image_dir, tmp_path):
    """A run of three steps with two vectors; the evaluation loss is measured after each step."""
    folder = tmp_path / "measured"
    assert train_word("--images", image_dir, "--init", "cat", "--eval-every", 1, "--vectors", 2,
                      "--out", folder) == 0
    return folder


def test_path_of_a_run_is_its_measurements(measured):
    word = textinv.Concept.load(measured)
    points, steps = read_path(measured, word)
    assert steps == [0, 1, 2, 3] and points.shape[:2] == (4, 2)
    assert torch.equal(points[-1], word.vectors)
    assert torch.equal(points[0], torch.tensor(word.info["init_vectors"]))
    assert len({tuple(point.flatten().tolist()) for point in points}) == 4


def test_path_goes_on_when_a_run_is_resumed(measured):
    word = textinv.Concept.load(measured)
    before, _ = read_path(measured, word)
    assert train_word("--resume", "--out", measured, "--steps", 5) == 0
    points, steps = read_path(measured, word)
    assert steps == [0, 1, 2, 3, 4, 5] and torch.equal(points[:4], before)


def test_page_of_a_run(measured, tmp_path, capsys):
    out = tmp_path / "new/map.html"
    assert concept.main([str(measured), "--map", str(out)]) == 0             # the model is the run's own
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(out) and len(lines) == 3 and "the word nearest to v is" in lines[0]
    page = out.read_text()
    assert page.count("<svg") == 4 and re.search("from step 0", page)


def test_page_of_a_file(measured, tmp_path, capsys):
    argv = [str(measured / "concept.safetensors"), "--map", str(tmp_path / "map.html"), "--weights", MODEL]
    assert concept.main(argv) == 0 and "At step 3" in capsys.readouterr().out


def test_bad_input_is_one_line(measured, tmp_path, capsys):
    bare, out = tmp_path / "bare.safetensors", tmp_path / "map.html"
    word = textinv.Concept.load(measured)
    textinv.Concept("*", word.vectors).save(bare)
    for argv, message in (([str(bare)], "does not say where its word started"),
                          ([str(measured), str(bare)], "there are 2"),
                          ([str(measured), "--weights", "tiny"], "path has shape")):
        assert concept.main([*argv, "--map", str(out)]) == 2
        assert message in (error := capsys.readouterr().err) and error.count("\n") == 1
        assert not out.exists()
