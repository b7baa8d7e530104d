"""Generate images with learned words: `python sample.py "a photo of a * on the beach" --concept runs/teapot`.

The same as `textinv sample`: the command is textinv/commands/sample.py.
"""
import signal
import sys

if __name__ == "__main__":              # Ctrl-C while PyTorch is being imported: the end, without a traceback
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)

from textinv.commands.sample import main  # noqa: E402

if __name__ == "__main__":
    signal.signal(signal.SIGINT, before)
    sys.exit(main())
