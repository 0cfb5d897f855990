"""A digest of the rows of a `datasets.Dataset`."""

import hashlib
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_ROWS_AT_ONCE = 1000


def rows_digest(dataset: datasets.Dataset) -> str:
    """A digest of columns and values, the same wherever they lie in memory or on disk."""
    digest = hashlib.sha256()
    for table in dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        for name in table.column_names:
            digest.update(f"{name} {table.schema.field(name).type}".encode())
            column = table.column(name).combine_chunks()
            _add(digest, column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    return digest.hexdigest()


def _add(digest: Any, array: pa.Array) -> None:
    """The values alone: what lies around them in memory, and in which file, is no part of the data."""
    kind, types = array.type, pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        _add_numbers(digest, pc.fill_null(pc.list_value_length(array), -1))
        _add(digest, array.flatten())
    elif types.is_struct(kind):
        _add_numbers(digest, array.is_valid())
        for field in array.flatten():
            _add(digest, field)
    elif types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        if array.null_count:
            _add_numbers(digest, array.is_valid())
        _add_numbers(digest, array.drop_null())
    elif types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        _add_numbers(digest, pc.fill_null(pc.binary_length(array), -1))
        _add_bytes(digest, array.drop_null().cast(pa.large_binary()))
    else:
        digest.update(repr(array.to_pylist()).encode())


def _add_numbers(digest: Any, array: pa.Array) -> None:
    digest.update(np.ascontiguousarray(array.to_numpy(zero_copy_only=False)))


def _add_bytes(digest: Any, array: pa.LargeBinaryArray) -> None:
    """All values, one after the other."""
    _, offsets, values = array.buffers()
    if len(array):
        ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        # Without a buffer there is nothing in them.
        digest.update(memoryview(values)[ends[0] : ends[-1]] if ends[-1] > ends[0] else b"")
