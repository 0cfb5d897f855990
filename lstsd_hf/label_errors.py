"""Which training examples are probably mislabelled, by what a memory predicts for them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from .datasets_library import is_hugging_face_dataset
from .errors import InputError

LABEL_NAMES = ("label", "labels", "label_ids")
# Types of the columns of a `datasets.Dataset` that hold text.
_TEXT_TYPES = ("string", "large_string", "string_view")


@dataclass(frozen=True)
class LabelErrorCandidate:
    """A training example and how far its label is believed.

    Attributes:
        index: Position of the example in the training set.
        given_label: The label in the training set.
        believed_label: The label with the largest predicted probability.
        given_probability: Predicted probability of the given label.
        text: The example's text columns, joined, or its decoded tokens; `None` where there are neither. Of a token it
            and its neighbours.
        token: Of a labelled token its position in the example's labels.
    """

    index: int
    given_label: int
    believed_label: int
    given_probability: float
    text: str | None
    token: int | None = None


def rank_label_errors(
    probabilities: Tensor, written: Tensor, dataset: Any, tokenizer: Any = None, label_names: Sequence[str] = ()
) -> list[LabelErrorCandidate]:
    """Orders examples by the predicted probability of their given label, the smallest first (self-confidence).

    Source: Northcutt et al., "Confident Learning", JAIR 2021, arXiv 1911.00068, Sec. 4. Predictions from training are
    not out of sample: a model that has memorised a wrong label believes it.

    Args:
        probabilities: `(num_examples, num_labels)`.
        written: Which examples have a prediction, bool `(num_examples,)`; the others are left out.
        dataset: The training set; its examples are mappings or objects with a label, which is left out where it is no
            class (-100).
        tokenizer: Decodes `input_ids` where an example has no text.
        label_names: Names of the label besides the usual ones.

    Raises:
        InputError: If an example has no label that is a class.
    """
    names = (*label_names, *LABEL_NAMES)
    found = [
        (_label_of(example, names), _text_of(example, tokenizer)) for example in _examples(dataset, names, tokenizer)
    ]
    labels = torch.tensor([label for label, _ in found])
    return [
        LabelErrorCandidate(index, int(labels[index]), believed, given, found[index][1])
        for index, believed, given in least_believed(probabilities, written, labels)
    ]


def least_believed(probabilities: Tensor, written: Tensor, labels: Tensor) -> Iterator[tuple[int, int, float]]:
    """Rows by the predicted probability of their label, the smallest first.

    Args:
        probabilities: `(num_rows, num_labels)`.
        written: Which rows have a prediction, bool `(num_rows,)`; the others are left out.
        labels: Their labels, int64 `(num_rows,)`; a row whose label is no class is left out.

    Yields:
        A row, its believed label, and the probability of the given one.
    """
    probabilities = probabilities.cpu()
    written = written.cpu() & (labels >= 0) & (labels < probabilities.size(1))
    given = probabilities.gather(1, labels.clamp(0, probabilities.size(1) - 1)[:, None]).squeeze(1)
    believed = probabilities.argmax(dim=1)
    order = torch.argsort(given, stable=True)
    for row in order[written[order]].tolist():
        yield row, int(believed[row]), float(given[row])


def example_texts(dataset: Any, tokenizer: Any = None) -> list[str | None]:
    """A text for each example: its text columns, joined, or its decoded tokens; `None` where there are neither.

    Args:
        dataset: Its examples are mappings or objects.
        tokenizer: Decodes `input_ids` where an example has no text.
    """
    return [_text_of(example, tokenizer) for example in _examples(dataset, (), tokenizer)]


def text_columns(dataset: Any) -> dict[str, list[str]]:
    """The columns of a dataset whose values are all strings.

    Args:
        dataset: Its examples are mappings or objects.
    """
    columns: dict[str, list[str]] = {}
    for position, example in enumerate(_examples(dataset)):
        names = [name for name, value in example.items() if isinstance(value, str)]
        columns = {name: columns.get(name, []) for name in names if position == 0 or name in columns}
        if not columns:
            break
        for name, values in columns.items():
            values.append(example[name])
    return columns


def example_labels(dataset: Any, names: Sequence[str] = LABEL_NAMES) -> list[int]:
    """The class of each example.

    Args:
        dataset: Its examples are mappings or objects.
        names: Of the label; the first that there is.

    Raises:
        InputError: If an example has no label that is a class.
    """
    return [_label_of(example, names) for example in _examples(dataset, names)]


def select_rows(dataset: Any, rows: Iterable[int]) -> Any:
    """Some examples of a dataset, in this order: by its own `select`, as a list, or as a `Subset`."""
    rows = [int(row) for row in rows]
    if hasattr(dataset, "select"):
        return dataset.select(rows)
    return [dataset[row] for row in rows] if isinstance(dataset, list) else Subset(dataset, rows)


def without_augmentation(dataset: Any) -> Any:
    """A dataset as it is to be predicted: without augmentation, if it has any and offers to leave it out."""
    return dataset.without_augmentation() if hasattr(dataset, "without_augmentation") else dataset


def ranking_quality(ranking: Sequence[LabelErrorCandidate], wrong: Collection[int]) -> dict[str, float] | None:
    """How well a ranking finds labels that are known to be wrong.

    Args:
        ranking: Candidates, the most suspicious first.
        wrong: Positions of the examples whose label is wrong.

    Returns:
        `roc_auc`, the probability that a wrong label stands before a right one, and `precision_at_count`, the share of
        wrong labels among the first so many as there are wrong ones; `None` for a ranking without wrong labels, or of
        nothing else.
    """
    wrong = set(wrong)
    # Only studies of known wrong labels come here: the core does without scikit-learn.
    from sklearn.metrics import roc_auc_score

    is_wrong = [candidate.index in wrong for candidate in ranking]
    count = sum(is_wrong)
    if count in (0, len(is_wrong)):
        return None
    return {
        "roc_auc": float(roc_auc_score(is_wrong, [-candidate.given_probability for candidate in ranking])),
        "precision_at_count": sum(is_wrong[:count]) / count,
    }


def _examples(dataset: Any, names: Sequence[str] = (), tokenizer: Any = None) -> Iterator[Mapping[str, Any]]:
    """The examples, as far as labels of such names and texts are concerned: pictures are not decoded for them."""
    # A transform may make other columns of those that are there.
    if is_hugging_face_dataset(dataset) and dataset.format["type"] != "custom":
        features = dataset.features
        columns = [name for name, feature in features.items() if getattr(feature, "dtype", None) in _TEXT_TYPES]
        columns += ["input_ids"] if tokenizer is not None and "input_ids" in features else []
        labels = [name for name in names if name in features]
        if not (columns or names):
            return ({} for _ in range(len(dataset)))
        if labels or not names:
            dataset = dataset.with_format(None).select_columns(list(dict.fromkeys([*labels, *columns])))
    # Iterating over a `datasets.Dataset` is much faster than indexing it.
    rows = dataset if hasattr(dataset, "column_names") else (dataset[row] for row in range(len(dataset)))
    return (row if isinstance(row, Mapping) else getattr(row, "__dict__", {}) for row in rows)


def _label_of(example: Mapping[str, Any], names: Sequence[str]) -> int:
    label = next((example[name] for name in names if name in example), None)
    try:
        number = int(label)
        if number != label:
            raise ValueError("not a whole number")
        return number
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"A training example must have a class as one of {', '.join(dict.fromkeys(names))}, got {label!r} among "
            f"{sorted(example)}."
        ) from error


def _text_of(example: Mapping[str, Any], tokenizer: Any) -> str | None:
    texts = [value for value in example.values() if isinstance(value, str)]
    if texts:
        return " | ".join(texts)
    if tokenizer is not None and "input_ids" in example:
        return tokenizer.decode(example["input_ids"], skip_special_tokens=True)
    return None
