"""Measuring a word: the cache of generated images, and the command."""
import json
import shutil

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image

import textinv
from helpers.runs import MODEL, measure, pixels, train_word
from helpers.weight_files import edit_json
from textinv.evaluation.evaluate import EDITS, PLAIN, STYLE_EDITS, STYLE_PLAIN, without_word
from textinv.evaluation.identity import model_id
from textinv.evaluation.scores import mean_pairwise_similarity
from textinv.grids import read_recipe, save_png
from textinv.images import read_images
from weights import clip


def drawn(learned):
    return {path: path.stat().st_mtime_ns for path in (learned / "evaluation/samples").rglob("*.png")}


def test_the_command_writes_table_figures_and_images(learned, small_clip, capsys):
    assert measure(learned, small_clip, "--baseline") == 0
    said = capsys.readouterr().out
    out = learned / "evaluation"
    assert (out / "evaluation.md").read_text() in said and "| * | cat |" in said
    content = json.loads((out / "evaluation.json").read_text())
    one = content["results"]["*"]
    assert content["results"].keys() == {"*", "cat"} and one["prompts"].keys() == set(EDITS)
    assert -1 <= one["reconstruction"]["low"] <= one["reconstruction"]["value"] <= 1
    assert content["options"]["n"] == 3 and content["training_similarity"] > 0
    with Image.open(out / "evaluation.png") as sheet:
        assert sheet.size == (3 * 66 - 2, 15 * 88)                  # training, 7 prompts, 7 of the init word
    assert content["sheet"] == ["training images", *(prompt.format(word) for word in ("*", "cat")
                                                     for prompt in (PLAIN, *EDITS))]
    assert len({path.read_bytes() for path in drawn(learned)}) == 2 * 7 * 3, "no image twice"
    page = (learned / "report.html").read_text()
    assert one_cell(content) in page and "Not measured yet" not in page and "report.html" in said


def one_cell(content):
    """The reconstruction of the word, as tables show it."""
    one = content["results"]["*"]["reconstruction"]
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def test_the_figures_are_those_of_the_images(learned, small_clip, image_dir):
    """Computed again from the files, using only the definitions."""
    assert measure(learned, small_clip) == 0
    recipes = {}
    for path in drawn(learned):
        with Image.open(path) as image:
            recipes.setdefault(json.loads(image.info["textinv"])["prompt"], []).append(image.convert("RGB"))
    ours, results = clip.load(small_clip), json.loads(
        (learned / "evaluation/evaluation.json").read_text())["results"]["*"]
    beach = ours.images(recipes["a photo of * on the beach"]).mean(dim=0)
    expected = F.cosine_similarity(beach, ours.texts(["a photo of on the beach"])[0], dim=0).item()
    assert results["prompts"]["a photo of {} on the beach"]["value"] == pytest.approx(expected, abs=1e-5)
    training = []
    for path in sorted(image_dir.glob("*.png")):                     # 64 x 80: the middle square
        with Image.open(path) as image:
            training.append(image.crop((0, 8, 64, 72)))
    expected = (ours.images(recipes["a photo of *"]) @ ours.images(training).T).mean().item()
    assert results["reconstruction"]["value"] == pytest.approx(expected, abs=1e-4)


def test_images_are_drawn_once_and_gaps_are_filled(learned, small_clip, capsys):
    assert measure(learned, small_clip) == 0
    first, said = drawn(learned), capsys.readouterr().out
    gone, cut, broken, changed = damaged = sorted(first)[4:8]
    before = [path.read_bytes() for path in damaged]
    gone.unlink()
    cut.write_bytes(b"cut off")
    length = before[2].index(b"IDAT") - 4
    broken.write_bytes(before[2][:length] + (100).to_bytes(4, "big") + before[2][length + 4:])
    with pytest.raises(SyntaxError), Image.open(broken) as image:
        image.load()
    with Image.open(changed) as image:          # as Pillow reads a file whose end is zeros
        save_png(image.transpose(Image.Transpose.ROTATE_180), changed, json.loads(image.info["textinv"]))
    assert measure(learned, small_clip) == 0
    again = drawn(learned)
    assert capsys.readouterr().out == said and [path.read_bytes() for path in damaged] == before
    assert {path for path in first if first[path] != again[path]} == {*damaged}
    assert measure(learned, small_clip, "--seed", 9) == 0 and len(drawn(learned)) == 2 * len(first)


def test_samples_of_another_model_or_word_are_refused(learned, small_clip, own_model, capsys):
    assert measure(learned, small_clip) == 0
    path = sorted(drawn(learned))[0]
    with Image.open(path) as image:
        recipe_of_it = json.loads(image.info["textinv"])
        save_png(image.convert("RGB"), path, {**recipe_of_it, "model": "another"})
    assert recipe_of_it["model"] == model_id(own_model)
    assert measure(learned, small_clip) == 2
    assert f"{path}: was generated with a different model" in capsys.readouterr().err
    concept = textinv.Concept.load(learned)
    textinv.Concept("*", concept.vectors, {**concept.info, "model_hash": "0"}).save(
        learned / "concept.safetensors")
    assert measure(learned, small_clip) == 2
    assert "was learned on another model" in capsys.readouterr().err


def test_a_word_alone_needs_its_images(learned, small_clip, tmp_path, image_dir, capsys):
    file = tmp_path / "word.safetensors"
    textinv.Concept.load(learned).save(file)
    assert measure(file, small_clip) == 2
    assert "Give them as --images" in capsys.readouterr().err
    assert measure(file, small_clip, "--images", image_dir) == 0
    assert (tmp_path / "word/evaluation/evaluation.json").exists()


def test_a_words_own_images_are_those_of_its_run(learned, small_clip, image_dir, capsys):
    """With the run's crop; other images must be asked for."""
    def similarity():
        return json.loads((learned / "evaluation/evaluation.json").read_text())["training_similarity"]

    assert measure(learned, small_clip) == 0
    center = similarity()
    edit_json(learned / "config.json", crop="stretch")
    assert measure(learned, small_clip) == 0
    evaluator = clip.load(small_clip)
    shown = [image.shown for image in read_images(image_dir, 64, crop="stretch")]
    own = mean_pairwise_similarity(evaluator.images(shown))
    assert similarity() == pytest.approx(own, abs=1e-5) != center
    Image.new("RGB", (64, 64), "red").save(image_dir / "new.png")
    capsys.readouterr()
    assert measure(learned, small_clip) == 2
    assert f"{image_dir}: these are no longer the images that the word" in capsys.readouterr().err
    assert measure(learned, small_clip, "--images", image_dir) == 0


def test_masks_play_no_part(learned, small_clip, image_dir):
    """A mask may be black in the middle, if a run crops at random, or in the whole of other images."""
    for path in image_dir.glob("*.png"):
        with Image.open(path) as image:
            Image.new("L", image.size).save(path.with_name(path.stem + ".mask.png"))
    for more in ([], ["--images", image_dir]):
        assert measure(learned, small_clip, *more) == 0


@pytest.mark.parametrize("style, prompts, expected", [
    (False, None, (PLAIN, *EDITS)), (True, None, (STYLE_PLAIN, *STYLE_EDITS)),
    (False, "a {} here\n", (PLAIN, "a {} here")), (True, "a {} here\n", (STYLE_PLAIN, "a {} here"))])
def test_a_style_has_prompts_of_its_own(style, prompts, expected, learned, small_clip, tmp_path):
    edit_json(learned / "config.json", style=style)
    more = []
    if prompts:
        (tmp_path / "prompts.txt").write_text(prompts)
        more = ["--prompts", tmp_path / "prompts.txt"]
    assert measure(learned, small_clip, *more) == 0
    content = json.loads((learned / "evaluation/evaluation.json").read_text())
    assert content["sheet"][1:] == [template.replace("{}", "*") for template in expected]
    assert list(content["results"]["*"]["prompts"]) == list(expected[1:])


def test_a_styles_file_says_that_it_is_one(learned, small_clip, image_dir, tmp_path):
    word = textinv.Concept.load(learned)
    assert word.info["style"] is False
    textinv.Concept("*", word.vectors, {**word.info, "style": True}).save(tmp_path / "word.safetensors")
    assert measure(tmp_path / "word.safetensors", small_clip, "--images", image_dir) == 0
    content = json.loads((tmp_path / "word/evaluation/evaluation.json").read_text())
    assert list(content["results"]["*"]["prompts"]) == list(STYLE_EDITS)


def test_a_folder_with_only_the_word_is_like_its_file(learned, small_clip, image_dir, tmp_path, capsys):
    (tmp_path / "word").mkdir()
    shutil.copy(learned / "concept.safetensors", tmp_path / "word")
    assert measure(tmp_path / "word", small_clip, "--images", image_dir) == 0
    assert measure(tmp_path / "word", tmp_path / "no-clip") == 2
    assert "Give them as --images" in capsys.readouterr().err, "said before anything is loaded"


def test_what_a_style_is_compared_with_does_not_name_it():
    assert without_word(STYLE_EDITS[0]) == "a painting of a cat" and without_word(STYLE_PLAIN) == "a painting"
    assert without_word(EDITS[0]) == "a photo of on the beach"


def test_the_baseline_does_not_know_the_word(learned, small_clip, own_model):
    """Even if the placeholder is also a word of the prompts."""
    word = textinv.Concept.load(learned)
    textinv.Concept("beach", word.vectors, word.info).save(learned / "concept.safetensors")
    assert measure(learned, small_clip, "--baseline") == 0
    recipes = {recipe["prompt"]: path for path in drawn(learned)
               if (recipe := read_recipe(path))["concept"] is None and path.stem == "0000"}
    recipe = read_recipe(path := recipes["a photo of cat on the beach"])
    [expected, *_] = own_model.generate([recipe["prompt"]] * 3, steps=recipe["steps"], seed=recipe["seed"])
    assert np.array_equal(pixels(path), np.asarray(expected))


@pytest.mark.parametrize("argv, message", [
    (["-n", "0"], "-n is 0"), (["--seed", str(2 ** 63 - 2)], f"--seed is {2 ** 63 - 2}. Use 0 or more"),
    (["--steps", "0"], "--steps is 0"), (["--clip", "nowhere"], "no such folder"),
    (["--prompts", "nowhere.txt"], "cannot be read"), (["--images", "nowhere"], "nowhere")])
def test_bad_input_is_one_line(learned, small_clip, argv, message, capsys):
    assert measure(learned, small_clip, *argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_baseline_of_a_word_that_started_at_random(image_dir, tmp_path, small_clip, capsys):
    assert train_word("--images", image_dir, "--init", "random", "--out", tmp_path / "run") == 0
    assert measure(tmp_path / "run", small_clip, "--baseline") == 2
    assert "Drop the option" in capsys.readouterr().err
    assert MODEL in (tmp_path / "run/config.json").read_text()


@pytest.mark.parametrize("placeholder, init, message", [
    ("*", "cup/bear", "started from 'cup/bear', not from words"),
    ("*", "auto", "started from 'auto', not from words"),
    ("cat", "a cat", "'cat' stands for the learned word, but is also in 'a cat'")])
def test_baseline_of_a_word_without_an_init_word_of_its_own(learned, small_clip, placeholder, init, message,
                                                            capsys):
    word = textinv.Concept.load(learned)
    textinv.Concept(placeholder, word.vectors, {**word.info, "init": init}).save(
        learned / "concept.safetensors")
    assert measure(learned, small_clip, "--baseline") == 2
    assert message in capsys.readouterr().err
