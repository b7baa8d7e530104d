"""What a command line does with mistakes: one line, an exit status, no traceback."""
from __future__ import annotations

import pytest

from ldm import InputError
from textinv.commands import command


@pytest.mark.parametrize("mistake, status, line", [
    (None, 0, ""),
    (InputError("x.png: unreadable: give another"), 2, "error: x.png: unreadable: give another\n"),
    (KeyboardInterrupt(), 130, "interrupted\n")])
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


def test_command_hides_no_defect():
    @command
    def main(argv=None) -> None:
        raise ValueError("a defect of ours")

    with pytest.raises(ValueError, match="a defect of ours"):
        main()
