"""Write the report of a run again, one page with all that is known about it: `textinv report runs/teapot`.

`textinv train` and `textinv evaluate` write it at their end.
"""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from textinv.commands import command
from textinv.commands.arguments import Parser
from textinv.reporting.report import write


@command
def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser("report", __doc__, example="runs/fox")
    parser.add_argument("folder", help="folder of the run")
    print(write(Path(os.path.expanduser(parser.parse_args(argv).folder))))
