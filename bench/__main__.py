"""The command line of the benchmarks: `python -m bench sample --help`."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from bench import attention, audit, load, memory, observer, play, resume, sample, train, words
from ldm import InputError
from textinv.commands import command
from textinv.running.options import resolve_device

COMMANDS = {"sample": sample, "load": load, "train": train, "attention": attention, "audit": audit,
            "memory": memory, "observer": observer, "play": play, "resume": resume, "words": words}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(f"{message}. See {self.prog} --help.")


@command
def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(prog="python -m bench", description="Benchmarks, against diffusers where installed.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0],
                                                 description=module.__doc__))
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        if type(value) is int and value < 1 and name != "seed":
            raise InputError(f"`{name}` is {value}. Give 1 or more.")
    if "device" in args:
        args.device = resolve_device(args.device)
    COMMANDS[args.command].main(args)


if __name__ == "__main__":
    sys.exit(main())
