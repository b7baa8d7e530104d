"""The one exception for mistakes that a user can make and mend, and how a command line shows it."""
from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence


class InputError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do."""


def first_line(error: Exception) -> str:
    """What an exception says, on one line; the name of its kind if it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[..., int]:
    """Decorates the main function of a command line. What it returns is the exit status: 0; 2 after an
    InputError, of which the one line is printed; 130, as in a shell, where the user interrupted it."""
    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> int:
        try:
            main(argv)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        return 0
    return wrapper
