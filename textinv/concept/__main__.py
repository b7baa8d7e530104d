"""`python -m textinv.concept`: the same as `textinv concept`."""
import sys

from textinv.commands.concept import main

if __name__ == "__main__":
    sys.exit(main())
