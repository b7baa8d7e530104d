"""`textinv edit`: each command writes what it promises, and refuses with one line."""

import importlib
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from helpers.runs import MODEL, pixels
from helpers.weight_files import edit_json
from ldm import InputError
from textinv import Concept, InversionConfig
from textinv.commands import edit, sample
from textinv.commands.edits import invert, tune
from textinv.commands.edits.shared import new_folder
from textinv.concept import find_words, save_all
from textinv.dataset import encode
from textinv.editing.ddim_inversion import Inverted
from textinv.editing.deltas import Delta
from textinv.grids import read_recipe
from textinv.images import TrainingImage, read_images


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
    command = shlex.split(out.splitlines()[-1].removeprefix("use it: "))
    assert command[:3] == ["textinv", "sample", "a photo of a *"] and str(path) in command
    assert sample.main([*command[2:], "-n", "1", "--steps", "2", "--out", str(tmp_path / "used.png")]) == 0
    for name, more in (("plain", []), ("tuned", ["--tuned", path])):
        assert run("blend", *scene, "*", "--concept", learned, "-n", 1, "--steps", 2,
                   "--out", tmp_path / name, *more) == 0
    assert not np.array_equal(pixels(tmp_path / "plain/000.png"), pixels(tmp_path / "tuned/000.png"))


@pytest.mark.parametrize("argv, prompt", [([], "a painting in the style of *"),
                                          (["--no-style"], "a photo of a *")])
def test_tune_knows_from_its_run_that_a_word_is_a_style(argv, prompt, learned, tmp_path, capsys):
    edit_json(learned / "config.json", style=True)
    assert run("tune", "--concept", learned, "--steps", 1, "--out", tmp_path / "a", *argv) == 0
    assert f"textinv sample '{prompt}' --concept" in capsys.readouterr().out


def test_tune_shows_the_runs_own_prompt(learned, tmp_path, capsys):
    (tmp_path / "own.txt").write_text("a statue of {}\n")
    edit_json(learned / "config.json", templates=str(tmp_path / "own.txt"))
    assert run("tune", "--concept", learned, "--steps", 1, "--out", tmp_path / "a") == 0
    assert "textinv sample 'a statue of *' --concept" in capsys.readouterr().out


RECORDED = {"style": False, "templates": "own.txt", "crop": "stretch", "flip": False, "alpha_mask": True}


@pytest.mark.parametrize("argv, changed", [
    ([], {}), (["--style"], {"style": True, "templates": None}), (["--no-style"], {"templates": None}),
    (["--templates", "other.txt"], {"templates": "other.txt"}), (["--flip"], {"flip": True}),
    (["--crop", "random", "--no-alpha-mask"], {"crop": "random", "alpha_mask": False})])
def test_tune_reads_images_and_prompts_as_the_words_run_did(argv, changed, learned):
    edit_json(learned / "config.json", **RECORDED)
    how = tune.reading(tune.parser().parse_args(["--concept", str(learned), *argv]),
                       Concept("<x>", torch.ones(1, 64), {"style": True}))
    assert how == InversionConfig(placeholder="<x>", **{**RECORDED, **changed})


def test_tune_learns_from_the_runs_own_dataset(learned, image_dir, tmp_path, monkeypatch):
    """With its masks, captions, crop and mirror images."""
    first = sorted(image_dir.glob("*.png"))[0]
    with Image.open(first) as image:
        mask = Image.new("L", image.size)
        mask.paste(255, (0, 0, image.width // 2, image.height))
    mask.save(first.with_name(first.stem + ".mask.png"))
    first.with_suffix(".txt").write_text("a *, seen from above")
    edit_json(learned / "config.json", **RECORDED | {"templates": None, "alpha_mask": False})
    seen = []
    monkeypatch.setattr(tune, "Tuning", lambda model, data, config: seen.append((model, data)) or Stub())
    assert run("tune", "--concept", learned, "--steps", 1, "--out", tmp_path / "a") == 0
    (model, dataset), own = seen[0], read_images(image_dir, 64, crop="stretch")
    z0 = torch.stack([encode(model, image.views[0].x)[0] for image in own])
    torch.testing.assert_close(dataset.mean, z0, rtol=1e-3, atol=1e-4)
    assert dataset.loss_weights[0].unique().tolist() == [0, 2] and (dataset.loss_weights[1:] == 1).all()
    assert len(dataset.prompts[0]) == 1 and len(dataset.prompts[1]) == 27


def test_a_renamed_word_is_found_in_its_captions(learned, image_dir, tmp_path, monkeypatch):
    for name, caption in (("0", "a *, all *"), ("1", "a <new> dog")):
        (image_dir / f"{name}.txt").write_text(caption)
    seen = []

    def check(model, dataset, config):
        captions = {tuple(ids[0].tolist()) for ids in dataset.prompts if len(ids) == 1}
        expected = model.tokenizer(["a <new>, all <new>", "a <new> dog"]).tolist()
        seen.append(captions == {*map(tuple, expected)})
        return Stub()

    monkeypatch.setattr(tune, "Tuning", check)
    assert run("tune", "--concept", f"{learned}=<new>", "--steps", 1, "--out", tmp_path / "a") == 0
    assert seen == [True]


@pytest.mark.parametrize("learned_as, name, caption, expected", [
    ("cat", "<x>", "a CAT among cats", "a <x> among cats"), ("*", "*2", "a *2 by a *", "a *2 by a *2"),
    ("cat", "cat-toy", "a cat-toy, no cat", "a cat-toy, no cat-toy"),
    ("*2", "*", "a *2 by a *", "a * by a *"),
    ("<a.b>", r"\1", "a <a.b>, no <axb>", r"a \1, no <axb>")])
def test_names_in_captions_are_whole(learned_as, name, caption, expected):
    image = TrainingImage(Path("a.png"), (), caption, "")
    assert tune.with_word(image, learned_as, name).caption == expected


def test_a_styles_file_is_tuned_as_one(learned):
    (learned / "config.json").unlink()
    options = tune.parser().parse_args(["--concept", str(learned)])
    assert tune.reading(options, Concept("<x>", torch.ones(1, 64), {"style": True})).style


def test_a_folder_with_only_the_word_is_like_its_file(learned, image_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "Tuning", lambda model, data, config: Stub())
    (tmp_path / "word").mkdir()
    shutil.copy(learned / "concept.safetensors", tmp_path / "word")
    assert run("tune", "--concept", tmp_path / "word", "--images", image_dir, "--steps", 1,
               "--out", tmp_path / "a") == 0


def test_two_words_of_one_name(learned, tmp_path, capsys):
    """What the message says to write is understood, for a file of several words and one renamed before."""
    word = Concept.load(learned)
    save_all(tmp_path / "two.safetensors", [Concept(name, word.vectors) for name in ("<a>", "<b>")],
             "native")
    argv = ["compose", "a <a>", "--find", "cat", "--among", "dog", "--out", tmp_path / "out"]
    for given, advised in ((tmp_path / "two.safetensors", f"{tmp_path}/two.safetensors:<a>"),
                           (f"{learned}=<a>", str(learned))):
        assert run(*argv, "--concept", f"{learned}=<a>", "--concept", given) == 2
        assert f"two words are named '<a>'. Rename one: --concept {advised}=NAME." in capsys.readouterr().err
        find_words(f"{advised}=NAME")


class Stub(list):
    """In place of the tuning: no steps, and no delta."""

    def delta(self):
        return Delta({}, {}, "")


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
    (["compose", "*", "--find", "кот", "--among", "a dog"], "'кот'"),
    (["compose", "*", "--find", "cat", "--among", "a dog"], "")])
def test_words_that_clip_spells_are_named(argv, words, learned, small_clip, tmp_path, capsys):
    """The small CLIP's vocabulary has Latin letters and a token for the unknown, so any text has an
    embedding."""
    assert run(*argv, "--concept", learned, "-n", 1, "--steps", 1, "--clip", small_clip,
               "--out", tmp_path / "a") == 0
    error = capsys.readouterr().err
    assert f"warning: CLIP does not know {words} and reads letters" in error if words else (
        "CLIP does not know" not in error)


SAMPLED = {"-n": 3, "--steps": 2, "--guidance": 4.5, "--seed": 7, "--batch": 2}


@pytest.mark.parametrize("name, function, argv, more", [
    ("blend", "blend", ["IMAGE", "MASK", "*", "--negative", "a dog", "--eta", 0.5, "--keep-background"],
     {"negative": "a dog", "eta": 0.5, "keep_background": True}),
    ("compose", "compose", ["*", "--find", "a cat", "--among", "a dog"], {}),
    ("bias", "distribution", ["*", "--classes", "cat", "dog"], {}),
    ("baselines", "baseline_images", ["a {}"], {})])
def test_every_option_reaches_its_function(name, function, argv, more, scene, learned, small_clip, tmp_path,
                                           monkeypatch):
    class Called(Exception):
        pass

    def fake(*given, **options):
        raise Called(options)

    module = importlib.import_module(f"textinv.commands.edits.{name}")
    monkeypatch.setattr(module, function, fake)
    named = {"IMAGE": scene[0], "MASK": scene[1]}
    argv = [name, *[named.get(part, part) for part in argv], "--concept", learned, "--out", tmp_path / "a",
            *[part for pair in SAMPLED.items() for part in pair]]
    argv += [] if name == "blend" else ["--clip", small_clip]
    with pytest.raises(Called) as called:
        run(*argv)
    expected = {"n": 3, "steps": 2, "guidance": 4.5, "seed": 7, "batch": 2, **more}
    if name == "baselines":             # they set their own steps
        expected = {option: expected[option] for option in ("n", "seed", "batch")}
    assert called.value.args[0] == expected


def test_the_options_of_an_inversion_reach_it(scene, learned, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(invert, "edit_inverted", lambda model, image, *given, **options: seen.append(
        (given, options)) or Inverted(image, image, 0.0, {3.0: [image]}))
    assert run("invert", scene[0], "a cat", "--source", "a dog", "--negative", "a car", "--guidance", 3,
               "--steps", 4, "--refine", 2, "--concept", learned, "--out", tmp_path / "a") == 0
    assert seen == [(("a dog", ["a cat"]), {"negative": "a car", "guidances": [3.0], "steps": 4, "refine": 2,
                                            "eta": 0.0})]


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


@pytest.mark.parametrize("name", ["tune", "baselines"])
def test_a_file_without_its_images(name, learned, small_clip, tmp_path, capsys):
    shutil.copy(learned / "concept.safetensors", tmp_path / "word.safetensors")
    argv = [name, "--concept", tmp_path / "word.safetensors", "--out", tmp_path / "a"]
    assert run(*argv, *["--clip", small_clip, "--category", "dog"] * (name == "baselines")) == 2
    assert "a word's file does not contain its images. Give them as --images" in capsys.readouterr().err
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
    (["invert", "IMAGE", "a zqzx", "--guidance", 1], "reads letter by letter: zqzx"),
    (["tune", "--prior", "a zqzx", "--prior-images", 1], "reads letter by letter: zqzx")])
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
    (["invert", "scene.png", "--eta", "0.5"], "--eta is 0.5, but inversion"),
    (["invert", "scene.png", "--steps", "0"], "steps is 0"),
    (["invert", "scene.png", "--guidance", "3"], "--guidance and --negative have no effect without a PROMPT"),
    (["invert", "scene.png", "--negative", "x"], "--guidance and --negative have no effect without a PROMPT"),
    (["blend", "scene.png", "mask.png", "*", "--eta", "2"], "--eta is 2.0. Use 0 (deterministic) to 1"),
    (["blend", "scene.png", "mask.png", "*", "--tuned", ""], "is not a regular file"),
    (["tune", "--prior-images", "3"], "--prior-images has no effect without --prior"),
    (["tune", "--concept", "run", "--templates", "gone.txt"], "gone.txt: cannot be read"),
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
