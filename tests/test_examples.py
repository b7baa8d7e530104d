"""The images under examples/ are such as users have them, and what the README next to them says; and the
stage that makes them says in one line why it cannot. None of this needs the artwork."""
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from recipe import artwork, examples
from recipe.objects import HELD_OUT, HELD_OUT_STYLE, OBJECTS, SEEN_STYLES, STYLES

ROOT = Path(__file__).parents[1] / "examples"
FOLDERS = sorted(path for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__")
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
    for style in STYLES:
        (folder / style).mkdir()
        for thing in OBJECTS.values():
            sprite.save(folder / style / f"{thing.code}.png", compress_level=1)
    return artwork.Artwork(folder)


def test_folders():
    objects = {path.name for path in FOLDERS} - {f"{HELD_OUT_STYLE}-style"}
    assert len(objects) == len(FOLDERS) - 1 >= 8 and objects <= set(HELD_OUT)
    assert {path.name for path in ROOT.iterdir()} - {path.name for path in FOLDERS} == \
        {"README.md", "contact-sheet.png", "minimal.py"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_five_pictures_of_all_kinds(folder):
    pictures = {path: opened(path) for path in sorted(folder.iterdir())}
    assert len(pictures) == 5
    for path, image in pictures.items():
        assert image.format == {".jpg": "JPEG", ".png": "PNG"}[path.suffix]
        assert 64 < min(image.size) and max(image.size) <= 256
        assert np.asarray(image.convert("RGB")).std() > 8
    assert {image.format for image in pictures.values()} == {"JPEG", "PNG"}

    turned = [image for image in pictures.values() if image.getexif().get(ORIENTATION, 1) != 1]
    assert [image.format for image in turned] == ["JPEG"] and turned[0].getexif()[ORIENTATION] in (6, 8)
    upright = ImageOps.exif_transpose(turned[0])
    assert upright.size == turned[0].size[::-1] == (120, 160)           # a portrait, stored lying
    assert any(image.width > image.height for image in pictures.values() if image not in turned)

    cut_out, = [image for image in pictures.values() if image.mode == "RGBA"]
    alpha = np.asarray(cut_out.getchannel("A"))
    assert 0.1 < (alpha == 255).mean() < 0.7 < (alpha == 0).mean() + (alpha == 255).mean()
    assert not (alpha[[0, -1]].any() or alpha[:, [0, -1]].any())        # whole


def test_turned_pictures_stand_upright():
    """All of them show scenes: sky or wall above, the ground below, so top and bottom differ more than the
    two sides do. Of the stored pixels the contrary would be true."""
    for folder in FOLDERS:
        for path in folder.glob("*.jpg"):
            image = opened(path)
            if image.getexif().get(ORIENTATION, 1) == 1:
                continue
            x = np.asarray(ImageOps.exif_transpose(image), float)       # y x rgb
            down = np.abs(x[:9].mean((0, 1)) - x[-9:].mean((0, 1))).sum()
            across = np.abs(x[:, :9].mean((0, 1)) - x[:, -9:].mean((0, 1))).sum()
            assert down > 1.5 * across, path


def test_both_turns_are_undone_by_exif(sprites):
    shot = next(shot for shot in examples.shots() if shot.view.turned)
    upright = examples.take(shot, sprites)
    for orientation in (6, 8):
        image = opened(io.BytesIO(examples.encode(upright, shot.view, orientation)))
        assert image.size == upright.size[::-1] and image.getexif()[ORIENTATION] == orientation
        assert np.abs(np.asarray(ImageOps.exif_transpose(image), int) - np.asarray(upright)).mean() < 4


def test_small():
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < 1.5e6


def test_readme_names_every_folder():
    rows = dict(re.findall(r"^\| `([^`]+)` \|.*?\| `([a-z]+)` \|", (ROOT / "README.md").read_text(), re.M))
    assert set(rows) == {path.name for path in FOLDERS}
    style = rows.pop(f"{HELD_OUT_STYLE}-style")
    assert style in SEEN_STYLES and rows == {name: HELD_OUT[name].init for name in rows}
    assert (ROOT / "README.md").read_text() == examples.readme()


def test_committed_files_are_those_of_the_recipe(sprites):
    names = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()} - {"minimal.py"}
    first = examples.make(sprites)
    assert set(first) == names
    assert examples.make(sprites) == first


def test_thing_is_whole_and_in_the_middle_square(sprites):
    for shot in examples.shots():
        image = examples.take(shot, sprites)
        assert image.size == shot.view.size
        away = np.abs(np.asarray(image.convert("RGB"), int) - (255, 0, 255)).max(-1)
        y, x = np.nonzero(away < 40)
        side, (width, height) = min(image.size), image.size
        assert len(x) > 0.12 * side * side                              # well visible, not cut off
        assert (2 * abs(x - (width - 1) / 2).max() < side - 2
                and 2 * abs(y - (height - 1) / 2).max() < side - 2)


def test_bad_input(sprites, tmp_path, capsys):
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
