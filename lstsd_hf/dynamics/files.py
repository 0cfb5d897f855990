"""The files of a recorded run: one for each epoch, and one with the examples."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import replacing

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError(
        "Training dynamics need pyarrow and pandas, found none. Install them: pip install 'lstsd-hf[dynamics]'."
    ) from error

EXAMPLES_NAME = "examples.parquet"
FORMAT_VERSION = 1
# More labels than this are kept as the largest ones.
MOST_LABELS = 64
KEPT_LABELS = 16
_METADATA = b"lstsd_hf"


@dataclass(frozen=True)
class EpochTable:
    """What an epoch said.

    Attributes:
        log_probs: Log-probabilities `(num_examples, num_labels)`, NaN where the epoch did not see an example.
        given: Given labels, int64 `(num_examples,)`, -1 where unknown.
        out_of_sample: Whether a model said it that did not train on these examples.
    """

    log_probs: np.ndarray
    given: np.ndarray
    out_of_sample: bool = False


def epoch_path(folder: Path, epoch: int) -> Path:
    """The file of an epoch.

    Args:
        folder: The folder of the recorded run.
        epoch: Index of the epoch (from 0); the files are numbered from 1.
    """
    return folder / f"epoch-{epoch + 1:04d}.parquet"


def epoch_paths(folder: Path) -> list[Path]:
    """The files of all epochs, in order."""
    return sorted(folder.glob("epoch-[0-9]*.parquet"))


def write_epoch(path: Path, table: EpochTable) -> None:
    """Writes the examples that an epoch saw, log-probabilities in half precision.

    Args:
        path: The file; its folder must exist.
        table: The epoch.
    """
    seen = np.flatnonzero(~np.isnan(table.log_probs[:, 0]))
    log_probs, given = table.log_probs[seen], table.given[seen]
    num_labels = log_probs.shape[1]
    columns = {"index": pa.array(seen.astype(np.int32)), "given": pa.array(given.astype(np.int32))}
    if num_labels <= MOST_LABELS:
        columns["log_probs"] = _fixed_lists(log_probs.astype(np.float16))
    else:
        kept = np.argpartition(-log_probs, KEPT_LABELS, axis=1)[:, :KEPT_LABELS]
        columns["labels"] = _fixed_lists(kept.astype(np.int32))
        columns["log_probs"] = _fixed_lists(np.take_along_axis(log_probs, kept, axis=1).astype(np.float16))
        own = log_probs[np.arange(len(given)), np.maximum(given, 0)]
        columns["given_log_prob"] = pa.array(own.astype(np.float16))
    shape = {"format_version": FORMAT_VERSION, "num_examples": len(table.log_probs), "num_labels": num_labels}
    shape |= {"out_of_sample": table.out_of_sample}
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(shape)}), temporary)


def read_epoch(path: Path) -> EpochTable:
    """Reads what `write_epoch` wrote. Of more than 64 labels, those not kept share the rest evenly.

    Args:
        path: The file.

    Raises:
        InputError: If it is not such a file, or of another version.
    """
    try:
        table = pq.read_table(path)
        shape = json.loads(table.schema.metadata[_METADATA])
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} must be an epoch of recorded dynamics, and cannot be read: {error}.") from error
    if shape["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"`format_version` of {path} must be {FORMAT_VERSION}, got {shape['format_version']}: another version of "
            "lstsd_hf wrote it. Read it with that version."
        )
    index, given = (table[name].to_numpy() for name in ("index", "given"))
    kept = _from_lists(table["log_probs"]).astype(np.float32)
    num_labels = shape["num_labels"]
    rows = kept
    if "labels" in table.column_names:
        labels = _from_lists(table["labels"])
        rest = np.maximum(1.0 - np.exp(kept).sum(axis=1), 1e-7) / (num_labels - kept.shape[1])
        rows = np.repeat(np.log(rest)[:, None].astype(np.float32), num_labels, axis=1)
        np.put_along_axis(rows, labels, kept, axis=1)
        known = np.flatnonzero(given >= 0)
        rows[known, given[known]] = table["given_log_prob"].to_numpy()[known]
    log_probs = np.full((shape["num_examples"], num_labels), np.nan, dtype=np.float32)
    all_given = np.full(shape["num_examples"], -1, dtype=np.int64)
    log_probs[index], all_given[index] = rows, given
    return EpochTable(log_probs, all_given, shape.get("out_of_sample", False))


def write_examples(path: Path, texts: Sequence[str | None], label_names: Sequence[str] | None) -> None:
    """Writes the texts of the training examples, in their order, and the names of the labels.

    Args:
        path: The file; its folder must exist.
        texts: A text for each example.
        label_names: Names of the labels, if known.
    """
    table = pa.table({"text": pa.array(texts, type=pa.large_string())})
    metadata = {_METADATA: json.dumps({"format_version": FORMAT_VERSION, "label_names": label_names})}
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def read_examples(path: Path) -> tuple[list[str | None], list[str] | None]:
    """Reads what `write_examples` wrote: texts and names of labels.

    Raises:
        InputError: If it is not such a file.
    """
    try:
        table = pq.read_table(path)
        metadata: dict[str, Any] = json.loads(table.schema.metadata[_METADATA])
        return table["text"].to_pylist(), metadata["label_names"]
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} must have the texts of recorded dynamics, and cannot be read: {error}.") from error


def _fixed_lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _from_lists(column: pa.ChunkedArray) -> np.ndarray:
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    return lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)
