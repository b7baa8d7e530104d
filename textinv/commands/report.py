"""Regenerate a run's report, one page with all that is known about the run: `textinv report runs/teapot`.

`textinv train` and `textinv evaluate` write it when they finish.
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
    """Run the command."""
    parser = Parser("report", __doc__, example="runs/fox")
    parser.add_argument("folder", help="folder of the run")
    print(write(Path(os.path.expanduser(parser.parse_args(argv).folder))))
