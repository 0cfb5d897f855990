"""A digest of the rows of a `datasets.Dataset`."""

import hashlib
from typing import Any

import datasets
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
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        digest.update(pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False).tobytes())
        _add(digest, array.flatten())
    elif (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)) and array.null_count == 0:
        digest.update(array.to_numpy(zero_copy_only=False).tobytes())
    else:
        digest.update(repr(array.to_pylist()).encode())
