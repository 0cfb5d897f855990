"""A digest of what a row of a dataset holds, the same in every process."""

import dataclasses
import datetime
import decimal
import enum
import fractions
import hashlib
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = {int, float, str, bool, type(None)}
# What the representation of tells everything.
_SHOWN = (complex, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction, enum.Enum)


def content_digest(content: Any) -> str | None:
    """SHA-256 of nested mappings, sequences, tensors, arrays, pictures, dataclasses and plain values.

    Args:
        content: What is to be told apart.

    Returns:
        The digest; `None` if something in it cannot be read, such as an object of another kind.

    Examples:
        >>> content_digest({"a": 1, "b": [2]}) == content_digest({"b": [2], "a": 1})
        True
        >>> content_digest({"a": [1]}) == content_digest({"a": (1,)})
        False
        >>> content_digest(object()) is None
        True
    """
    digest = hashlib.sha256()
    try:
        _feed(digest, content)
    except (TypeError, RuntimeError):
        # Torch raises RuntimeErrors for layouts without bytes; RecursionError, for what holds itself, is one too.
        return None
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    kind = type(value)
    if kind in _PLAIN or ((kind is list or kind is tuple) and set(map(type, value)) <= _PLAIN):
        _tell(digest, kind, repr(value).encode())
    elif isinstance(value, bytes | bytearray):
        _tell(digest, kind, value)
    elif isinstance(value, Tensor):
        # numpy has no bfloat16.
        numbers = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        _tell(digest, (kind.__name__, value.dtype, tuple(value.shape)), numbers)
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            _feed(digest, value.tolist())
        else:
            _tell(digest, (value.dtype, value.shape), np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        _feed_all(digest, "mapping", [part for pair in sorted(value.items(), key=_key) for part in pair])
    elif isinstance(value, list | tuple):
        _feed_all(digest, kind, value)
    elif isinstance(value, Set):
        _feed_all(digest, "set", sorted(value, key=repr))
    elif isinstance(value, _SHOWN):
        _tell(digest, kind, repr(value).encode())
    elif dataclasses.is_dataclass(value):
        _feed_all(digest, kind, [getattr(value, field.name) for field in dataclasses.fields(value)])
    elif hasattr(value, "tobytes"):
        _tell(digest, (kind.__name__, getattr(value, "mode", None), getattr(value, "size", None)), value.tobytes())
    else:
        raise TypeError(f"{kind.__name__} is of no kind whose content is known.")


def _feed_all(digest: Any, kind: Any, values: list[Any] | tuple[Any, ...]) -> None:
    _tell(digest, kind, str(len(values)).encode())
    for value in values:
        _feed(digest, value)


def _key(pair: tuple[Any, Any]) -> str:
    return repr(pair[0])


def _tell(digest: Any, kind: Any, content: Any) -> None:
    """The kind and the length before the content, so that no two contents run together alike."""
    digest.update(f"{kind} {len(content)} ".encode())
    digest.update(content)
