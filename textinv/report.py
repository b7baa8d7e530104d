"""`python -m textinv.report`: the same as `textinv report`."""
import sys

from textinv.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
