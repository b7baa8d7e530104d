"""`textinv edit`: each command writes what it promises, and refuses with one line."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from helpers.runs import MODEL, pixels
from helpers.weight_files import edit_json
from ldm import InputError
from textinv import Concept
from textinv.commands import edit
from textinv.commands.edits.shared import new_folder
from textinv.editing.deltas import Delta
from textinv.grids import read_recipe


def run(*argv):
    """Run a command on the model with random weights; returns its status."""
    return edit.main([*map(str, argv), "--weights", MODEL])


@pytest.fixture
def scene(tmp_path):
    """An image and a mask of its lower right part."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(tmp_path / "scene.png")
    mask = Image.new("L", (90, 70))
    ImageDraw.Draw(mask).rectangle((45, 35, 70, 60), fill=255)
    mask.save(tmp_path / "mask.png")
    return tmp_path / "scene.png", tmp_path / "mask.png"


def test_blend_paints_the_word(scene, learned, tmp_path, capsys):
    image, mask = scene
    common = ["blend", image, mask, "a photo of *", "--concept", learned, "-n", 2, "--steps", 2]
    assert run(*common, "--out", tmp_path / "a") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a/sheet.png")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"sheet.png", "000.png", "001.png"}
    assert pixels(tmp_path / "a/000.png").shape == (64, 64, 3)
    assert read_recipe(tmp_path / "a/000.png")["options"]["prompt"] == "a photo of *"
    assert run(*common, "--keep-background", "--out", tmp_path / "b") == 0
    kept = pixels(tmp_path / "b/001.png")
    assert np.array_equal(kept[pixels(mask) == 0], pixels(image)[pixels(mask) == 0])
    assert run(*common, "--keep-background", "--out", tmp_path / "c", "--seed", 1) == 0
    assert np.array_equal(pixels(tmp_path / "c/000.png"), kept)             # image i has the seed seed + i


def test_invert_goes_there_and_back(scene, learned, tmp_path, capsys):
    assert run("invert", scene[0], "a cat", "* on the beach", "--concept", learned, "--steps", 5,
               "--guidance", 1, "--guidance", 3, "--out", tmp_path / "a") == 0
    assert "relative error" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"sheet.png",
                                                                 *(f"{i:03d}.png" for i in range(5))}


def test_tune_writes_a_delta_that_the_other_commands_use(scene, learned, tmp_path, capsys):
    assert run("tune", "--concept", learned, "--steps", 3, "--rank", 2, "--lr", "0.1", "--prior", "a dog",
               "--prior-images", 2, "--out", tmp_path / "a") == 0
    out = capsys.readouterr().out
    path = tmp_path / "a/tuned.safetensors"
    delta = Delta.load(path)
    assert delta.info["steps"] == 3 and delta.info["rank"] == 2 and delta.info["prior"] == "a dog"
    assert "a photo of a *" in delta.info["prompts"] and f"--tuned {path}" in out
    for name, more in (("plain", []), ("tuned", ["--tuned", path])):
        assert run("blend", *scene, "*", "--concept", learned, "-n", 1, "--steps", 2,
                   "--out", tmp_path / name, *more) == 0
    assert not np.array_equal(pixels(tmp_path / "plain/000.png"), pixels(tmp_path / "tuned/000.png"))


@pytest.mark.parametrize("argv, prompt", [([], "a painting in the style of *"),
                                          (["--no-style"], "a photo of a *")])
def test_tune_knows_from_its_run_that_a_word_is_a_style(argv, prompt, learned, tmp_path, capsys):
    edit_json(learned / "config.json", style=True)
    assert run("tune", "--concept", learned, "--steps", 1, "--out", tmp_path / "a", *argv) == 0
    assert Delta.load(tmp_path / "a/tuned.safetensors").info["prompts"][0] == prompt
    assert f"textinv sample '{prompt}' --concept" in capsys.readouterr().out


@pytest.mark.parametrize("argv, prompts", [([], ["a cat like *", "* on the beach"]),
                                           (["--style"], ["a painting in the style of *"])])
def test_tune_uses_the_templates_of_its_run(argv, prompts, learned, tmp_path):
    (tmp_path / "templates.txt").write_text("a cat like {}\n\n{} on the beach\n")
    edit_json(learned / "config.json", templates=str(tmp_path / "templates.txt"))
    assert run("tune", "--concept", learned, "--steps", 1, "--out", tmp_path / "a", *argv) == 0
    assert Delta.load(tmp_path / "a/tuned.safetensors").info["prompts"][:len(prompts)] == prompts


def test_compose_counts(learned, small_clip, tmp_path, capsys):
    assert run("compose", "<a> next to <b>", "--concept", f"{learned}=<a>", "--concept", f"{learned}=<b>",
               "-n", 3, "--steps", 1, "--find", "a cat", "--find", "a dog", "--among", "a car",
               "--clip", small_clip, "--out", tmp_path / "a") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["a cat", "a dog", "all"] and "n = 3)" in lines[3]
    assert len(list((tmp_path / "a").iterdir())) == 4


def test_bias_counts_each_prompt(learned, small_clip, tmp_path, capsys):
    assert run("bias", "a vehicle", "*", "--concept", learned, "-n", 3, "--steps", 1,
               "--classes", "car", "bus", "--clip", small_clip, "--out", tmp_path / "a") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("a vehicle: ") and lines[2].startswith("*: ") and "bits" in lines[2]
    assert len(list((tmp_path / "a").iterdir())) == 7


@pytest.mark.parametrize("argv, words", [
    (["compose", "*", "--find", "a Fox", "--find", "cat", "--among", "a Zebu, 2 cats"], "'fox', 'zebu'"),
    (["bias", "*", "--classes", "car", "zzz bus"], "'zzz'"),
    (["compose", "*", "--find", "cat", "--among", "a dog"], "")])
def test_words_that_clip_spells_are_named(argv, words, learned, small_clip, tmp_path, capsys):
    """The small CLIP's vocabulary has letters, so any text has an embedding."""
    assert run(*argv, "--concept", learned, "-n", 1, "--steps", 1, "--clip", small_clip,
               "--out", tmp_path / "a") == 0
    error = capsys.readouterr().err
    assert (f"warning: CLIP does not know {words} and reads letters" in error) == bool(words)


@pytest.mark.parametrize("argv, texts", [
    (["compose", "*", "--find", "a fox", "--among", "a fox"], "'a fox'"),
    (["compose", "*", "--find", "a fox", "--among", "a car", "a car"], "'a fox', 'a car', 'a car'"),
    (["bias", "*", "--classes", "car", "car"], "'a photo of a car', 'a photo of a car'"),
    (["bias", "*", "--classes", "car"], "'a photo of a car'")])
def test_images_are_counted_only_if_they_may_show_several_things(argv, texts, learned, small_clip, tmp_path,
                                                                 capsys):
    assert run(*argv, "--concept", learned, "--clip", small_clip, "--out", tmp_path / "a") == 2
    error = capsys.readouterr().err
    assert f"error: CLIP chooses between texts, but was given {texts}. Give" in error
    assert not (tmp_path / "a").exists()


def test_baselines_are_one_table(learned, small_clip, tmp_path, capsys, monkeypatch):
    names = ["text from an image, guided diffusion", "images and text, optimized latents"]
    monkeypatch.setattr("textinv.commands.edits.baselines.BASELINES", names)
    monkeypatch.setattr("textinv.commands.edits.baselines.baseline_images",
                        lambda subject, name, template, n, seed, batch: [
                            Image.new("RGB", (64, 64), (40 * names.index(name), seed, 9))] * n)
    assert run("baselines", "a {} on the moon", "--concept", learned, "-n", 2, "--steps", 1, "--seed", 3,
               "--clip", small_clip, "--out", tmp_path / "a") == 0
    out = capsys.readouterr().out
    assert f"| | textual inversion | {' | '.join(names)} |".replace("| |", "|  |") in out
    assert "| a {} on the moon |" in out and "DALLE-2: not measured, since its weights are closed" in out
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["sheet.png"]


@pytest.mark.parametrize("init", ["auto", "random", "cup/bear", ""])
def test_baselines_want_a_category_where_the_word_names_none(init, learned, small_clip, tmp_path, capsys):
    word = Concept.load(learned)
    Concept("*", word.vectors, {**word.info, "init": init}).save(learned / "concept.safetensors")
    assert run("baselines", "--concept", learned, "--clip", small_clip, "--out", tmp_path / "a") == 2
    assert "Give a --category." in capsys.readouterr().err


def test_a_mask_may_be_painted_on_a_transparent_layer(scene, learned, tmp_path):
    """White where something was painted; transparent areas are black, as in the masks of training images."""
    mask = Image.new("RGBA", (90, 70))
    mask.paste(Image.new("RGBA", (26, 26), "white"), (45, 35))
    mask.save(tmp_path / "layer.png")
    for name, path in (("a", scene[1]), ("b", tmp_path / "layer.png")):
        assert run("blend", scene[0], path, "a photo of *", "--concept", learned, "-n", 1, "--steps", 2,
                   "--keep-background", "--out", tmp_path / name) == 0
    assert np.array_equal(pixels(tmp_path / "a/000.png"), pixels(tmp_path / "b/000.png"))


def test_folders_are_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(new_folder(None, "blend")) == "edits/blend"
    (tmp_path / "edits/blend").mkdir(parents=True)
    assert str(new_folder(None, "blend")) == "edits/blend-2"
    assert new_folder(str(tmp_path / "empty"), "blend") == tmp_path / "empty"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is not a writable folder"):
        new_folder(str(tmp_path / "file/new"), "blend")


@pytest.mark.parametrize("argv, warning", [
    (["blend", "IMAGE", "MASK", "a zqzx", "-n", 1], "contains no learned word: write * where it goes"),
    (["blend", "IMAGE", "MASK", "a *", "--negative", "zqzx", "-n", 1], "reads letter by letter: zqzx"),
    (["invert", "IMAGE", "a zqzx", "--guidance", 1], "reads letter by letter: zqzx")])
def test_what_a_prompt_loses_is_said(argv, warning, scene, learned, tmp_path, capsys):
    named = {"IMAGE": scene[0], "MASK": scene[1]}
    argv = [named.get(part, part) for part in argv]
    assert run(*argv, "--concept", learned, "--steps", 1, "--out", tmp_path / "a") == 0
    assert warning in capsys.readouterr().err


def test_a_word_that_does_not_fit_is_named_by_its_file(scene, tmp_path, capsys):
    Concept("<x>", torch.ones(1, 8)).save(tmp_path / "wide.pt")
    assert run("blend", *scene, "a <x>", "--concept", tmp_path / "wide.pt", "--out", tmp_path / "a") == 2
    assert f"error: {tmp_path}/wide.pt: word '<x>' has dimension 8" in capsys.readouterr().err


@pytest.mark.parametrize("argv, message", [
    ([], "required: COMMAND"), (["paint"], "invalid choice: 'paint'"), (["blend"], "required: IMAGE"),
    (["blend", "scene.png", "mask.png", "*", "--out", "."], "--out . already exists"),
    (["blend", "nowhere.png", "mask.png", "*"], "nowhere.png: cannot be read"),
    (["blend", "scene.png", "black.png", "*"], "the mask is black"),
    (["blend", "scene.png", "small.png", "*"], "the mask is 9 x 9 pixels, but the image is 90 x 70"),
    (["blend", "scene.png", "mask.png", "*", "-n", "0"], "-n is 0"),
    (["blend", "scene.png", "mask.png", "*", "--tuned", "scene.png"], "scene.png"),
    (["blend", "scene.png", "mask.png", "*", "--tuned", "~no-one/x"], "~no-one/x: there is no such file"),
    (["invert", "scene.png", "--eta", "0.5"], "eta is 0.5, but inversion"),
    (["invert", "scene.png", "--steps", "0"], "steps is 0"),
    (["invert", "scene.png", "a", "--guidance", "nan"], "--guidance is nan. Use -1000 to 1000"),
    (["invert", "scene.png", "--refine", "-3"], "--refine is -3. Use 0 to 100"),
    (["tune", "--images", "."], "not 0. Give one as --concept"), (["tune", "--lr", "0"], "--lr is 0"),
    (["tune", "--concept", "run", "--images", "empty"], "no readable image"),
    (["compose", "*"], "required: --find"), (["bias", "*"], "required: --classes"),
    (["baselines", "a photo"], "must contain {} exactly once"), (["baselines"], "one word, not 0")])
def test_edit_refuses(argv, message, scene, learned, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Image.new("L", (90, 70)).save("black.png")
    Image.new("L", (9, 9), 255).save("small.png")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert edit.main([*argv, *(["--weights", MODEL] if argv[1:] else [])]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and message in error and "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", edit.COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        edit.main([name, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and f"usage: textinv edit {name}" in out and "example:" in out
