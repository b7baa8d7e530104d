"""Mutation testing: change one expression or statement of a file at a time and see whether the tests notice.

    python tests/mutate.py textinv/inversion.py textinv/running/stopping.py --sample 20 --seed 0

Each mutant is made in a copy of the project; the tests of the file (by name, and those in RELATED) run on it
until the first failure, in a child of this process, which has imported PyTorch already. Mutants are sampled
at random, since running all of them takes hours. A survivor is a hole in the tests, or equivalent to the
original: only a reader can tell.
"""
from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import einops  # noqa: F401     # for the children, as the next lines
import pytest
import tokenizers  # noqa: F401
import torch  # noqa: F401

ROOT = Path(__file__).parents[1]
# tests that cover a file, in addition to the test of its name; for "folder/file", all of its tests
RELATED = {"attention": ("model", "reference", "inside_attention"), "autoencoder": ("model", "reference"),
           "unet": ("model", "reference"), "schedule": ("model", "samplers"),
           "model": ("reference", "inside_attention"), "samplers": ("model", "reference"),
           "config": ("model", "weights", "weights_bad_input"),
           "clip_text_encoder": ("sd_reference",), "tokenizer": ("words", "clip_tokenizer"),
           "text_encoder": ("reference", "model"),
           "filling": ("weights", "weights_bad_input"), "compvis": ("weights", "weights_sd"),
           "huggingface": ("weights", "weights_sd", "weights_bad_input"),
           "huggingface_names": ("weights", "weights_sd"), "kinds": ("weights", "weights_sd"),
           "vocabularies": ("weights", "weights_bad_input", "clip_tokenizer"),
           "hub": ("weights", "weights_sd", "weights_bad_input"),
           "weights": ("weights_sd", "tiny"), "files": ("folder", "pickles", "formats", "weights_bad_input"),
           "initialization": ("encoder", "first_hour"), "prompts": ("first_hour", "command_sample_edges"),
           "concept": ("words", "command_concept"), "images": ("first_hour",), "processes": ("commands",),
           "inversion": ("devices", "variants", "processes"), "variants": ("devices",),
           "dataset": ("devices", "run"),
           "run": ("variants", "resume_edited", "resume", "folder", "stable_diffusion"),
           "folder": ("resume_edited", "resume"), "state": ("resume_edited",), "identity": ("resume_edited",),
           "running/words": ("run", "variants", "run_options", "resume_edited", "processes"),
           "stopping": ("processes", "resume_edited"), "comparison": ("first_hour", "report"),
           "options": ("run_options", "resume_edited", "command_train", "stable_diffusion"),
           "decoding": ("images", "first_hour"), "formats": ("formats_foreign",)}
SECONDS = 900           # after which a hanging mutant counts as noticed
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
             ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Add, ast.BitOr: ast.BitAnd,
             ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
             ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
             ast.And: ast.Or, ast.Or: ast.And}


def mutations(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """(node, its replacement) for each mutant of a module."""
    for node in _walk(tree):
        if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in OPERATORS:
            yield node, _changed(node, op=OPERATORS[type(node.op)]())
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
            yield node, _changed(node, ops=[OPERATORS[type(node.ops[0])](), *node.ops[1:]])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            yield node, node.operand
        elif isinstance(node, ast.IfExp):
            yield node, _changed(node, body=node.orelse, orelse=node.body)
        elif isinstance(node, ast.If):
            yield node, _changed(node, test=ast.UnaryOp(ast.Not(), node.test))
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            yield node, ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
        elif isinstance(node, ast.Call) and node.keywords:
            yield node, _changed(node, keywords=node.keywords[1:])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, ast.Pass()
        elif isinstance(node, ast.Return) and node.value is not None:
            yield node, ast.Return(ast.Constant(None))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes except annotations and decorators, which tests need not notice."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child)


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def mutants(path: Path) -> list[tuple[str, str]]:
    """(a line that says what changed, the source) for each mutant of a file."""
    source, found = path.read_text(encoding="utf-8"), []
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, other in mutations(ast.parse(source)):
        begin, end = (starts[row - 1] + column for row, column in (
            (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)))
        text = ast.unparse(ast.fix_missing_locations(other))
        if isinstance(node, ast.stmt):
            text = text.replace("\n", "\n" + " " * node.col_offset)
        else:
            text = f"({text})"
        whole = source.encode()[:begin] + text.encode() + source.encode()[end:]
        try:
            ast.parse(whole)
        except SyntaxError:         # inside an f-string, for example
            continue
        found.append((f"{path}:{node.lineno}: {ast.unparse(node)[:60]!r} -> {text[:60]!r}", whole.decode()))
    return found


def tests_of(path: Path) -> list[str]:
    """The test files that a file's mutants are run against."""
    name = path.parent.name if path.stem == "__init__" else path.stem
    tests = [f"tests/test_{one}.py" for one in RELATED.get(f"{path.parent.name}/{name}", (
        name, *RELATED.get(name, ())))]
    if not (found := [test for test in tests if (ROOT / test).exists()]):
        raise SystemExit(f"{path}: no tests known. Add a line to RELATED.")
    return [*found, f"tests/test_house.py::test_text_files_say_their_encoding[{path.as_posix()}]"]


def noticed(copy: Path, path: Path, source: str) -> bool:
    """True if the tests of a file fail on a mutant of it, which is written into a copy of the project."""
    before = (copy / path).read_text(encoding="utf-8")
    (copy / path).write_text(source, encoding="utf-8")
    try:
        return fail(copy, tests_of(path))
    finally:
        (copy / path).write_text(before, encoding="utf-8")


def fail(copy: Path, tests: list[str], *, show: bool = False) -> bool:
    """True if tests fail or hang in a copy of the project; `show` lets them print."""
    child = os.fork()
    if child == 0:
        _run_tests(copy, tests, show)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def _run_tests(copy: Path, tests: list[str], show: bool) -> NoReturn:
    """End this process with the status of the tests, or by an alarm if they hang."""
    signal.alarm(0 if show else SECONDS)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = sys.path[0] = str(copy)
    # Python would mistake a mutant of the same size and second for the previous one
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    for stream in () if show else (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="relative to the project's root")
    parser.add_argument("--sample", type=int, default=20, help="mutants to try (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    options = parser.parse_args()
    os.chdir(ROOT)
    every = [(path, *mutant) for path in options.files for mutant in mutants(path)]
    chosen = random.Random(options.seed).sample(every, min(options.sample, len(every)))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "runs", "build", "__pycache__"))
        if fail(copy, sorted({test for path, *_ in chosen for test in tests_of(path)}), show=True):
            raise SystemExit("the tests fail without any mutant")
        killed = 0
        for path, what, source in chosen:
            killed += (dead := noticed(copy, path, source))
            print("killed  " if dead else "SURVIVED", what, flush=True)
    print(f"{killed} of {len(chosen)} sampled mutants killed ({len(every)} in all)")


if __name__ == "__main__":
    main()
