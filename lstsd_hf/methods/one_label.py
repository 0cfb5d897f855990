"""What methods share that only make sense where an example has one label of several."""

import torch
from torch import Tensor

from ..errors import InputError
from ..observers import TrainingBatch
from ..problem_types import SingleLabel


def check_one_label(batch: TrainingBatch, method: str) -> None:
    """Raises an `InputError` unless examples have one label of several.

    Args:
        batch: A training batch.
        method: Name of the method.
    """
    if batch.problem_type.name != SingleLabel.name:
        raise InputError(
            f"`{method}` needs one label of several for each example, got a model for {batch.problem_type.name}. Use "
            "another method, such as lstsd."
        )


def label_distribution(batch: TrainingBatch) -> Tensor:
    """The given labels as distributions `(batch_size, num_labels)`; zeros where an example has no label (-100).

    Raises:
        InputError: If the labels are not class indices.
    """
    labels, logits = class_labels(batch.labels), batch.student_logits
    has_label = labels >= 0
    rows = torch.nn.functional.one_hot(labels.clamp(min=0), logits.size(-1)).to(logits.dtype)
    return rows * has_label[:, None]


def class_labels(labels: Tensor | None) -> Tensor:
    """The labels of a batch, as they are; an `InputError` if they are not class indices."""
    if labels is None or labels.is_floating_point() or labels.dim() > 1:
        raise InputError(
            "A training batch must have labels that are class indices for this method, got "
            f"{'none' if labels is None else labels.dtype}. Name them in `label_names`."
        )
    return labels


def has_class(labels: Tensor | None, rows: Tensor) -> Tensor:
    """Which examples have a class as their label, bool `(batch_size,)`; all where labels are something else.

    Args:
        labels: Those of a batch.
        rows: Anything with a row for each example.
    """
    if labels is None or labels.is_floating_point() or labels.dim() > 1:
        return torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    return labels >= 0
