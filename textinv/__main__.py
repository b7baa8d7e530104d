"""The program `textinv`, and `python -m textinv`: textinv/commands/main.py. All commands start here: Ctrl-C
while PyTorch is being imported is the end, without a traceback.
"""
from __future__ import annotations

import importlib
import signal
import sys


def start(command: str = "main") -> int:
    """Run a module of textinv.commands as a program; returns the exit status."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:            # as of jobs in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = importlib.import_module(f"textinv.commands.{command}").main
    signal.signal(signal.SIGINT, before)
    return main()


if __name__ == "__main__":
    sys.exit(start())
