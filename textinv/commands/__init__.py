"""The command line: one file per command, all of them also subcommands of the `textinv` program."""
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

UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)   # output cannot be written


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[..., int]:
    """Decorate the main function of a command. The wrapper returns the exit status: 0 on success; 2, after
    printing one line, on an InputError, when memory runs out, or when a file cannot be read or written; and,
    as in a shell, 130 when the user interrupts it and 141 when nobody reads its output anymore, as after
    `| head`."""
    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> int:
        for stream in (sys.stdout, sys.stderr):         # escape what the locale's encoding lacks
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
            if not name and error.errno in UNWRITTEN:       # an error on a file names it
                _discard_output()
                name = "standard output: "
            return _report(f"{name}{error.strerror or error}. Check the name and the free space.")
        except (MemoryError, RuntimeError) as error:        # torch's have no type of their own
            if not isinstance(error, MemoryError) and not re.search("out of memory|t allocate", str(error)):
                raise
            return _report("out of memory. Use a smaller --batch, or --dtype bfloat16.")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        return 0
    return wrapper


def _report(message: str, *, own: bool = False) -> int:
    """Print an error; returns the exit status. own: only this process has the error, the others do not."""
    if own or speaks():
        print(f"error: {one_line(message)}", file=sys.stderr)
    return 2


def _discard_output() -> None:
    """Discard the rest of standard output, which Python would flush at exit, failing once more."""
    with contextlib.suppress(OSError, ValueError):      # not backed by a file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dashed(message: str) -> str:
    """Rewrite the options named in a library message, such as `lr`, as the command line spells them: --lr."""
    return re.sub(r"`(\w+)`", lambda match: ("-" if len(match[1]) == 1 else "--")
                  + match[1].replace("_", "-"), message)
