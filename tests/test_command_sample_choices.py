"""sample.py with a tuned model, and with CLIP's choice of the best images."""
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import sample
from helpers.runs import MODEL, generate, pixels
from ldm.model import to_images
from textinv.commands import edit
from textinv.editing.curation import best
from textinv.editing.deltas import Delta
from textinv.grids import read_recipe
from textinv.images import read_images
from textinv.running.folder import read_record
from weights import clip


@pytest.fixture
def delta(learned, tmp_path):
    """A delta for the model of the tests."""
    assert edit.main(["tune", "--concept", str(learned), "--weights", MODEL, "--steps", "3", "--lr", "0.1",
                      "--out", str(tmp_path / "tuned")]) == 0
    return tmp_path / "tuned/tuned.safetensors"


def test_a_tuned_model_generates_other_images_that_can_be_repeated(learned, delta, tmp_path, capsys):
    for name, more in (("plain", []), ("tuned", ["--tuned", delta])):
        assert generate("a photo of *", "--concept", learned, "-n", 2, "--out", tmp_path / f"{name}.png",
                        *more) == 0
    assert not np.array_equal(pixels(tmp_path / "plain.png"), pixels(tmp_path / "tuned.png"))
    for name in ("tuned.png", "tuned-001.png"):
        again = ["--from", str(tmp_path / name), "--weights", MODEL, "--out", str(tmp_path / "again.png")]
        assert sample.main(again) == 0
        assert np.array_equal(pixels(tmp_path / "again.png"), pixels(tmp_path / name))
    Delta.load(delta).save(delta)                                   # the same one, written again
    assert sample.main(again) == 0
    moved = delta.rename(tmp_path / "moved.safetensors")
    assert sample.main(again) == 2 and "no such file" in capsys.readouterr().err
    assert sample.main([*again, "--tuned", str(moved)]) == 0
    assert np.array_equal(pixels(tmp_path / "again.png"), pixels(tmp_path / name))
    assert read_recipe(tmp_path / "again.png")["tuned"]["path"] == str(moved)
    assert sample.main(["--from", str(tmp_path / "plain.png"), "--weights", MODEL, "--tuned", str(moved),
                        "--out", str(tmp_path / "again.png")]) == 2
    assert "plain.png was made without a delta. Drop the option." in capsys.readouterr().err
    assert edit.main(["tune", "--concept", str(learned), "--weights", MODEL, "--steps", "1",
                      "--out", str(tmp_path / "other")]) == 0
    shutil.copy(tmp_path / "other/tuned.safetensors", delta)
    assert sample.main(again) == 2
    assert "not the delta that this image was made with" in capsys.readouterr().err


def test_the_best_images_are_kept(learned, small_clip, tmp_path):
    """They are the ones with the same numbers without --best, and the best of those by CLIP."""
    common = ["a photo of *", "* on the beach", "--concept", learned, "-n", 5, "--batch", 2]
    assert generate(*common, "--out", tmp_path / "all.png") == 0
    assert generate(*common, "--best", 2, "--clip", small_clip, "--out", tmp_path / "best.png") == 0
    kept = read_recipe(tmp_path / "best.png")["kept"]
    assert len(kept) == 4 and all(i < 5 for i in kept[:2]) and all(5 <= i < 10 for i in kept[2:])
    assert {path.name for path in tmp_path.glob("best-*.png")} == {f"best-{i:03d}.png" for i in kept}
    for i in kept:
        assert np.array_equal(pixels(tmp_path / f"best-{i:03d}.png"), pixels(tmp_path / f"all-{i:03d}.png"))
    evaluator = clip.load(small_clip)
    with Image.open(tmp_path / "all.png") as grid:
        assert grid.size == (5 * 66 - 2, 2 * 66 - 2)
    singles = [Image.fromarray(pixels(tmp_path / f"all-{i:03d}.png")) for i in range(5)]
    training = to_images(torch.stack([image.views[0].x for image in
                                      read_images(read_record(learned)["images"], 64)]))
    assert kept[:2] == best(evaluator, singles, "a photo of", 2, training)
    grid = pixels(tmp_path / "best.png")
    assert grid.shape[:2] == (2 * 66 - 2, 2 * 66 - 2)
    assert np.array_equal(grid[:64, :64], pixels(tmp_path / f"best-{kept[0]:03d}.png"))
    for name in ("best.png", f"best-{kept[1]:03d}.png"):            # without CLIP
        assert sample.main(["--from", str(tmp_path / name), "--weights", MODEL,
                            "--out", str(tmp_path / "again.png")]) == 0
        assert np.array_equal(pixels(tmp_path / "again.png"), pixels(tmp_path / name))


def test_the_best_by_other_images_and_a_single_one(learned, image_dir, small_clip, tmp_path):
    word = tmp_path / "word.safetensors"
    shutil.copy(learned / "concept.safetensors", word)              # it does not name its images
    assert generate("*", "--concept", word, "-n", 3, "--best", 1, "--clip", small_clip,
                    "--images", image_dir, "--out", tmp_path / "one.png") == 0
    assert pixels(tmp_path / "one.png").shape == (64, 64, 3) and not list(tmp_path.glob("one-*.png"))
    assert generate("*", "--concept", word, "-n", 3, "--best", 1, "--clip", small_clip,
                    "--out", tmp_path / "by-prompt.png") == 0, "the prompt alone decides"


@pytest.mark.parametrize("argv, message", [
    (["--best", "0"], "--best is 0. Use 1 to 4"), (["--best", "5"], "--best is 5. Use 1 to 4"),
    (["--tuned", "nowhere.safetensors"], "no such file"),
    (["--best", "1", "--clip", "nowhere"], "there is no such folder")])
def test_choosing_and_tuning_refuse(argv, message, tmp_path, capsys):
    out = str(tmp_path / "x.png")
    assert sample.main(["*", "--weights", MODEL, "--steps", "1", "--out", out, *argv]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and message in error
    assert list(tmp_path.iterdir()) == []
