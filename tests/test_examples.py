"""The images under examples/ are like users' own, and are what the README next to them says; and the stage
that makes them says in one line why it cannot. None of this needs the artwork."""
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

import weights
from recipe import artwork, examples, filters, shots, vocabulary
from recipe.objects import HELD_OUT, HELD_OUT_STYLE, SEEN_STYLES, STYLES
from recipe.sizes import CONFIG
from textinv.evaluation.evaluate import EDITS
from textinv.evaluation.setups import SUITES, read_things
from textinv.images import read_images
from textinv.prompts import prompt_problems
from weights.vocabularies import read_vocabulary

ROOT = Path(__file__).parents[1] / "examples"
CAPTIONS = ROOT / "captions"
FOLDERS = sorted(path for path in ROOT.iterdir()
                 if path.is_dir() and path.name not in ("captions", "__pycache__"))
FILTERED = {f"{name}-style" for name in filters.HELD_OUT}       # a filter covers all: nothing transparent
STYLES_SHOWN = FILTERED | {f"{HELD_OUT_STYLE}-style"}
ORIENTATION = 0x0112


def opened(path):
    with Image.open(path) as image:
        image.load()
    return image


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    """A folder as `artwork.fetch` leaves it, with the same magenta blob for everything."""
    folder = tmp_path_factory.mktemp("artwork")
    sprite = Image.new("RGBA", (60, 48))
    ImageDraw.Draw(sprite).ellipse((0, 0, 59, 47), fill=(255, 0, 255))
    sprite.save(folder / "blob.png")
    for style in STYLES:
        (folder / style).mkdir()
        for code in artwork.codes(style):
            (folder / style / f"{code}.png").hardlink_to(folder / "blob.png")
    return artwork.Artwork(folder)


def test_folders():
    names = {path.name for path in FOLDERS}
    assert len(names) == 19 and STYLES_SHOWN | {"backpack-25"} < names
    assert names - STYLES_SHOWN - {"backpack-25"} == set(HELD_OUT) - {"backpack"}
    assert {path.name for path in ROOT.iterdir()} - names - {"__pycache__"} == {
        "README.md", "contact-sheet.png", "captions", "minimal.py"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_images_of_all_kinds_in_fives(folder):
    paths = sorted(folder.iterdir())
    count = 25 if folder.name == "backpack-25" else 5
    assert len(paths) == count
    for i in range(0, count, 5):                # of 25, the first five, ten, ... have all kinds
        images = {path: opened(path) for path in paths[i:i + 5]}
        for path, image in images.items():
            assert image.format == {".jpg": "JPEG", ".png": "PNG"}[path.suffix]
            assert 64 < min(image.size) and max(image.size) <= 256
            assert np.asarray(image.convert("RGB")).std() > 8
        assert {image.format for image in images.values()} == {"JPEG", "PNG"}

        turned = [image for image in images.values() if image.getexif().get(ORIENTATION, 1) != 1]
        assert [image.format for image in turned] == ["JPEG"] and turned[0].getexif()[ORIENTATION] in (6, 8)
        upright = ImageOps.exif_transpose(turned[0])
        assert upright.size == turned[0].size[::-1] == (120, 160)           # a portrait, stored sideways
        assert any(image.width > image.height for image in images.values() if image not in turned)

        cut_outs = [np.asarray(image.getchannel("A")) for image in images.values() if image.mode == "RGBA"]
        assert len(cut_outs) == (folder.name not in FILTERED)
        for alpha in cut_outs:
            assert 0.1 < (alpha == 255).mean() < 0.7 < (alpha == 0).mean() + (alpha == 255).mean()
            assert not (alpha[[0, -1]].any() or alpha[:, [0, -1]].any())    # not cut off


def test_turned_images_stand_upright():
    """All of them show scenes: sky or wall above, the ground below, so top and bottom differ more than the
    two sides do. For the stored pixels the opposite would be true. Under a filter that shows only lines, this
    cannot be told."""
    for folder in (path for path in FOLDERS if path.name != "blueprint-style"):
        for path in folder.glob("*.jpg"):
            image = opened(path)
            if image.getexif().get(ORIENTATION, 1) == 1:
                continue
            x = np.asarray(ImageOps.exif_transpose(image), float)       # y x rgb
            down = np.abs(x[:9].mean((0, 1)) - x[-9:].mean((0, 1))).sum()
            across = np.abs(x[:, :9].mean((0, 1)) - x[:, -9:].mean((0, 1))).sum()
            assert down > 1.5 * across, path


def test_both_turns_are_undone_by_exif(sprites):
    shot = next(shot for shot in shots.shots() if shot.view.turned)
    upright = examples.take(shot, sprites)
    for orientation in (6, 8):
        image = opened(io.BytesIO(examples.encode(upright, shot.view, orientation)))
        assert image.size == upright.size[::-1] and image.getexif()[ORIENTATION] == orientation
        assert np.abs(np.asarray(ImageOps.exif_transpose(image), int) - np.asarray(upright)).mean() < 4


def test_small():
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < 2.5e6


def test_readme_names_every_folder():
    rows = dict(re.findall(r"^\| `([^`]+)` \|.*?\| `([a-z]+)` \|", (ROOT / "README.md").read_text(), re.M))
    assert set(rows) == {path.name for path in FOLDERS}
    assert rows.pop(f"{HELD_OUT_STYLE}-style") in SEEN_STYLES
    assert all(rows.pop(name) in filters.NAMED for name in FILTERED)
    assert rows == {name: HELD_OUT[name.removesuffix("-25")].init for name in rows}
    assert (ROOT / "README.md").read_text() == examples.readme()


@pytest.fixture(scope="module")
def made(sprites):
    return examples.make(sprites)


def test_committed_files_are_those_of_the_recipe(sprites, made):
    names = {path.relative_to(ROOT).as_posix() for path in (*ROOT.iterdir(), *ROOT.glob("*/*"))
             if path.is_file() and path.suffix not in (".py", ".pyc") and path.parent != CAPTIONS}   # by hand
    assert set(made) == names
    for shot in shots.shots()[::5]:             # seeded: each decoded PNG equals the same shot taken again
        image = opened(io.BytesIO(made[f"{shot.folder}/{shot.name}.png"]))
        assert np.array_equal(np.asarray(image), np.asarray(examples.take(shot, sprites)))


def test_thing_is_whole_and_in_the_middle_square(sprites):
    for shot in shots.shots():
        assert examples.take(shot, sprites).size == shot.view.size
        image = examples.take(dataclasses.replace(shot, effect=""), sprites)    # before any filter
        away = np.abs(np.asarray(image.convert("RGB"), int) - (255, 0, 255)).max(-1)
        y, x = np.nonzero(away < 40)
        side, (width, height) = min(image.size), image.size
        assert len(x) > 0.12 * side * side                              # well visible, not cut off
        assert (2 * abs(x - (width - 1) / 2).max() < side - 2
                and 2 * abs(y - (height - 1) / 2).max() < side - 2)


def test_bad_input(sprites, made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(examples, "make", lambda artwork: made)

    def refused(*argv):
        assert examples.main(list(map(str, argv))) == 2
        message, = capsys.readouterr().err.splitlines()
        return message

    assert "recipe.artwork" in refused("--artwork", tmp_path / "none", "--out", tmp_path / "out")
    (tmp_path / "file").touch()
    assert "file" in refused("--artwork", sprites.folder, "--out", tmp_path / "file")
    (tmp_path / "mine" / "fox").mkdir(parents=True)
    (tmp_path / "mine" / "fox" / "my-fox.jpg").touch()
    assert "my-fox.jpg" in refused("--artwork", sprites.folder, "--out", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").rglob("*.*")] == ["my-fox.jpg"]


def test_style_folders_show_seen_things_under_a_held_out_style():
    for shot in shots.shots():
        if shot.folder in STYLES_SHOWN:
            assert shot.thing not in HELD_OUT and shot.folder == f"{shot.effect or shot.style}-style"
            assert (shot.effect in filters.HELD_OUT) == (shot.style in SEEN_STYLES)
        else:
            assert shot.thing == shot.folder.removesuffix("-25") and not shot.effect


def test_a_filter_is_as_coarse_as_in_the_small_world(sprites):
    """At half its size an image has the grid of a small one: a lighter column every eight, none between."""
    shot = next(shot for shot in shots.shots() if shot.effect == "blueprint" and shot.background == "blue")
    small = np.asarray(examples.take(shot, sprites).reduce(2), float)
    column = small[:8, :, 0].mean(axis=0)       # above the thing
    lift = [np.mean([column[x] - column[[x - 2, x + 2]].mean() for x in range(first, 62, 8)])
            for first in (8, 4)]
    assert lift[0] > 8 and abs(lift[1]) < 0.2 * lift[0]


@pytest.mark.parametrize("name", ["fox", "teapot", "mushroom"])
def test_captions_are_there_for_every_image_but_count_only_next_to_it(name, tmp_path):
    stems = {path.stem for path in (ROOT / name).iterdir()}
    assert all(image.caption is None for image in read_images(ROOT / name, 64))
    words = {}
    for kind in ("short", "long"):
        texts = {path.stem: path.read_text() for path in (CAPTIONS / f"{name}-{kind}").iterdir()}
        assert set(texts) == stems
        for text in texts.values():
            assert text.count("*") == 1 and text.count("\n") == 1 and text.endswith("\n")
            assert not set(re.findall("[a-z]+", text)) & {*HELD_OUT, HELD_OUT[name].init}
        words[kind] = {stem: len(text.split()) for stem, text in texts.items()}
        together = tmp_path / kind
        shutil.copytree(ROOT / name, together)
        for path in (CAPTIONS / f"{name}-{kind}").iterdir():
            shutil.copy(path, together)
        found = {image.path.stem: image.caption for image in read_images(together, 64)}
        assert found == {stem: text.strip() for stem, text in texts.items()}
    assert all(words["long"][stem] > words["short"][stem] + 3 for stem in stems)


def test_what_people_would_call_the_objects_fits_the_embedded_model():
    """No longer than the paper's captions, in words that it knows, with room for the prompts' own words."""
    tokenizer = weights.load("tiny", "meta").tokenizer
    things = read_things(ROOT, tuple(json.loads((CAPTIONS / "objects.json").read_text())))
    assert {thing.name: thing.init for thing in things} == {name: HELD_OUT[name.removesuffix("-25")].init
                                                            for name in (thing.name for thing in things)}
    assert {thing.name for thing in things} == {name for suite in SUITES.values() for name in suite.things}
    for thing in things:
        short, long = thing.captions["short"], thing.captions["long"]
        assert len(short.split()) <= 12 < len(long.split()) <= 30
        assert not set(re.findall("[a-z]+", short + long)) & set(HELD_OUT)
        for text in (short, long):
            assert not tokenizer.unknown_words(text), (thing.name, text)
            for template in EDITS:
                assert prompt_problems(tokenizer, template.replace("{}", text)) == []


def test_captions_fit_the_embedded_model(tmp_path):
    vocabulary.write(tmp_path / "vocab.txt")
    tokenizer = read_vocabulary(tmp_path / "vocab.txt")
    for path in CAPTIONS.rglob("*.txt"):
        assert len(tokenizer.encode(path.read_text()).ids) <= CONFIG.text.length, path
