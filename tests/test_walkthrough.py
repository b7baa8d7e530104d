"""WALKTHROUGH.md cannot rot: its notebook is opened and run here, with fewer steps where the text says so."""
import re
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from recipe import walkthrough

TEXT = walkthrough.TEXT.read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]


@pytest.fixture(scope="module")
def book():
    return nbformat.reads(walkthrough.NOTEBOOK.read_text(encoding="utf-8"), as_version=4)


def test_notebook_is_the_text(book):
    nbformat.validate(book)
    assert walkthrough.NOTEBOOK.read_text(encoding="utf-8") == walkthrough.notebook(TEXT)
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    assert code == [snippet.strip() for snippet in walkthrough.snippets(TEXT)]


def test_notebook_runs(book, tmp_path, monkeypatch, capsys):
    """All of it, in a folder of its own: every image is made, every answer is accepted. Its own assertion
    says that the loop by hand gives the word of textinv.invert, bit for bit."""
    (tmp_path / "examples").symlink_to(walkthrough.ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    code = [walkthrough.shortened(cell.source) for cell in book.cells if cell.cell_type == "code"]
    assert "torch.equal(v.detach(), concept.vectors)" in "".join(code)
    walkthrough.run(code)
    shown = set(re.findall(r"\(walkthrough/(\S+)\)", TEXT))
    assert {path.name for path in Path("walkthrough").iterdir()} == shown
    for path in Path("walkthrough").glob("*.png"):
        with Image.open(path) as image:
            assert image.convert("L").getextrema()[0] < 100, f"{path} shows nothing"
    assert capsys.readouterr().out.count("correct") == TEXT.count("**Exercise ")


def test_images_are_there_and_small():
    folder = walkthrough.ROOT / "walkthrough"
    assert {path.name for path in folder.iterdir()} == set(re.findall(r"\(walkthrough/(\S+)\)", TEXT))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000


def test_every_section_has_equation_snippet_image_and_exercise():
    numbered = [section for section in SECTIONS if re.match(r"\d", section)]
    assert len(numbered) >= 9
    for section in numbered:
        title = section.splitlines()[0]
        assert section.count("$$") >= 2, title
        assert walkthrough.snippets(section), title
        assert "![" in section and "**Exercise" in section, title


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (walkthrough.ROOT / target).exists(), target


def test_snippets_can_be_pasted():
    """An empty line ends a block at the prompt of an older Python."""
    assert not [snippet for snippet in walkthrough.snippets(TEXT) if re.search(r"\n\n ", snippet)]


def test_shortened():
    assert walkthrough.shortened("steps = 200      # tests: 6\n") == "steps = 6      # tests: 6\n"
    assert walkthrough.shortened("steps = 200\n") == "steps = 200\n"
    assert sum(walkthrough.shortened(one) != one for one in walkthrough.snippets(TEXT)) == 2


def test_regenerating_writes_both(tmp_path, monkeypatch):
    """The command runs the snippets of the text and writes the notebook."""
    text = "# T\n\n```python\nfrom pathlib import Path\nPath('walkthrough.txt').write_text('ran')\n```\n"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(walkthrough, "TEXT", tmp_path / "T.md")
    monkeypatch.setattr(walkthrough, "NOTEBOOK", tmp_path / "T.ipynb")
    (tmp_path / "T.md").write_text(text)
    walkthrough.main([])
    assert Path("walkthrough.txt").read_text() == "ran"
    assert nbformat.read(tmp_path / "T.ipynb", as_version=4).cells[1].cell_type == "code"
