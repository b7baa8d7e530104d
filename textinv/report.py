"""`python -m textinv.report`: the same as `textinv report`."""
import sys

from textinv.__main__ import start

if __name__ == "__main__":
    sys.exit(start("report"))
