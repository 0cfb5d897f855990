"""The error for input that a person can put right."""


class InputError(ValueError):
    """Bad or missing data, model, setting or checkpoint, with the remedy in its message. Command lines show the message
    without a traceback."""
