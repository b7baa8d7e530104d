"""`textinv`: one program for all commands, and the modules and scripts that start the same ones."""
import subprocess
import sys

import pytest

import textinv
from helpers import DATA, ROOT
from textinv.commands import main as program
from textinv.commands.main import main


def test_commands_are_passed_their_arguments(monkeypatch):
    calls = []
    monkeypatch.setitem(program.COMMANDS, "train", (lambda argv: calls.append(argv) or 7, "train"))
    assert main(["train", "--help", "-n", "3"]) == 7 and calls == [["--help", "-n", "3"]]


@pytest.mark.parametrize("argv", [["--version"], ["--help"]])
def test_questions_are_answered(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert out == f"textinv {textinv.__version__}\n" if argv == ["--version"] else all(
        f"\n  {name} " in out
        for name in ("train", "sample", "edit", "evaluate", "concept", "report", "bench"))


def test_help_is_a_map(capsys):
    """The commands in the order of a first hour, and where to look in trouble."""
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    places = [out.index(f"\n  {text}") for text in (
        "textinv train --images examples/fox --init wolf",
        'textinv sample "a * on the beach" --concept runs/fox',
        "textinv evaluate", "textinv concept --vocabulary")]
    assert places == sorted(places) and "Trouble? README.md" in out


@pytest.mark.parametrize("argv, message", [([], "required: COMMAND"), (["paint"], "invalid choice: 'paint'"),
                                           (["--color"], "required: COMMAND"),
                                           (["bench", "paint"], "invalid choice: 'paint'"),
                                           (["bench", "load", "--color"], "unrecognized arguments: --color")])
def test_anything_else_is_one_line(argv, message, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["train", "sample", "edit", "evaluate", "concept", "report", "bench"])
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "usage: " in out
    assert name == "bench" or f"example:\n  textinv {name} " in out


@pytest.mark.parametrize("start", [["-m", "textinv.evaluate"], ["-m", "textinv.report"], ["train.py"],
                                   ["sample.py"], ["-m", "textinv.commands.main"], ["-m", "textinv"]])
def test_modules_and_scripts_are_the_same_commands(start):
    done = subprocess.run([sys.executable, "-W", "error", *start], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    command = "python " if start[0].endswith(".py") else "textinv "
    assert "or try: " not in done.stderr or f"or try: {command}" in done.stderr


def test_a_module_runs_without_warnings():
    word = DATA / "compvis-tiny/embeddings_gs-5.pt"
    done = subprocess.run([sys.executable, "-W", "error", "-m", "textinv.concept", str(word)],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "" and "199   1 vector, dimension 64" in done.stdout


def test_names_are_those_of_the_package():
    """They are imported lazily, but they are there; other names are not."""
    for name in textinv.__all__:
        assert getattr(textinv, name).__module__.startswith("textinv.")
    with pytest.raises(AttributeError, match="module 'textinv' has no attribute 'nothing'"):
        textinv.nothing  # noqa: B018


def test_without_the_benchmarks_bench_says_where_they_are(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(program, "ROOT", tmp_path)
    assert main(["bench", "--help"]) == 2
    error = capsys.readouterr().err
    assert "not in the installed package. Get the project's source" in error and error.count("\n") == 1


def test_no_example_is_a_script_that_does_not_exist(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/usr/bin/textinv", "paint"])
    assert main() == 2 and "python textinv" not in capsys.readouterr().err
