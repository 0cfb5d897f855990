"""A training set without its suspects, or with their labels changed, and a record of what was done."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..datasets_library import is_hugging_face_dataset
from ..errors import InputError
from ..label_errors import LABEL_NAMES, example_texts, select_rows
from .history import History
from .measures import estimated_label_errors, mean_probabilities, statistics, suspicion_window


def suspects(history: History, count: int | None = None) -> pd.DataFrame:
    """The training examples whose label is believed least.

    Args:
        history: The recorded run.
        count: How many; `None` is the number of wrong labels that the confident joint estimates, which may be far
            off unless the history is out of sample: look at the examples before you act on it.

    Returns:
        Rows of `statistics`, the most suspicious first.

    Raises:
        InputError: If there are fewer examples with a label.
    """
    table = statistics(history)
    table = table[table["suspicion"].notna()]
    if count is None:
        history.warn_if_in_sample("Estimated counts of label errors")
        count = estimated_label_errors(history)
    if not 0 <= count <= len(table):
        raise InputError(f"`count` must be from 0 to {len(table)}, the examples with a label, got {count}.")
    return table.sort_values("suspicion", ascending=False, kind="stable").head(count).reset_index(drop=True)


def drop_suspects(dataset: Any, history: History, count: int | None = None) -> tuple[Any, pd.DataFrame]:
    """A training set without the examples whose label is believed least.

    Args:
        dataset: The training set of the recorded run: a `datasets.Dataset` or a list of mappings. It stays as it is.
        history: The recorded run.
        count: As in `suspects`.

    Returns:
        The new dataset, and what was dropped: rows of `suspects` with a column `action`.

    Raises:
        InputError: If the dataset has another number of examples, or their texts in another order.
    """
    dropped = _checked(dataset, history, count).assign(action="dropped")
    gone = set(dropped["index"])
    kept = [row for row in range(len(dataset)) if row not in gone]
    return select_rows(dataset, kept), dropped


def relabel(
    dataset: Any, history: History, count: int | None = None, label_name: str | None = None
) -> tuple[Any, pd.DataFrame]:
    """A training set in which suspects have the label that the model believes.

    Args:
        dataset: As in `drop_suspects`.
        history: The recorded run.
        count: As in `suspects`. A suspect whose given label is believed keeps it.
        label_name: The column of the labels; `None` is the first of `label`, `labels`, `label_ids` that there is.

    Returns:
        The new dataset, and what was changed: rows of `suspects` with a column `action`.

    Raises:
        InputError: If the dataset has another number of examples, their texts in another order, or no such column, or
            if it is of another kind.
    """
    changed = _checked(dataset, history, count)
    changed = changed[changed["believed"] != changed["given"]].assign(action="relabelled").reset_index(drop=True)
    is_table = is_hugging_face_dataset(dataset)
    if hasattr(dataset, "select") and not is_table:
        raise InputError(
            f"`dataset` must be a `datasets.Dataset` or a list of mappings, got {type(dataset).__name__}. Build one "
            "with the new labels yourself: `suspects` has them as `believed`."
        )
    columns = dataset.column_names if is_table else list(dataset[0])
    names = [label_name] if label_name is not None else LABEL_NAMES
    name = next((name for name in names if name in columns), None)
    if name is None:
        raise InputError(f"The dataset must have a column {' or '.join(names)}, got {', '.join(columns)}.")
    new = dict(zip(changed["index"], changed["believed"], strict=True))
    if is_table:
        plain = dataset.with_format(None)
        labels = [int(new[row]) if row in new else label for row, label in enumerate(plain[name])]
        relabelled = plain.remove_columns(name).add_column(name, labels, feature=dataset.features[name])
        form = dict(dataset.format)
        return relabelled.with_format(**form.pop("format_kwargs"), **form), changed
    # By index: a dataset may not say where it ends.
    rows = (dataset[index] for index in range(len(dataset)))
    return [
        {**row, name: _like(row[name], new[index])} if index in new else row for index, row in enumerate(rows)
    ], changed


def _like(label: Any, value: int) -> Any:
    """A label of the same kind as another one: a number, an array or a tensor."""
    if isinstance(label, Tensor):
        return torch.full_like(label, value)
    return np.full_like(label, value) if isinstance(label, np.ndarray) else type(label)(value)


def to_cleanlab(history: History) -> dict[str, np.ndarray]:
    """The arguments that cleanlab's functions take, `cleanlab.filter.find_label_issues(**to_cleanlab(history))`.

    Args:
        history: The recorded run.

    Returns:
        `labels` and `pred_probs`: mean probabilities over the window of `suspicion`, renormalised. Those of a training
        are in-sample, which an `InSampleWarning` says.

    Raises:
        InputError: If an example has no label, or no epoch of the window saw it: cleanlab takes no gaps.
    """
    history.warn_if_in_sample("Probabilities")
    probabilities = mean_probabilities(history.epochs(*suspicion_window(history)))
    gaps = int((~history.is_labelled | np.isnan(probabilities[:, 0])).sum())
    if gaps:
        raise InputError(
            f"Every example must have a label and a prediction, got {gaps} without. Leave these out of the data."
        )
    return {"labels": history.given, "pred_probs": probabilities / probabilities.sum(axis=1, keepdims=True)}


def _checked(dataset: Any, history: History, count: int | None) -> pd.DataFrame:
    if len(dataset) != len(history.given):
        raise InputError(
            f"`dataset` must be the training set of the recorded run, with {len(history.given)} examples, got "
            f"{len(dataset)}."
        )
    if count is not None and not isinstance(count, int | np.integer):
        raise InputError(f"`count` must be a whole number of examples, or None, got {count!r}.")
    # Texts may have been recorded in another form; the same ones in another order are another order of the examples.
    texts = history.texts or []
    if None not in texts and texts != (found := example_texts(dataset)) and Counter(texts) == Counter(found):
        raise InputError(
            "`dataset` must have the examples in the order of the recorded run, got the same texts in another order. "
            "Give the dataset as it was trained on, before any shuffle."
        )
    return suspects(history, count)
