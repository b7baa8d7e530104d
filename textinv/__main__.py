"""Entry point of `textinv` and `python -m textinv`, which run textinv/commands/main.py. All commands start
here, so that Ctrl-C exits without a traceback while PyTorch is being imported.
"""
from __future__ import annotations

import importlib
import signal
import sys


def start(command: str = "main") -> int:
    """Run a module of textinv.commands as a program and return the exit status."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:            # background jobs ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = importlib.import_module(f"textinv.commands.{command}").main
    signal.signal(signal.SIGINT, before)
    return main()


if __name__ == "__main__":
    sys.exit(start())
