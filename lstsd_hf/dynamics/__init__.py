"""Training dynamics: what the model said of each training example in each epoch, and what follows from it."""

import importlib

_LOCATIONS = {
    "DynamicsRecorder": "recorder",
    "History": "history",
    "InSampleWarning": "history",
    "cross_validate": "cross_validation",
    "drop_suspects": "cleaning",
    "relabel": "cleaning",
    "statistics": "measures",
    "suspects": "cleaning",
    "suspicion": "measures",
    "to_cleanlab": "cleaning",
}

__all__ = [*_LOCATIONS]


def __getattr__(name: str):
    # The trainer does without pyarrow and pandas.
    if name not in _LOCATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LOCATIONS[name]}", __name__), name)
