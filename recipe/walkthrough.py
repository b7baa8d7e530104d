"""Runs WALKTHROUGH.md: `python -m recipe.walkthrough` executes its snippets from top to bottom in one
namespace, which regenerates its images (after a change of the embedded default, for example), and writes it
as a notebook.
"""
from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import jupytext

ROOT = Path(__file__).parents[1]
TEXT, NOTEBOOK = ROOT / "WALKTHROUGH.md", ROOT / "WALKTHROUGH.ipynb"


def snippets(text: str) -> list[str]:
    """The Python snippets of a text in Markdown, in order."""
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def shortened(snippet: str) -> str:
    """The snippet as the tests run it: `steps = 200  # tests: 10` becomes `steps = 10`."""
    return re.sub(r"^(\w+ = )\d+(\s+# tests: )(\d+)$", r"\g<1>\g<3>\g<2>\g<3>", snippet, flags=re.MULTILINE)


def run(code: list[str]) -> None:
    """Execute snippets in the current folder, where they find examples/ and write walkthrough/."""
    namespace: dict[str, object] = {"__name__": "walkthrough"}
    for number, snippet in enumerate(code, 1):
        exec(compile(snippet, f"snippet {number}", "exec"), namespace)


def notebook(text: str) -> str:
    """The text as a Jupyter notebook, without outputs. Cells are numbered, so the same text gives the same
    file."""
    book = jupytext.reads(text, fmt="md")
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(book.cells):
        cell["id"], cell["metadata"] = f"cell-{number}", {}
    return jupytext.writes(book, fmt="ipynb") + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Make the images and the notebook."""
    argparse.ArgumentParser(prog="python -m recipe.walkthrough", description=__doc__).parse_args(argv)
    text = TEXT.read_text(encoding="utf-8")
    run(snippets(text))
    NOTEBOOK.write_text(notebook(text), encoding="utf-8")


if __name__ == "__main__":
    main()
