"""The house rules that no linter checks: short functions and files, few positional arguments, documented and
typed public names, imports at the top, links that lead somewhere. (Layers and cycles: lint-imports; style and
types: ruff and pyright.)"""
import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from helpers import ROOT

FILES = sorted(path for folder in ("ldm", "weights", "textinv") for path in (ROOT / folder).rglob("*.py"))
FILES += [ROOT / "train.py", ROOT / "sample.py", ROOT / "examples/minimal.py"]
DOCUMENTED = [*FILES, *sorted((ROOT / "bench").rglob("*.py"))]
# imported where they are used: not installed with the core, or, for the hub's client, slow to import
OPTIONAL = {"huggingface_hub", "pillow_heif", "torch.utils.tensorboard", "transformers"}
# called with a list of equals, the symbols of a formula, or the cells of a row
ANY_NUMBER = {"suppress", "ddim_step", "ddpm_step", "dpm_solver_step", "tell"}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path):
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_files_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250
    long = [f.name for f in functions(path) if f.end_lineno - f.lineno >= 60]
    assert long == []


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_call_has_more_than_four_positional_arguments(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    many = [ast.unparse(call) for call in ast.walk(tree) if isinstance(call, ast.Call) and len(call.args) > 4
            and getattr(call.func, "attr", getattr(call.func, "id", "")) not in ANY_NUMBER]
    assert many == []


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_are_at_the_top(path):
    inner = {name for function in functions(path) for node in ast.walk(function)
             for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                          [node.module] if isinstance(node, ast.ImportFrom) else [])}
    assert {name for name in inner if name not in OPTIONAL and name.split(".")[0] not in OPTIONAL} == set()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_text_files_say_their_encoding(path):
    """Python would use the machine's default, which need not be UTF-8."""
    silent = []
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and not any(keyword.arg == "encoding" for keyword in call.keywords):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant)
                     and isinstance(arg.value, str) and set(arg.value) <= set("rwaxbt+")]
            if (name == "read_text" and not call.args or name == "write_text" and len(call.args) < 2
                    or name == "open" and any("b" not in mode for mode in modes)
                    or name == "open" and isinstance(call.func, ast.Name) and not modes):
                silent.append(ast.unparse(call))
    assert [call for call in silent if call != "Path('/proc/cpuinfo').read_text()"] == []      # ASCII


def code_lines(path):
    """The lines of a file with code on them: blanks, comments and docstrings do not count."""
    text = path.read_text(encoding="utf-8")
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
               tokenize.ENDMARKER}
    lines = {line for token in tokenize.generate_tokens(io.StringIO(text).readline)
             if token.type not in skipped for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_lines_are_counted(tmp_path):
    path = tmp_path / "some.py"
    path.write_text('"""A\nB"""\n\n# no\ndef f():\n    """C"""\n    x = """\n    D\n    """\n'
                    '    return (x,  # yes\n\n            1)\n')
    assert code_lines(path) == 1 + 3 + 2


@pytest.mark.parametrize("path", [path for folder in ("recipe", "bench")
                                  for path in sorted((ROOT / folder).glob("*.py"))], ids=named)
def test_the_upper_layers_are_short_too(path):
    assert code_lines(path) <= 250
    assert [f.name for f in functions(path) if f.end_lineno - f.lineno >= 60] == []


def test_the_main_path_is_short():
    """The model, the method's loop, one run of it, and the two scripts: what a reader has to read."""
    path = [*(ROOT / "ldm").glob("*.py"), ROOT / "textinv/inversion.py", ROOT / "textinv/running/run.py",
            ROOT / "train.py", ROOT / "sample.py"]
    assert sum(map(code_lines, path)) <= 1600


def public(node, prefix=""):
    """Classes and functions that a user of the module may call, with their dotted names."""
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


def trees():
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in DOCUMENTED}


def test_public_names_are_documented():
    """A method needs no docstring if it overrides a documented one, or if its class says it all:
    `forward`, and what a pickle may do to an inert object."""
    methods = {(cls.name, f.name) for tree in trees().values() for cls in ast.walk(tree)
               if isinstance(cls, ast.ClassDef) for f in cls.body
               if isinstance(f, ast.FunctionDef) and ast.get_docstring(f)}
    bases = {cls.name: {base.id for base in cls.bases if isinstance(base, ast.Name)}
             for tree in trees().values() for cls in ast.walk(tree) if isinstance(cls, ast.ClassDef)}
    silent = []
    for path, tree in trees().items():
        assert ast.get_docstring(tree), path
        for name, node in public(tree):
            cls, _, method = name.rpartition(".")
            inherited = any((base, method) in methods for base in bases.get(cls, ()))
            if not (ast.get_docstring(node) or inherited or method == "forward" or cls == "Inert"):
                silent.append(f"{named(path)}: {name}")
    assert silent == []


@pytest.mark.parametrize("path", DOCUMENTED, ids=named)
def test_public_signatures_are_typed(path):
    """All except what a pickle may do to an inert object."""
    untyped = []
    for name, node in public(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and not name.startswith("Inert."):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped += [f"{name}({arg.arg})" for arg in arguments
                        if arg.annotation is None and arg.arg not in ("self", "cls")]
            untyped += [name] * (node.returns is None)
    assert untyped == []


def test_no_test_imports_from_a_test_file():
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                       [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            assert not [name for name in modules if name.startswith(("test_", "conftest"))], path


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md", "WALKTHROUGH.md", "CONTRIBUTING.md",
                                  "weights/tiny/MODEL_CARD.md", "recipe/NOTES.md", "bench/NOTES.md"])
def test_links_within_the_repository_lead_somewhere(page):
    def anchors(text):
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
                for heading in re.findall(r"^#+ (.+)$", text, re.M)}

    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


def test_images_of_the_results_are_small():
    names = re.findall(r"!\[.*?\]\((.+?)\)", (ROOT / "RESULTS.md").read_text(encoding="utf-8"))
    assert names and sum((ROOT / name).stat().st_size for name in names) < 6e6
