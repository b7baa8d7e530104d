"""Learn a new word from images: `python train.py --images examples/teapot --init cup`.

The same as `textinv train`: the command is textinv/commands/train.py, the loop textinv/inversion.py.
"""
import sys

from textinv.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
