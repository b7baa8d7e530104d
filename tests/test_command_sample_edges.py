"""sample.py where a first hour goes wrong: interrupted, mistyped, or given files that others have made."""
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import sample
import textinv
from helpers.runs import MODEL, contents, generate, pixels
from ldm import InputError, LatentDiffusion
from textinv.grids import read_recipe, save_png


@pytest.fixture
def words(tmp_path):
    """A file of two words, <a> and <b>, that the model of the tests has room for."""
    path = tmp_path / "words.safetensors"
    init, a, b = 4 * torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(0))
    textinv.concept.save_all(path, [textinv.Concept(name, v, {"init_vectors": init.tolist()})
                                    for name, v in (("<a>", a), ("<b>", b))], "native")
    return path


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt(), 130), (InputError("not finite"), 2),
                                           (OSError(28, "No space left on device", "x"), 2)])
def test_what_is_drawn_is_kept(error, status, tmp_path, monkeypatch, capsys):
    """Ctrl-C, NaN or a full disk at the third image: two are there, and named."""
    draw, left = LatentDiffusion.generate, [1, 1]

    def breaks(self, *arguments, **options):
        if not left:
            raise error
        left.pop()
        return draw(self, *arguments, **options)

    monkeypatch.setattr(LatentDiffusion, "generate", breaks)
    assert generate("a cat", "-n", 4, "--batch", 1, "--out", tmp_path / "x.png") == status
    kept = [tmp_path / f"x-00{i}.png" for i in range(2)]
    assert sorted(tmp_path.iterdir()) == kept
    assert capsys.readouterr().out.split() == [str(path) for path in kept]
    assert [read_recipe(path)["index"] for path in kept] == [0, 1]


def test_what_is_drawn_to_choose_from_is_kept(tmp_path, monkeypatch, small_clip, capsys):
    """Ctrl-C before --best could choose."""
    draw, left = LatentDiffusion.generate, [1, 1]

    def breaks(self, *arguments, **options):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return draw(self, *arguments, **options)

    monkeypatch.setattr(LatentDiffusion, "generate", breaks)
    assert generate("a cat", "-n", 4, "--batch", 1, "--best", 1, "--clip", small_clip,
                    "--out", tmp_path / "x.png") == 130
    assert sorted(tmp_path.iterdir()) == [tmp_path / f"x-00{i}.png" for i in range(2)]


def test_a_name_that_cannot_be_written_is_refused_before_anything_is_drawn(tmp_path, monkeypatch, capsys):
    def drawn(*_, **__):
        raise AssertionError

    monkeypatch.setattr(LatentDiffusion, "generate", drawn)
    (tmp_path / "file").touch()
    assert generate("a cat", "--out", tmp_path / "file/new/x.png") == 2
    assert "x.png: cannot be written" in capsys.readouterr().err
    (tmp_path / "device.png").symlink_to("/dev/null")
    assert generate("a cat", "--out", tmp_path / "device.png") == 2
    assert "device.png is a device or a pipe" in capsys.readouterr().err


def test_a_bar_shows_from_the_first_batch_on(tmp_path, capsys):
    assert generate("a cat", "-n", 1, "--out", tmp_path / "x.png") == 0
    assert "0/1 " in capsys.readouterr().err


@pytest.mark.parametrize("name, message", [
    ("x.jpg", "images are written as PNG"), ("x", "images are written as PNG"),
    ("device.png", "is a device"), ("photo.png", "was not written by this command"),
    ("edit.png", "was not written by this command")])
def test_what_is_there_is_not_destroyed(name, message, tmp_path, capsys):
    (tmp_path / "device.png").symlink_to("/dev/null")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    save_png(Image.new("RGB", (8, 8)), tmp_path / "edit.png", {"options": {}})
    before = contents(tmp_path)
    assert generate("a cat", "-n", 1, "--out", tmp_path / name) == 2
    assert message in capsys.readouterr().err
    assert contents(tmp_path) == before and (tmp_path / "device.png").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device.png", "edit.png", "photo.png"]


def test_a_single_image_of_someone_else_is_not_replaced(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "x-001.png")
    assert generate("a cat", "-n", 2, "--out", tmp_path / "x.png") == 2
    assert "x-001.png already exists" in capsys.readouterr().err
    assert generate("a cat", "-n", 1, "--out", tmp_path / "x.png") == 0
    assert generate("a cat", "-n", 1, "--out", tmp_path / "x.png") == 0, "its own image may be replaced"


def test_a_folder_gets_a_new_file(tmp_path):
    for prompt, n in (("a cat 000", 1), ("a cat", 2), ("a cat", 1)):
        assert generate(prompt, "-n", n, "--out", tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a-cat-000.png", "a-cat-2-000.png", "a-cat-2-001.png", "a-cat-2.png", "a-cat-3.png"]


def test_images_can_be_enlarged(tmp_path):
    assert generate("a cat", "-n", 2, "--scale", 3, "--out", tmp_path / "x.png") == 0
    assert generate("a cat", "-n", 1, "--out", tmp_path / "small.png") == 0
    small, large = pixels(tmp_path / "small.png"), pixels(tmp_path / "x-000.png")
    assert large.shape == (192, 192, 3) and np.array_equal(large[::3, ::3], large[2::3, 1::3])
    assert np.abs(large[::3, ::3].astype(int) - small).max() <= 1
    assert read_recipe(tmp_path / "x.png")["scale"] == 3
    assert pixels(tmp_path / "x.png").shape == (192, 2 * 192 + 2, 3)


@pytest.mark.parametrize("prompt, concept, warning", [
    ("a photo of a *", None, "'a photo of a *' contains *, which the model has not learned: give its file "
                             "with --concept"),
    ("a <dog>", None, "contains <dog>, which"),
    ("a <c>", "words", "contains no learned word: write <a> or <b>"),
    ("a cat <abc> <a>s", "words", None), ("category", "words:<a>=cat", "contains no learned word"),
    ("", None, "is empty"), ("a <a> on a <c>", "words", "contains <c>, which the model has not learned"),
    ("cat " * 100, None, "has 100 tokens, but the model reads 75: its end is cut off"),
    ("cat " * 80 + "<a>", "words", "its end, with a learned word, is cut off"),
    ("a zqzx cat", None, "has words that the model does not know and reads letter by letter: zqzx")])
def test_what_a_prompt_loses_is_said(prompt, concept, warning, words, tmp_path, capsys):
    given = [] if concept is None else ["--concept", concept.replace("words", str(words))]
    assert generate(prompt, *given, "-n", 1, "--out", tmp_path / "x.png") == 0
    error = capsys.readouterr().err
    assert warning in error if warning else "no learned word" not in error


def test_what_a_negative_prompt_loses_is_said(tmp_path, capsys):
    for negative, warning in (("", None), ("zqzx", "'zqzx' has words that the model does not know"),
                              ("a *", "contains *, which the model has not learned")):
        assert generate("a cat", "--negative", negative, "-n", 1, "--out", tmp_path / "x.png") == 0
        error = capsys.readouterr().err
        assert warning in error if warning else "warning" not in error


def test_a_word_that_drowns_prompts_is_said(tmp_path, capsys):
    start = torch.full((1, 64), 10.0)
    for factor, said in ((9, False), (11, True)):
        path = tmp_path / "word.safetensors"
        textinv.Concept("*", factor * start, {"init_vectors": start.tolist()}).save(path)
        assert generate("a *", "--concept", path, "-n", 1, "--out", tmp_path / "x.png") == 0
        assert ("word.safetensors: the word's norm is 880" in capsys.readouterr().err) == said


def test_a_flat_image_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(LatentDiffusion, "generate", lambda self, texts, **_: [Image.new("RGB", (8, 8))])
    assert generate("a cat", "-n", 1, "--out", tmp_path / "x.png") == 0
    assert "one flat color" in capsys.readouterr().err


@pytest.mark.parametrize("given, placeholders", [
    ([""], ["<a>", "<b>"]), ([":<b>"], ["<b>"]), ([":<b>=<x:y=z>"], ["<x:y=z>"]),
    ([":<a>", ":<b>=dog"], ["<a>", "dog"])])
def test_words_of_a_file_of_several(given, placeholders, words, tmp_path):
    concepts = [text for one in given for text in ("--concept", f"{words}{one}")]
    assert generate(" ".join(placeholders), *concepts, "-n", 1, "--out", tmp_path / "x.png") == 0
    assert [entry["placeholder"] for entry in read_recipe(tmp_path / "x.png")["concepts"]] == placeholders
    assert generate("--from", tmp_path / "x.png", "--out", tmp_path / "y.png") == 0
    assert np.array_equal(pixels(tmp_path / "x.png"), pixels(tmp_path / "y.png"))


@pytest.mark.parametrize("given, message", [
    ([":<c>"], "contains no word '<c>'. It contains <a>, <b>."),
    (["=<x>"], "Choose one of them with FILE:WORD=NAME"), (["", ":<A>"], "no word '<A>'"),
    ([":<a>", ":<b>=<A>"], "two words are named '<A>'. Rename one: --concept ")])
def test_words_that_are_not_there(given, message, words, tmp_path, capsys):
    concepts = [text for one in given for text in ("--concept", f"{words}{one}")]
    assert generate("a cat", *concepts, "--out", tmp_path / "x.png") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("given, same_as", [
    (["<b>=0"], ["<a>=1", "<b>=0"]), (["0", "<a>=1"], ["<b>=0"]), (["0.5"], ["<a>=0.5", "<b>=0.5"])])
def test_strength_of_one_word(given, same_as, words, tmp_path):
    for name, strengths in (("x.png", given), ("y.png", same_as)):
        options = [text for one in strengths for text in ("--strength", one)]
        assert generate("<a> <b>", "--concept", words, *options, "-n", 1, "--out", tmp_path / name) == 0
    assert np.array_equal(pixels(tmp_path / "x.png"), pixels(tmp_path / "y.png"))
    assert generate("<a> <b>", "--concept", words, "-n", 1, "--out", tmp_path / "z.png") == 0
    assert not np.array_equal(pixels(tmp_path / "x.png"), pixels(tmp_path / "z.png"))


@pytest.mark.parametrize("argv, message", [
    (["--seed", "-1"], "--seed is -1. Use 0 to"),
    (["--seed", str(2 ** 64)], "--seed is 18446744073709551616"),
    (["--eta", "2"], "--eta is 2.0. Use 0 to 1."), (["--guidance", "nan"], "--guidance is nan"),
    (["--guidance", "inf"], "--guidance is inf"), (["--strength", "nan"], "--strength is 'nan'"),
    (["--strength", "1e30"], "--strength is '1e30'"), (["--strength", "<x>=1"], "--strength is '<x>=1'"),
    (["--scale", "0"], "--scale is 0. Use 1 to 64."),
    (["--device", "meta"], "--device meta is not available"),
    (["--device", "foo"], "--device foo is not available"), (["--concept", ""], "a folder without concept."),
    (["--concept", "/dev/zero"], "not a regular file")])
def test_values_are_judged_before_anything_is_drawn(argv, message, tmp_path, capsys):
    assert generate("a cat", *argv, "--out", tmp_path / "x.png") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []


GOOD = {"prompts": ["a cat"], "n": 1, "concepts": [], "strength": 1.0, "negative": "", "seed": 0,
        "sampler": "ddim", "steps": 1, "guidance": 1.0, "eta": 0.0, "batch": 1, "weights": MODEL,
        "vocab": None, "dtype": "float32", "index": 0}


@pytest.mark.parametrize("changed", [
    {"steps": "abc"}, {"concepts": [1]}, {"concepts": {}}, {"concepts": [{"path": 1}]}, {"dtype": "foo"},
    {"dtype": "load"}, {"prompts": []}, {"prompts": "abc"}, {"prompts": [1, 2]}, {"index": 99},
    {"index": "a"}, {"index": -1}, {"n": 10 ** 9},
    {"seed": None}, {"seed": 2 ** 64}, {"batch": 0}, {"n": True}, {"strength": float("nan")},
    {"guidance": float("inf")}, {"eta": 2}, {"sampler": "x"}, {"vocab": 1}, {"weights": 1}, {"new": 1},
    {"model": 1}, {"strength": 10 ** 400},
    {"concepts": [{"path": "x", "placeholder": "*", "hash": "0", "strength": 10 ** 400}]},
    {"prompts": ["a", "b"], "n": 2, "index": None, "kept": [1]},
    {"prompts": ["a", "b"], "n": 2, "index": None, "kept": [0, 1, 2]},
    {"n": 2, "index": None, "kept": [1, 1]}])
def test_a_strangers_recipe_is_judged(changed, tmp_path, capsys):
    save_png(Image.new("RGB", (8, 8)), tmp_path / "x.png", {**GOOD, **changed})
    assert generate("--from", tmp_path / "x.png", "--out", tmp_path / "y.png") == 2
    error = capsys.readouterr().err
    assert "its recipe cannot be used" in error and error.count("\n") == 1


def test_an_image_of_another_command_is_not_repeated(tmp_path, capsys):
    save_png(Image.new("RGB", (8, 8)), tmp_path / "x.png", {"options": {}})
    assert generate("--from", tmp_path / "x.png") == 2
    assert "it is from another command or version" in capsys.readouterr().err


@pytest.mark.parametrize("text, message", [
    ("[" * 100_000, "contains no recipe"), ("{", "contains no recipe"), ("[]", "its recipe is damaged"),
    ("1" * 5000, "contains no recipe")])
def test_a_strangers_text_is_judged(text, message, tmp_path, capsys):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("textinv", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=chunks)
    assert generate("--from", tmp_path / "x.png") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_strangers_image_is_not_unpacked(tmp_path, monkeypatch, capsys):
    save_png(Image.new("RGB", (8, 8)), tmp_path / "x.png", GOOD)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
    assert generate("--from", tmp_path / "x.png") == 2
    assert "has too many pixels to be read" in capsys.readouterr().err
    assert generate("--from", tmp_path / "missing.png") == 2
    assert capsys.readouterr().err == (f"error: {tmp_path}/missing.png: no such file. Give a PNG "
                                       "written by sample.py.\n")


def test_a_strangers_prompt_may_hold_what_no_text_can(tmp_path, capsys):
    save_png(Image.new("RGB", (8, 8)), tmp_path / "x.png", {**GOOD, "prompts": ["a \ud800 cat"]})
    assert generate("--from", tmp_path / "x.png", "--out", tmp_path / "y.png") == 0


def test_a_strangers_recipe_alone_loads_no_other_model(tmp_path, capsys):
    save_png(Image.new("RGB", (8, 8)), tmp_path / "x.png", GOOD)
    arguments = ["--from", str(tmp_path / "x.png"), "--out", str(tmp_path / "y.png")]
    assert sample.main(arguments) == 2
    assert f"was made with --weights {MODEL}, which is not loaded automatically" in capsys.readouterr().err
    assert sample.main([*arguments, "--weights", MODEL]) == 0
    save_png(Image.new("RGB", (8, 8)), tmp_path / "x.png", {**GOOD, "vocab": "/etc/passwd"})
    assert sample.main([*arguments, "--weights", MODEL]) == 2
    assert "--vocab /etc/passwd, which is not loaded automatically" in capsys.readouterr().err


def test_a_prompt_in_an_ascii_locale(tmp_path):
    typed = "dög".encode().decode("ascii", "surrogateescape")           # as Python passes it on
    for prompt, name in (("a dög", "x.png"), (f"a {typed}", "y.png")):
        assert generate(prompt, "-n", 1, "--out", tmp_path / name) == 0
    assert np.array_equal(pixels(tmp_path / "x.png"), pixels(tmp_path / "y.png"))


def test_home_folders_are_found(words, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "prompts.txt").write_text("a cat\n")
    assert generate("--prompts", "~/prompts.txt", "--concept", "~/words.safetensors:<a>", "-n", 1,
                    "--out", "~/x.png") == 0
    assert read_recipe(tmp_path / "x.png")["prompts"] == ["a cat"]
