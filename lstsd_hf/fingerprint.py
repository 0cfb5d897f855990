"""Digests of a training set, which tell one that was reordered, shortened or edited."""

import copy
import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import IterableDataset

from .label_errors import LABEL_NAMES

_ROWS_AT_ONCE = 1000


def describe_dataset(dataset: Any, label_names: Sequence[str] = ()) -> dict[str, int | str | None]:
    """What identifies a training set: its length, a digest of its labels and, for `datasets.Dataset`, of its rows.

    Args:
        dataset: Map-style; anything else has neither length nor digests. One without a column or an attribute of
            labels is read item by item, from a shallow copy that may open files which workers must not inherit, and
            with Python's, numpy's and torch's random state put back afterwards; a generator of its own moves on.
        label_names: Names of the label besides the usual ones.

    Returns:
        `num_examples`, `labels_sha256` and `rows_sha256`; `None` for what there is not.
    """
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        return dict.fromkeys(("num_examples", "labels_sha256", "rows_sha256"))
    labels = _labels(dataset, (*label_names, *LABEL_NAMES))
    has_labels = labels is not None and all(label is not None for label in labels)
    return {
        "num_examples": len(dataset),
        "labels_sha256": hashlib.sha256(json.dumps(labels, default=repr).encode()).hexdigest() if has_labels else None,
        "rows_sha256": _rows_digest(dataset) if isinstance(dataset, datasets.Dataset) else None,
    }


def _labels(dataset: Any, names: Sequence[str]) -> list[Any] | None:
    if isinstance(dataset, datasets.Dataset):
        name = next((name for name in names if name in dataset.column_names), None)
        return None if name is None else dataset.with_format(None).select_columns(name)[:][name]
    for name in names:
        labels = getattr(dataset, name, None)
        if hasattr(labels, "__len__") and len(labels) == len(dataset):
            return labels.tolist() if hasattr(labels, "tolist") else [_plain(label) for label in labels]
    found, items = [], copy.copy(dataset)
    with _random_state_put_back():
        for index in range(len(dataset)):
            found.append(_label(items[index], names))
            if found[-1] is None:
                return None
    return found


def _label(example: Any, names: Sequence[str]) -> Any:
    if not isinstance(example, Mapping):
        return None
    return _plain(next((example[name] for name in names if name in example), None))


def _plain(label: Any) -> Any:
    return label.tolist() if hasattr(label, "tolist") else label


def _rows_digest(dataset: datasets.Dataset) -> str:
    digest = hashlib.sha256()
    for table in dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        for name in table.column_names:
            digest.update(f"{name} {table.schema.field(name).type}".encode())
            column = table.column(name).combine_chunks()
            _add(digest, column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    return digest.hexdigest()


def _add(digest: Any, array: pa.Array) -> None:
    """The values alone: what lies around them in memory, and in which file, is no part of the data."""
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        digest.update(pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False).tobytes())
        _add(digest, array.flatten())
    elif (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)) and array.null_count == 0:
        digest.update(array.to_numpy(zero_copy_only=False).tobytes())
    else:
        digest.update(repr(array.to_pylist()).encode())


@contextmanager
def _random_state_put_back() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    # The CPU's alone: asking for all would start every GPU.
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
