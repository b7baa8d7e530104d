"""Learn a new word from images: `python train.py --images examples/teapot --init cup`.

The same as `textinv train`: the command is textinv/commands/train.py, the loop textinv/inversion.py.
"""
import signal
import sys

if __name__ == "__main__":              # Ctrl-C while PyTorch is being imported: the end, without a traceback
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)

from textinv.commands.train import main  # noqa: E402

if __name__ == "__main__":
    signal.signal(signal.SIGINT, before)
    sys.exit(main())
