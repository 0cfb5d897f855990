"""The error for input that a person can put right."""


class InputError(ValueError):
    """Bad or missing data, model, setting or checkpoint, with the remedy in its message. Command lines show the message
    without a traceback.

    Examples:
        >>> from lstsd_hf import LSTSDConfig
        >>> LSTSDConfig(temperature=0.0)
        Traceback (most recent call last):
        lstsd_hf.errors.InputError: `temperature` must be positive, got 0.0. 1 leaves the logits unchanged.
    """
