"""The one exception for mistakes that a user can make and mend."""


class InputError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do.
    Scripts print it and exit with 2."""
