"""Contact sheets: every image and sprite is on them, where its name says."""
import numpy as np
import pytest
from PIL import Image

from ldm import InputError
from recipe import sheets
from recipe.objects import NAMELESS, OBJECTS, STYLES


def plain(color, size=(64, 64), mode="RGB"):
    return Image.new(mode, size, color)


def test_a_contact_sheet_shows_images_in_rows_of_a_dozen():
    images = [(np.full((64, 64, 3), (i, 200 - i, 50), np.uint8), f"a photo of a cat {i}")
                for i in range(14)]
    sheet = np.asarray(sheets.contact_sheet(images))
    assert sheet.shape == (2 * 192, 12 * 136, 3)
    for i in range(14):
        y, x = i // 12 * 192 + 4, i % 12 * 136 + 4
        assert (sheet[y:y + 128, x:x + 128] == (i, 200 - i, 50)).all()
        assert (sheet[y + 128:y + 188, x:x + 128] < 128).any()          # its caption


def test_the_catalog_holds_every_sprite(blobs, monkeypatch):
    monkeypatch.setattr(sheets, "OBJECTS", {name: OBJECTS[name] for name in ("cat", "car", "fox")})
    monkeypatch.setattr(sheets, "NAMELESS", NAMELESS[:2])
    asked = []
    own = blobs.sprite
    monkeypatch.setattr(blobs, "sprite", lambda style, name: asked.append((style, name)) or own(style, name))
    sheet = np.asarray(sheets.catalog(blobs, columns=3))
    assert sheet.shape == (2 * 74, 3 * (len(STYLES) * 56 + 16), 3)
    assert len(asked) == len(set(asked)) == 3 * 4 + 2 * 3       # the held-out artwork has no nameless ones
    for column, color in ((0, (255, 0, 255)), (1, (0, 255, 255))):
        cell = sheet[:74, column * 240:(column + 1) * 240]
        assert (cell == color).all(-1).sum() > 4 * 1000                 # in all four artworks


def test_folders_stand_in_pairs_with_room_for_all_of_their_images():
    colors = [(10 * i, 250 - 9 * i, 120) for i in range(26)]
    folders = {"five": [plain(color) for color in colors[:5]], "cut": [plain((255, 0, 0, 0), mode="RGBA")],
               "many": [plain(color, (64, 48)) for color in colors[5:17]], "few": [plain(colors[17])],
               "last": [plain(colors[18])]}
    sheet = np.asarray(sheets.by_folder(folders, columns=5, cell=40))
    heights = [26 + 40, 26 + 3 * 40, 26 + 40]   # twelve images need three lines
    assert sheet.shape == (sum(heights) + 10, 2 * 220 + 10, 3)
    found = {color: np.argwhere((sheet == color).all(-1)) for color in colors[:19]}
    assert all(len(places) > 20 * 20 for places in found.values())
    for color in colors[5:17]:
        (y0, _), (y1, x1) = found[color].min(0), found[color].max(0)
        assert 66 <= y0 and y1 < 66 + 146 and x1 < 220
    assert found[colors[18]].min(0)[0] > 66 + 146
    assert not (sheet == (255, 0, 0)).all(-1).any()                     # transparent: checkers


def test_saving_fails_in_one_line(tmp_path, capsys):
    sheets.save(plain("red"), tmp_path / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with pytest.raises(InputError, match="cannot be written"):
        sheets.save(plain("red"), tmp_path / "sheet.png" / "other.png")
