"""`python -m textinv.evaluate`: the same as `textinv evaluate`."""
import sys

from textinv.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
