"""What the runner must know of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task(ABC):
    """A task: classification, or regression of a number.

    One with test splits also has `submission_name(split)` and `spelled_label(label)`.

    Attributes:
        name: Name on the command line.
        label_names: Names of the labels 0, 1, …; none for a regression.
        metrics: Metrics of the evaluation; the first is the headline.
    """

    name: str
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number to be met rather than a class."""
        return not self.label_names

    @property
    def num_outputs(self) -> int:
        """Columns of the model's output."""
        return max(1, len(self.label_names))

    @property
    def headline_metric(self) -> str:
        """The first of the metrics, by which runs are compared."""
        return self.metrics[0]

    @property
    @abstractmethod
    def input_columns(self) -> tuple[str, ...]:
        """Columns of a split beside the label that a run depends on."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a run's config says of the task beside its name."""
        return {}

    def label_settings(self) -> dict[str, Any]:
        """What a model's config says of the labels."""
        if self.is_regression:
            return {"num_labels": self.num_outputs, "problem_type": "regression"}
        id2label = dict(enumerate(self.label_names))
        return {
            "num_labels": len(id2label),
            "id2label": id2label,
            "label2id": {name: index for index, name in id2label.items()},
            "problem_type": "single_label_classification",
        }
