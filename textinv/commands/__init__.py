"""The command line, one file a command, each also a command of the one program `textinv`."""
from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Sequence

from ldm import InputError
from textinv.decoding import one_line
from textinv.images import speaks
from textinv.running.processes import ProcessDied

UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)   # of what takes no more text


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[..., int]:
    """Decorate the main function of a command line. What it returns is the exit status: 0; 2 after an
    InputError, where memory runs out, or a file cannot be read or written, of which one line is printed; as
    in a shell, 130 where the user interrupted it, and 141 where nobody reads its output any more, as after
    `| head`."""
    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> int:
        for stream in (sys.stdout, sys.stderr):         # whatever the locale's encoding lacks
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            main(argv)
            sys.stdout.flush()
        except InputError as error:
            return _report(dashed(str(error)), own=isinstance(error, ProcessDied))
        except BrokenPipeError:
            _discard_output()
            return 141
        except OSError as error:
            name = f"{error.filename}: " if error.filename is not None else ""
            if not name and error.errno in UNWRITTEN:       # files that are written are named
                _discard_output()
                name = "standard output: "
            return _report(f"{name}{error.strerror or error}. Check the name and the free space.")
        except (MemoryError, RuntimeError) as error:        # torch has several, of no type of their own
            if not isinstance(error, MemoryError) and not re.search("out of memory|t allocate", str(error)):
                raise
            return _report("memory has run out. Use a smaller --batch, or --dtype bfloat16.")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        return 0
    return wrapper


def _report(message: str, *, own: bool = False) -> int:
    """Print an error; own: that of this process, and not one that others find as well. The exit status."""
    if own or speaks():
        print(f"error: {one_line(message)}", file=sys.stderr)
    return 2


def _discard_output() -> None:
    """Python writes what is left of standard output at its end, which would fail once more."""
    with contextlib.suppress(OSError, ValueError):      # not a stream of the system
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dashed(message: str) -> str:
    """A message of the library with the options that it names, as `lr`, as the command line writes them:
    --lr."""
    return re.sub(r"`(\w+)`", lambda match: ("-" if len(match[1]) == 1 else "--")
                  + match[1].replace("_", "-"), message)
