"""Digests of a training set, which tell one that was reordered, shortened or edited, and what tells models apart."""

import copy
import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset, Subset, TensorDataset
from transformers import PretrainedConfig

from .content_digest import content_digest
from .datasets_library import is_hugging_face_dataset
from .label_errors import LABEL_NAMES

# What a config says of the file that it was saved in, of the labels, and of training alone.
_NOT_OF_THE_MODEL = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
_NOT_OF_THE_MODEL |= {"id2label", "label2id", "num_labels", "problem_type"}


def model_settings(model: nn.Module) -> str:
    """What a model's config makes of its weights in evaluation mode, as JSON; empty without a config.

    Args:
        model: The model.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, PretrainedConfig):
        return ""
    settings = {
        name: value
        for name, value in config.to_diff_dict().items()
        if name not in _NOT_OF_THE_MODEL and not name.endswith("dropout") and not name.endswith("dropout_prob")
    }
    return json.dumps(settings, sort_keys=True, default=str)


def describe_dataset(dataset: Any, label_names: Sequence[str] = ()) -> dict[str, int | str | None]:
    """What identifies a training set: its length, and digests of its labels and its rows.

    Rows are read of a `datasets.Dataset`, a list, a `TensorDataset`, and a `Subset` of these, as far as
    `content_digest` can. Another dataset may have a digest of its rows as an attribute, `rows_sha256`.

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
    labels = dataset_labels(dataset, label_names)
    has_labels = labels is not None and all(label is not None for label in labels)
    return {
        "num_examples": len(dataset),
        "labels_sha256": hashlib.sha256(json.dumps(labels, default=repr).encode()).hexdigest() if has_labels else None,
        "rows_sha256": rows_digest(dataset),
    }


def dataset_labels(dataset: Any, label_names: Sequence[str] = ()) -> list[Any] | None:
    """The labels of a training set, as plain numbers or lists; `None` if there are none.

    Args:
        dataset: As in `describe_dataset`.
        label_names: Names of the label besides the usual ones.
    """
    # As Trainer's models take them: among several names `labels` goes first.
    names = sorted(label_names, key=lambda name: name != "labels")
    return dataset_column(dataset, (*names, *LABEL_NAMES))


def dataset_column(dataset: Any, names: Sequence[str]) -> list[Any] | None:
    """A column of a training set, as plain numbers or lists; `None` if an example lacks it.

    Args:
        dataset: As in `describe_dataset`.
        names: Its names; the first one that is there is taken.
    """
    if is_hugging_face_dataset(dataset):
        name = next((name for name in names if name in dataset.column_names), None)
        return None if name is None else dataset.with_format(None).select_columns(name)[:][name]
    for name in names:
        labels = getattr(dataset, name, None)
        if hasattr(labels, "__len__") and len(labels) == len(dataset):
            return [_plain(label) for label in (labels.tolist() if hasattr(labels, "tolist") else labels)]
    found, items = [], copy.copy(dataset)
    with random_state_put_back():
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


def rows_digest(dataset: Any) -> str | None:
    """A digest of a dataset's rows, where they are in memory or it has one; see `describe_dataset`."""
    if is_hugging_face_dataset(dataset):
        # pyarrow comes with datasets.
        from . import arrow_digest

        return arrow_digest.rows_digest(dataset)
    own = getattr(dataset, "rows_sha256", None)
    if isinstance(own, str):
        return own
    if isinstance(dataset, Subset):
        source = rows_digest(dataset.dataset)
        return None if source is None else content_digest([source, list(map(int, dataset.indices))])
    if isinstance(dataset, TensorDataset):
        return content_digest(list(dataset.tensors))
    # One of a subclass may be another each time that it is read.
    return digest_of_each(dataset) if type(dataset) in (list, tuple) else None


def digest_of_each(dataset: Any) -> str | None:
    """A digest of a dataset's examples, read one by one, with the random state put back afterwards.

    Returns:
        The digest, or `None` if the content of an example cannot be read.
    """
    digest = hashlib.sha256()
    with random_state_put_back():
        for row in range(len(dataset)):
            own = content_digest(dataset[row])
            if own is None:
                return None
            digest.update(own.encode())
    return digest.hexdigest()


@contextmanager
def random_state_put_back(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """After the block Python's, numpy's and torch's random states are what they were before.

    Args:
        devices: Whose, beside the CPU's; asking for all would start every GPU.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
