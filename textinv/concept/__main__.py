"""`python -m textinv.concept`: the same as `textinv concept`."""
import sys

from textinv.__main__ import start

if __name__ == "__main__":
    sys.exit(start("concept"))
