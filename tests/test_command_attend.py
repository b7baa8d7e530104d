"""textinv attend: one image with a cell for each token."""
from pathlib import Path

import pytest
from PIL import Image

from helpers.runs import MODEL
from textinv.commands import attend, main


def test_sheet_of_a_learned_word(learned, tmp_path, capsys):
    out = tmp_path / "new/sheet.png"
    argv = ["a photo of *", "--concept", str(learned), "--steps", "3", "--out", str(out)]
    assert main.main(["attend", *argv]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as one:
        width, height = one.size
    before = out.read_bytes()
    assert attend.main([*argv, "--over-steps", "3"]) == 2 and out.read_bytes() == before
    assert f"{out} already exists" in capsys.readouterr().err
    out.unlink()
    assert attend.main([*argv, "--over-steps", "3"]) == 0
    with Image.open(out) as three:
        assert three.width == width and three.height > 2.5 * height


def test_without_a_word(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert attend.main(["A dog!", "--weights", MODEL, "--steps", "1"]) == 0
    assert Path(capsys.readouterr().out.strip()) == Path("samples/a-dog-attention.png")
    assert attend.main(["A dog!", "--weights", MODEL, "--steps", "1"]) == 0
    assert Path(capsys.readouterr().out.strip()) == Path("samples/a-dog-attention-2.png"), "none is replaced"


def test_what_the_prompt_loses_is_said(learned, tmp_path, capsys):
    for prompt, warning in (("", "is empty"), ("a dog", "contains no learned word: write * where it goes"),
                            ("a zqzx *", "does not know and reads letter by letter: zqzx")):
        (tmp_path / "x.png").unlink(missing_ok=True)
        assert attend.main([prompt, "--concept", str(learned), "--steps", "1", "--out",
                            str(tmp_path / "x.png")]) == 0
        assert warning in capsys.readouterr().err


@pytest.mark.parametrize("argv, message", [
    (["*", "--out", "x.jpg"], "images are written as PNG"),
    (["*", "--concept", "nowhere"], "nowhere"),
    (["*", "--concept", "LEARNED", "--over-steps", "-1"], "--over-steps is -1"),
    (["*", "--concept", "LEARNED", "--steps", "0"], "steps is 0"),
    (["*", "--concept", "LEARNED", "--weights", "tiny"], "dimension"),
    ([], "PROMPT")])
def test_bad_input_is_one_line(argv, message, learned, tmp_path, capsys):
    out = tmp_path / "x.png"
    argv = [str(learned) if part == "LEARNED" else part for part in argv]
    assert attend.main(["--out", str(out), *argv]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ") and message in line
    assert not out.exists()
