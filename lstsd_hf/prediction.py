"""Predictions of several sets of weights in one evaluation pass."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import EvalPrediction

from .model_copy import ModelCopy
from .problems import Problem
from .student import Student

STUDENT = "student"


class JointPrediction:
    """What an evaluation predicts when more than the student has a say.

    Trainer passes a tuple of predictions through its evaluation loop as it passes a single one; the first is the
    prediction proper, the others are scored beside it.

    Args:
        ensemble: Copies whose softmax is averaged with the student's, none as yet perhaps; the student is then scored
            beside the mean. `None` is no ensemble.
        copies: Copies to score beside the student, by name.
        student: The model's view.
    """

    def __init__(self, ensemble: list[ModelCopy] | None, copies: Mapping[str, ModelCopy], student: Student):
        self._ensemble = ensemble
        self._copies = copies
        self._student = student
        self.replaces_student = ensemble is not None
        self._names = [*([STUDENT] if self.replaces_student else []), *copies]

    @torch.no_grad()
    def predict(self, student_logits: Tensor, inputs: Mapping[str, Any], problem: Problem) -> tuple[Tensor, ...]:
        """Logits `(batch_size, num_labels)`: the prediction proper, then those scored beside it.

        The logits of an ensemble are those of its mean probabilities.
        """
        others = [copy.forward(self._student, inputs) for copy in self._copies.values()]
        if self._ensemble is None:
            return student_logits, *others
        if not self._ensemble:
            return student_logits, student_logits, *others
        members = [student_logits, *(copy.forward(self._student, inputs) for copy in self._ensemble)]
        return problem.joint_logits(torch.stack(members)), student_logits, *others

    def score_all(self, compute_metrics: Callable[..., dict[str, float]]) -> Callable[..., dict[str, float]]:
        """A `compute_metrics` for the tuple: the metrics of the first, and of the others with their names in front."""

        def compute(prediction: EvalPrediction) -> dict[str, float]:
            first, *others = prediction.predictions
            metrics = {}
            for name, logits in zip(["", *self._names], [first, *others], strict=True):
                one = EvalPrediction(logits, prediction.label_ids, prediction.inputs, prediction.losses)
                prefix = f"{name}_" if name else ""
                metrics |= {f"{prefix}{key}": value for key, value in compute_metrics(one).items()}
            return metrics

        return compute


def preprocess_each(preprocess: Callable[[Tensor, Tensor], Tensor]) -> Callable[[tuple[Tensor, ...], Tensor], Any]:
    """A `preprocess_logits_for_metrics` that treats each prediction of a tuple."""
    return lambda predictions, labels: tuple(preprocess(logits, labels) for logits in predictions)
