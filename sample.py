"""Generate images with learned words: `python sample.py "a photo of a * on the beach" --concept runs/teapot`.

The same as `textinv sample`: the command is in textinv/commands/sample.py.
"""
import sys

from textinv.__main__ import start

if __name__ == "__main__":
    sys.exit(start("sample"))

from textinv.commands.sample import main as main  # noqa: E402
