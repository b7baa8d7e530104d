"""The paper's templates, and a user's own."""
import pytest

from helpers import DATA
from ldm import InputError
from textinv.prompts import OBJECT, STYLE, read_templates


def test_templates_are_the_papers():
    """Word for word, from a copy of the paper's Appendix D."""
    lines = (DATA / "templates.txt").read_text().splitlines()
    listed = {name: [line for line in part.splitlines()[1:] if line and not line.startswith("#")]
              for name, part in zip(("object", "style"), "\n".join(lines).split("\n[")[1:], strict=True)}
    assert list(OBJECT) == listed["object"] and len(OBJECT) == 27
    assert list(STYLE) == listed["style"] and len(STYLE) == 18


def test_own_templates(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("\ufeffa statue of {}\n\n  {} in the rain  \n", encoding="utf-8")
    assert read_templates(file) == ("a statue of {}", "{} in the rain")


@pytest.mark.parametrize("content, message", [
    (b"a photo\n", "line 1: 'a photo' contains {} 0 times"), (b"a {} and {}\n", "contains {} 2 times"),
    (b"\n \n", "empty. Write one per line"),
    (b"\xff\xfe\x00", "cannot be read")])
def test_bad_templates_are_named(tmp_path, content, message):
    file = tmp_path / "templates.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_templates(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_missing_templates():
    with pytest.raises(InputError, match="cannot be read"):
        read_templates("nowhere.txt")
