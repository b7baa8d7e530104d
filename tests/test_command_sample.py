"""sample.py: grids and single images that carry their recipe; words under other names, at other strengths."""
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sample
import textinv
from helpers.runs import MODEL, generate, pixels
from ldm import InputError
from textinv.concept import at_strength, model_hash
from textinv.grids import read_recipe, save_png


def test_a_path_that_ends_in_a_slash_is_a_folder(learned, tmp_path):
    assert generate("a photo of *", "--concept", learned, "-n", 1, "--out", f"{tmp_path}/new/") == 0
    [path] = (tmp_path / "new").iterdir()
    assert path.name == "a-photo-of.png"


def test_sample_draws_grid_and_single_files(learned, tmp_path, capsys):
    out = tmp_path / "new/beach.png"
    assert generate("a photo of * on the beach", "a dog", "--concept", learned, "-n", 2, "--out", out) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == [str(out.with_name(f"beach-00{i}.png")) for i in range(4)] + [str(out)]
    assert "'a dog' contains no learned word" in captured.err
    assert pixels(out).shape == (2 * 66 - 2, 2 * 66 - 2, 3)
    assert generate("a photo of *", "--concept", learned, "-n", 1, "--out", tmp_path / "one.png") == 0
    assert pixels(tmp_path / "one.png").shape == (64, 64, 3) and not (tmp_path / "one-000.png").exists()


def test_the_word_reaches_the_image(learned, tmp_path):
    for name, argv in (("plain", []), ("learned", ["--concept", learned])):
        assert generate("a photo of *", "-n", 1, "--out", tmp_path / f"{name}.png", *argv) == 0
    assert not np.array_equal(*(pixels(tmp_path / f"{name}.png") for name in ("plain", "learned")))


def test_an_image_can_be_repeated_exactly(learned, tmp_path):
    out = tmp_path / "x.png"
    assert generate("a photo of *", "*", "--concept", learned, "-n", 3, "--batch", 2, "--seed", 5,
                "--strength", 0.5, "--sampler", "dpm++", "--negative", "dark", "--guidance", 3,
                "--out", out) == 0
    for name in ("x.png", "x-000.png", "x-003.png", "x-005.png"):
        assert sample.main(["--from", str(tmp_path / name), "--weights", MODEL,
                            "--out", str(tmp_path / "again/y.png")]) == 0
        assert np.array_equal(pixels(tmp_path / "again/y.png"), pixels(tmp_path / name))
        assert read_recipe(tmp_path / "again/y.png") == read_recipe(tmp_path / name)


def test_a_changed_word_is_not_repeated(learned, tmp_path, capsys):
    assert generate("*", "--concept", learned, "-n", 1, "--out", tmp_path / "x.png") == 0
    concept = textinv.Concept.load(learned)
    textinv.Concept("*", concept.vectors + 1, concept.info).save(learned / "concept.safetensors")
    assert generate("--from", tmp_path / "x.png", "--out", tmp_path / "y.png") == 2
    assert "does not contain the word" in capsys.readouterr().err


def test_an_image_of_another_model_is_not_repeated(learned, own_model, tmp_path, capsys):
    out = tmp_path / "x.png"
    assert generate("*", "--concept", learned, "-n", 1, "--out", out) == 0
    recipe = read_recipe(out)
    assert recipe["model"] == model_hash(own_model)
    save_png(Image.new("RGB", (8, 8)), out, {**recipe, "model": "0" * 16})
    assert generate("--from", out, "--out", tmp_path / "y.png") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"--weights {MODEL} is not the model that the --from image was made with" in error
    del recipe["model"]
    save_png(Image.new("RGB", (8, 8)), out, recipe)
    assert generate("--from", out, "--out", tmp_path / "y.png") == 0, "an older one does not say"


def test_an_image_is_repeated_with_words_that_have_moved(learned, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert generate("* <b>", "--concept", learned.name, "--concept", f"{learned.name}=<b>", "-n", 1,
                    "--out", "x.png") == 0
    image = pixels("x.png")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    again = ["--from", "../x.png", "--out", "y.png"]
    assert generate(*again) == 2 and "no such file" in capsys.readouterr().err
    assert generate(*again, "--concept", "../run") == 0 and np.array_equal(pixels("y.png"), image)
    textinv.Concept("*", torch.ones(1, 64)).save("word.safetensors")
    assert generate(*again, "--concept", "word.safetensors") == 2
    assert "--concept word.safetensors: not a word that ../x.png was made with" in capsys.readouterr().err


def test_several_concepts_under_other_names(learned, tmp_path):
    out = tmp_path / "x.png"
    assert generate("* next to <b>", "--concept", learned, "--concept", f"{learned}=<b>", "-n", 1,
                "--out", out) == 0
    assert [entry["placeholder"] for entry in read_recipe(out)["concepts"]] == ["*", "<b>"]


def test_the_model_is_the_one_that_the_word_was_learned_on(learned, tmp_path, capsys):
    assert sample.main(["*", "--concept", str(learned), "-n", "1", "--steps", "1",
                        "--out", str(tmp_path / "x.png")]) == 0
    assert read_recipe(tmp_path / "x.png")["weights"] == MODEL
    assert "warning" not in capsys.readouterr().err
    concept = textinv.Concept.load(learned)
    textinv.Concept("*", concept.vectors,
                    {**concept.info, "model_hash": "0"}).save(tmp_path / "other.safetensors")
    other = tmp_path / "other.safetensors"
    assert generate("*", "--concept", other, "-n", 1, "--out", tmp_path / "y.png") == 0
    assert "learned on another model" in capsys.readouterr().err


def test_strength_is_the_line_from_init_to_word(learned):
    concept = textinv.Concept.load(learned)
    start = torch.tensor(concept.info["init_vectors"])
    assert torch.equal(at_strength(concept, 1.0), concept.vectors)
    assert torch.equal(at_strength(concept, 0.0), start)
    assert torch.allclose(at_strength(concept, 2.0), 2 * concept.vectors - start)
    with pytest.raises(InputError, match="`strength` must be 1"):
        at_strength(textinv.Concept("*", concept.vectors), 0.5)


def test_default_names_are_new_files(learned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert generate("A photo of *!", "--concept", learned, "-n", 1) == 0
    assert sorted(path.name for path in Path("samples").iterdir()) == ["a-photo-of-2.png", "a-photo-of.png"]


@pytest.mark.parametrize("argv, message", [
    ([], "no prompt"), (["*", "-n", "0"], "-n is 0"), (["*", "--batch", "0"], "--batch is 0"),
    (["*", "--prompts", "nowhere.txt"], "cannot be read"), (["*", "--concept", "nowhere"], "nowhere"),
    (["*", "--sampler", "plms"], "--sampler is 'plms'. Use ddim or ddpm or dpm++"),
    (["*", "--steps", "0"], "--steps is 0"),
    (["*", "--eta", "-1"], "--eta is -1.0. Use 0 to 1"), (["--from", "nowhere.png"], "no such file"),
    (["*", "--from", "x.png"], "--from reproduces an image with its own options. Drop it, or drop PROMPT."),
    (["--prompts", "x.txt", "--from", "x.png"], "or drop --prompts."),
    (["--best", "1", "--seed", "7", "--from", "x.png"], "or drop --seed and --best."),
    (["*", "--images", "x"], "--images has no effect without --best. Add --best, or drop --images."),
    (["*", "--clip", "x"], "--clip has no effect without --best"),
    (["a cat", "--negative", "dark", "--guidance", "1"], "--negative has no effect at --guidance 1"),
    (["a cat", "--strength", "0.5"], "--strength has no effect without a learned word")])
def test_sample_refuses(argv, message, tmp_path, capsys):
    assert sample.main(["--weights", MODEL, "--out", str(tmp_path / "x.png"), *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_prompts_of_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    assert generate("--prompts", tmp_path / "prompts.txt", "-n", 1, "--out", tmp_path / "x.png") == 0
    assert read_recipe(tmp_path / "x.png")["prompts"] == ["a cat", "a dog"]
