"""The command line of the benchmarks: `python -m bench sample --help`."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench import attention, audit, load, memory, observer, play, resume, sample, train, words
from textinv.commands import command

COMMANDS = {"sample": sample, "load": load, "train": train, "attention": attention, "audit": audit,
            "memory": memory, "observer": observer, "play": play, "resume": resume, "words": words}


@command
def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench",
                                     description="Benchmarks, next to diffusers where installed.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0],
                                                 description=module.__doc__))
    args = parser.parse_args(argv)
    COMMANDS[args.command].main(args)


if __name__ == "__main__":
    sys.exit(main())
