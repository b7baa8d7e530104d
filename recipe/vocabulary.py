"""The WordPiece vocabulary of the small world (Devlin et al. 2018): one token per line, whose id is the
line number, from 0.

    python -m recipe.vocabulary [--out FILE]

BERT's special tokens come first; then the letters (in lower case, as text is tokenized), digits and
punctuation marks of ASCII, and letters and digits as continuations of a word, so that any English prompt can
be tokenized; then whole words: those of the captions and some common ones. The names of held-out things are
not among the words: they are split into pieces, and mean nothing until they are learned.
"""
from __future__ import annotations

import argparse
import string
import sys
from collections.abc import Sequence
from pathlib import Path

from recipe import captions
from textinv.commands import command
from weights.files import atomic_write

COMMAND = "python -m recipe.vocabulary"
OUT = Path("recipe-work/vocab.txt")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = tuple(sorted(string.ascii_lowercase + string.digits + string.punctuation))

# Words that people use in prompts but the captions do not: untrained, but each takes one token of the
# prompt instead of five.
COMMON = """
    about above across after all also am another are around as be because before behind below beside best
    better between big both but by color colour could day do down each every few first for from full get go
    had has have he her here high his how i if into is it its just last left less like little long look looks
    low made make many more most much near never new not now off old only open or other our out over own part
    people person place pretty put right same see set she show shows side sitting so some standing still such
    than that their them then there these they thing things this those three through time two us very was way
    we well were what when where which while who will without work world would you young your portrait
    illustration sculpture wearing riding flying eating wooden golden silver shiny tall short round beautiful
    happy sad street rain summer winter
""".split()


def tokens() -> list[str]:
    """The vocabulary in the order of its ids, the same each time."""
    # single letters that are words ("a", "i") are there already, as characters
    words = (captions.words() | set(COMMON)) - set(CHARACTERS)
    continuations = ["##" + character for character in CHARACTERS if character.isalnum()]
    return [*SPECIAL, *CHARACTERS, *continuations, *sorted(words)]


def write(path: Path) -> int:
    """Write vocab.txt atomically and return its number of tokens."""
    vocabulary = tokens()
    with atomic_write(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return len(vocabulary)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="output file (default: %(default)s)")
    options = parser.parse_args(argv)
    print(f"wrote {write(options.out)} tokens to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
