"""Learn a new word from images: `python train.py --images examples/teapot --init cup`.

The same as `textinv train`: the command is in textinv/commands/train.py, the loop in textinv/inversion.py.
"""
import sys

from textinv.__main__ import start

if __name__ == "__main__":
    sys.exit(start("train"))

from textinv.commands.train import main as main  # noqa: E402
