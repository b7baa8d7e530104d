"""Textual Inversion: learn a new word from a few images, and use it in any prompt."""
from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import textinv
from ldm import InputError
from textinv.commands import attend, audit, command, concept, edit, evaluate, play, report, sample, train
from textinv.commands.arguments import Parser

ROOT = Path(textinv.__file__).parents[1]


def bench(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks, which exist only in a source checkout."""
    if not ((ROOT / "bench/__main__.py").is_file() and (ROOT / "setup.cfg").is_file()):
        return _no_bench()
    sys.path.insert(0, str(ROOT))
    return importlib.import_module("bench.__main__").main(argv)


@command
def _no_bench(argv: Sequence[str] | None = None) -> None:
    raise InputError("the benchmarks are not in the installed package. Get the project's source, run "
                     "pip install -e '.[bench]' there, then rerun textinv bench.")


COMMANDS: dict[str, tuple[Callable[..., int], str]] = {
    "train": (train.main, "learn a new word from images"),
    "sample": (sample.main, "generate images with learned words"),
    "edit": (edit.main, "edit images with learned words, or tune the model around one"),
    "evaluate": (evaluate.main, "measure how good a word is, or reproduce the paper's figures"),
    "concept": (concept.main, "show, merge and export learned words"),
    "report": (report.main, "regenerate a run's report"),
    "attend": (attend.main, "show where each token of a prompt attends"),
    "audit": (audit.main, "explain one training step stage by stage, and check every claim"),
    "play": (play.main, "open a local page to learn words and use them"),
    "bench": (bench, "benchmark this project against diffusers (needs a source checkout)")}
MAP = """`textinv COMMAND --help` lists a command's options, with an example. A first hour:
  textinv train --images examples/fox --init wolf               learn a word; `*` stands for it
  textinv sample "a * on the beach" --concept runs/fox          use it
  open runs/fox/report.html                                     see how it was learned
  textinv evaluate --concept runs/fox --baseline                measure it against its init word
  textinv evaluate --suite figure10 --quick                     the paper's comparison, in ten minutes
  textinv concept --vocabulary                                  the words that the small model knows
Trouble? README.md has a section of that name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `textinv COMMAND ...`; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return COMMANDS[argv[0]][0](argv[1:]) if argv and argv[0] in COMMANDS else usage(argv)


@command
def usage(argv: Sequence[str] | None = None) -> None:
    """Handle --help and --version. Raises InputError on anything else."""
    listed = "\n".join(f"  {name:10s}{line}" for name, (_, line) in COMMANDS.items())
    parser = Parser("", __doc__, example="train --images examples/fox --init wolf",
                    epilog=f"commands:\n{listed}\n\n{MAP}\n\n")
    parser.add_argument("--version", action="version", version=f"textinv {textinv.__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS),
                        help="one of the commands below")
    parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
