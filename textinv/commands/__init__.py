"""The command line, one file a command, each also a command of the one program `textinv`."""
from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence

from ldm import InputError


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[..., int]:
    """Decorate the main function of a command line. What it returns is the exit status: 0; 2 after an
    InputError, of which the one line is printed; 130, as in a shell, where the user interrupted it."""
    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> int:
        try:
            main(argv)
        except InputError as error:
            print(f"error: {dashed(str(error))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        return 0
    return wrapper


def dashed(message: str) -> str:
    """A message of the library with the options that it names, as `lr`, as the command line writes them:
    --lr."""
    return re.sub(r"`(\w+)`", lambda match: ("-" if len(match[1]) == 1 else "--")
                  + match[1].replace("_", "-"), message)
