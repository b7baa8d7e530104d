"""The README's image: a row for each example, of its images and its word's."""
import pytest
import torch
from PIL import Image

import textinv
from recipe import showcase


def test_a_row_for_each_example(own_model, tmp_path, monkeypatch):
    asked = []

    def invert(model, images, config):
        asked.append((images.name, config.init))
        return textinv.Concept("*", torch.zeros(1, model.words.width))

    monkeypatch.setattr(showcase.weights, "load", lambda source: own_model)
    monkeypatch.setattr(textinv, "invert", invert)
    monkeypatch.setattr(own_model, "generate", lambda prompts, **options: [
        Image.new("RGB", (own_model.image_size,) * 2) for _ in prompts])
    assert showcase.main(["fox", "teapot", "--out", str(tmp_path / "x.png")]) == 0
    assert asked == [("fox", "wolf"), ("teapot", "cup")] and not len(own_model.words)
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.width > 5 * sheet.height


@pytest.mark.parametrize("name", ["backpack", "backpack-25", "cat", "nothing"])
def test_what_has_no_five_examples_is_refused_before_anything_is_learned(name, monkeypatch, capsys):
    monkeypatch.setattr(showcase.weights, "load", None)             # not called
    assert showcase.main(["fox", name]) == 2
    error, = capsys.readouterr().err.splitlines()
    assert f"{name} has no folder of five examples. Choose from teapot, fox, " in error
