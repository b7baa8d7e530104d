"""Grids of images, and PNG files that carry their recipe."""
import numpy as np
import pytest
from PIL import Image

from ldm import InputError
from textinv.grids import bands, cells, grid, read_recipe, save_png, titled


def plain(value, size=(4, 3)):
    return Image.new("RGB", size, (value, value, value))


def test_grid_places_images_row_by_row():
    sheet = np.asarray(grid([plain(value) for value in (10, 20, 30)], columns=2))[..., 0]
    assert sheet.shape == (3 + 2 + 3, 4 + 2 + 4)
    assert (sheet[:3, :4] == 10).all() and (sheet[:3, 6:] == 20).all() and (sheet[5:, :4] == 30).all()
    assert (sheet[3:5] == 255).all() and (sheet[:, 4:6] == 255).all() and (sheet[5:, 6:] == 255).all()


def test_a_grid_is_cut_into_the_images_that_it_was_made_of():
    images = [plain(value) for value in range(6)]
    rows = bands(grid(images, columns=3), 2)
    cut = [image for row in rows for image in cells(row, 3)]
    assert [np.asarray(image).tolist() for image in cut] == [np.asarray(image).tolist() for image in images]


def test_titled_rows_keep_their_images_and_order():
    rows = {"one": [plain(10, (40, 30))], "two": [plain(20, (40, 30)), plain(30, (40, 30))]}
    sheet = titled(rows)
    first, second = bands(sheet, 2, titles=True)
    assert (np.asarray(cells(first, 2)[0]) == 10).all() and (np.asarray(cells(first, 2)[1]) == 255).all()
    assert [np.asarray(image).mean() for image in cells(second, 2)] == [20, 30]
    above = np.asarray(sheet)[:22]
    assert above.min() < 128, "the title"
    assert np.asarray(titled({"": rows["one"]}))[:22].min() == 255


def test_recipe_survives(tmp_path):
    recipe = {"prompts": ["a photo of \u2603"], "seed": 3, "vocab": None}
    save_png(plain(7), tmp_path / "new/folder/x.png", recipe)
    assert read_recipe(tmp_path / "new/folder/x.png") == recipe
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["x.png"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    save_png(plain(7), path)
    before = path.read_bytes()

    def full(self, file, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match="x.png: cannot be written .No space left"):
        save_png(plain(8), path)
    assert path.read_bytes() == before


def test_files_without_a_recipe_are_refused(tmp_path):
    save_png(plain(7), tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no image")
    save_png(plain(7), tmp_path / "list.png", [1, 2])
    for name in ("plain.png", "text.png", "list.png", "missing.png"):
        with pytest.raises(InputError, match=name):
            read_recipe(tmp_path / name)
