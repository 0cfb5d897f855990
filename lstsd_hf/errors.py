"""The error for input that a person can put right, and notes on others' errors."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad or missing data, model, setting or checkpoint, with the remedy in its message. Command lines show the message
    without a traceback.

    Examples:
        >>> from lstsd_hf import LSTSDConfig
        >>> LSTSDConfig(temperature=0.0)
        Traceback (most recent call last):
        lstsd_hf.errors.InputError: `temperature` must be positive, got 0.0. 1 leaves the logits unchanged.
    """


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def noting(note: str) -> Iterator[None]:
    """Adds a note to an error of another's code that may come from how it was called.

    Args:
        note: What the code was asked for, and the remedy.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, NameError) as error:
        error.add_note(note)
        raise
