"""The one exception for errors that the user can fix."""
from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one line that says what is wrong and what to do. Options and
    arguments are in backticks, like `lr`; the command line shows them as its own options, --lr."""


class NoVocabulary(InputError):
    """The model has no vocabulary: none was given, and the usual one is unavailable."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its type if the message is empty."""
    return str(error).strip().split("\n")[0] or type(error).__name__
