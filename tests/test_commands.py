"""What a command line does with mistakes: one line, an exit status, no traceback."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from helpers import ROOT
from ldm import InputError
from textinv.commands import command

OUT_OF_MEMORY = "error: out of memory. Use a smaller --batch, or --dtype bfloat16.\n"


@pytest.mark.parametrize("mistake, status, line", [
    (None, 0, ""),
    (InputError("x.png: unreadable: give another"), 2, "error: x.png: unreadable: give another\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"), (MemoryError(), 2, OUT_OF_MEMORY),
    (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), 2, OUT_OF_MEMORY),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2, OUT_OF_MEMORY)])
def test_command_turns_mistakes_into_a_line_and_a_status(mistake, status, line, capsys):
    @command
    def main(argv=None) -> None:
        """What it is for."""
        assert argv == ["--option"]
        if mistake is not None:
            raise mistake

    assert main(["--option"]) == status
    assert capsys.readouterr() == ("", line)
    assert main.__doc__ == "What it is for."


def test_options_are_named_as_the_command_line_writes_them(capsys):
    @command
    def main(argv=None) -> None:
        raise InputError("`eval_every` is -1. Use `n` or `dtype` float32, not a `b c` d`.")

    assert main([]) == 2
    assert capsys.readouterr().err == (
        "error: --eval-every is -1. Use -n or --dtype float32, not a `b c` d`.\n")


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_command_hides_no_defect(kind):
    @command
    def main(argv=None) -> None:
        raise kind("a defect of ours")

    with pytest.raises(kind, match="a defect of ours"):
        main()


def test_a_closed_pipe_is_no_error(tmp_path):
    """`... | head -1`: what was read is there, and nothing is said about the rest."""
    done = subprocess.run(f"{sys.executable} -c 'import sys; from textinv.commands import command\n@command\n"
                          "def main(argv):\n    print(\"line\\n\" * 100000)\nsys.exit(main())' | head -1",
                          shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("line\n", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_output_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", "import sys; from textinv.commands import command\n"
                               "@command\ndef main(argv):\n    print('line')\nsys.exit(main())"],
                              cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == ("error: standard output: No space left on device. Check the name and the free "
                           "space.\n")


def test_files_that_cannot_be_are_one_line(capsys):
    @command
    def main(argv=None) -> None:
        open("x" * 300)

    assert main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {'x' * 300}: File name too long") and error.count("\n") == 1


def test_only_what_is_of_the_output_is_said_of_it(capsys):
    @command
    def main(argv=None) -> None:
        raise OSError("image file is truncated")

    assert main([]) == 2
    assert capsys.readouterr().err == (
        "error: image file is truncated. Check the name and the free space.\n")


def test_nothing_in_a_message_acts_on_the_terminal(capsys):
    @command
    def main(argv=None) -> None:
        raise InputError("a\nb\x1b[2J\udcff.jpg: unreadable")

    assert main([]) == 2
    assert capsys.readouterr().err == "error: a\\nb\\x1b[2J\\udcff.jpg: unreadable\n"


def test_what_the_locale_cannot_print_is_escaped():
    done = subprocess.run([sys.executable, "-c", "import sys; from textinv.commands import command\n"
                           "@command\ndef main(argv):\n    print('f\\udcff \\xfc')\nsys.exit(main())"],
                          env={**os.environ, "PYTHONIOENCODING": "ascii"}, cwd=ROOT, capture_output=True,
                          text=True)
    assert (done.returncode, done.stdout) == (0, "f\\udcff \\xfc\n")
