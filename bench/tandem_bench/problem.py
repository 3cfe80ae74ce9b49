"""What ends a benchmark with one sentence instead of a traceback."""


class Problem(Exception):
    """The sentence a person reads: what was expected, what was found."""
