"""The one exception for errors that the user can fix."""
from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one line that says what is wrong and what to do. It names options and
    arguments in backticks, as `lr`; a command line shows these as its own, --lr."""


class NoVocabulary(InputError):
    """The model has no vocabulary: none was named, and the usual one is not to be had."""


def first_line(error: Exception) -> str:
    """What an exception says, on one line; the name of its kind if it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__
