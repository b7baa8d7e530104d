"""Edit images with learned words: `textinv edit COMMAND ...`."""
from __future__ import annotations

import sys
from collections.abc import Sequence

from textinv.commands import command
from textinv.commands.arguments import Parser
from textinv.commands.edits import baselines, bias, blend, compose, invert, tune

COMMANDS = {"blend": (blend.main, "paint a word into part of an image"),
            "invert": (invert.main, "edit an image by inverting it to noise"),
            "tune": (tune.main, "tune the model around a word"),
            "compose": (compose.main, "use several words in one prompt, and count how often each appears"),
            "bias": (bias.main, "count what a word's images show"),
            "baselines": (baselines.main, "compare a word with other methods")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `textinv edit COMMAND ...`; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return COMMANDS[argv[0]][0](argv[1:]) if argv and argv[0] in COMMANDS else usage(argv)


@command
def usage(argv: Sequence[str] | None = None) -> None:
    """Handle --help. Raises InputError on anything else."""
    listed = "\n".join(f"  {name:10s}{line}" for name, (_, line) in COMMANDS.items())
    parser = Parser("edit", __doc__, example="blend --help", epilog=f"commands:\n{listed}\n\n`textinv edit "
                    "COMMAND --help` lists a command's options.\n\n")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS),
                        help="one of the commands below")
    parser.parse_args(argv)
