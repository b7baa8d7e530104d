"""`python -m textinv.evaluate`: the same as `textinv evaluate`."""
import sys

from textinv.__main__ import start

if __name__ == "__main__":
    sys.exit(start("evaluate"))
