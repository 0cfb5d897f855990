"""Digests of a training set, which tell one that was reordered, shortened or edited."""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from .label_errors import LABEL_NAMES

_ROWS_AT_ONCE = 1000


def describe_dataset(dataset: Any) -> dict[str, int | str | None]:
    """What identifies a training set: its length, a digest of its labels and, for `datasets.Dataset`, of its rows.

    Args:
        dataset: Map-style; anything else has neither length nor digests. One whose items draw random numbers is read
            with Python's, numpy's and torch's generators put back afterwards; a generator of its own moves on.

    Returns:
        `num_examples`, `labels_sha256` and `rows_sha256`; `None` for what there is not.
    """
    if not hasattr(dataset, "__len__"):
        return dict.fromkeys(("num_examples", "labels_sha256", "rows_sha256"))
    is_table = isinstance(dataset, datasets.Dataset)
    return {
        "num_examples": len(dataset),
        "labels_sha256": _labels_digest(dataset),
        "rows_sha256": _rows_digest(dataset) if is_table else None,
    }


def _labels_digest(dataset: Any) -> str | None:
    if isinstance(dataset, datasets.Dataset):
        name = next((name for name in LABEL_NAMES if name in dataset.column_names), None)
        labels = None if name is None else dataset.with_format(None).select_columns(name)[:][name]
    else:
        with _random_state_put_back():
            labels = [_label(dataset[index]) for index in range(len(dataset))]
    if labels is None or any(label is None for label in labels):
        return None
    return hashlib.sha256(json.dumps(labels).encode()).hexdigest()


def _label(example: Any) -> Any:
    if not isinstance(example, Mapping):
        return None
    label = next((example[name] for name in LABEL_NAMES if name in example), None)
    return label.tolist() if hasattr(label, "tolist") else label


def _rows_digest(dataset: datasets.Dataset) -> str:
    digest = hashlib.sha256()
    for table in dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        # Arrow's own file format: it does not depend on how the rows lie in memory or in which file. The schema's
        # metadata would tell other versions of `datasets` apart.
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_stream(buffer, table.schema.remove_metadata()) as writer:
            writer.write_table(table.combine_chunks())
        digest.update(buffer.getvalue())
    return digest.hexdigest()


@contextmanager
def _random_state_put_back() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
