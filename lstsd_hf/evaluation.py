"""Predictions of several sets of weights, scored in one evaluation pass."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import EvalPrediction

from .errors import InputError
from .example_index import split_indices
from .model_copy import ModelCopy
from .problem_types import ProblemType, flat_labels, problem_type_of
from .setups import check_several_can_be_scored
from .student import Student, logits_of

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
    def predict(
        self, student_logits: Tensor, inputs: Mapping[str, Any], problem_type: ProblemType | None
    ) -> tuple[Tensor, ...]:
        """Logits `(batch_size, num_labels)`: the prediction proper, then those scored beside it.

        The logits of an ensemble are those of its mean probabilities; only for them the problem type matters.
        """
        others = [copy.forward(self._student, inputs) for copy in self._copies.values()]
        if self._ensemble is None:
            return student_logits, *others
        if not self._ensemble:
            return student_logits, student_logits, *others
        members = [student_logits, *(copy.forward(self._student, inputs) for copy in self._ensemble)]
        return problem_type.joint_logits(torch.stack(members)), student_logits, *others

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


class JointEvaluationMixin:
    """Evaluation of a trainer whose teacher declares an ensemble or copies to score; otherwise the parent's."""

    _joint_prediction: JointPrediction | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._output_names: dict[frozenset[str], list[str]] = {}

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """The parent's; where the teacher declares an ensemble or copies to score, they predict in the same pass."""
        options = (dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        ensemble = self.teacher.ensemble() if self.teacher.predicts_as_ensemble else None
        # Nobody looks at scores of copies without metrics.
        copies = self.teacher.scored_copies() if self.compute_metrics is not None else {}
        if ensemble is None and not copies:
            return super().evaluation_loop(*options)
        check_several_can_be_scored(self)
        joint = self._joint_prediction = JointPrediction(ensemble, copies, self._student)
        compute_metrics, preprocess = self.compute_metrics, self.preprocess_logits_for_metrics
        if compute_metrics is not None:
            self.compute_metrics = joint.score_all(compute_metrics)
        if preprocess is not None:
            self.preprocess_logits_for_metrics = preprocess_each(preprocess)
        try:
            output = super().evaluation_loop(*options)
        finally:
            self._joint_prediction = None
            self.compute_metrics, self.preprocess_logits_for_metrics = compute_metrics, preprocess
        return output._replace(predictions=output.predictions[0]) if output.predictions is not None else output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The parent's; the indices are dropped should the batch come from the training loader."""
        inputs, _ = split_indices(inputs)
        joint = self._joint_prediction
        if joint is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignore_keys)
        ignored = [*(ignore_keys or ()), *self.outputs_beside_logits(model, inputs)]
        loss, logits, labels = super().prediction_step(model, inputs, False, ignore_keys=ignored)
        if isinstance(labels, tuple | list):
            raise InputError(
                f"{type(self.teacher).__name__} scores several predictions in one pass, so a batch must have one kind "
                f"of labels in evaluation, got {len(labels)}. Name one in `label_names`, or use a method that predicts "
                "with the model alone, such as `LSTSDConfig()`."
            )
        is_flat = isinstance(logits, Tensor) and logits.dim() == 1
        logits = logits_of(logits)
        # A class for each of one token is no column of classes.
        labels = labels if logits.dim() > 2 else flat_labels(labels)
        problem_type = self._context.problem_type
        if joint.replaces_student and problem_type is None:
            problem_type = problem_type_of(getattr(self.model, "config", None), logits, labels)
        predictions = joint.predict(logits, self._prepare_inputs(inputs), problem_type)
        if joint.replaces_student and loss is not None:
            loss = problem_type.base_loss(predictions[0], labels).mean()
        if is_flat:
            predictions = tuple(item.squeeze(-1) for item in predictions)
        return (loss, None, None) if prediction_loss_only else (loss, predictions, labels)

    @torch.no_grad()
    def outputs_beside_logits(self, model, inputs) -> list[str]:
        """Names of a model's outputs other than its loss and logits, such as BART's encoder states.

        Args:
            model: The model, as `prediction_step` is given it.
            inputs: A batch. The first one with inputs of these names is run once more; the answer is kept.
        """
        kind = frozenset(inputs)
        if kind not in self._output_names:
            model.eval()
            inputs = self._prepare_inputs(inputs)
            # An override may take inputs that the model does not.
            is_labelled = any(name in inputs for name in self.label_names)
            outputs = self.compute_loss(model, inputs, return_outputs=True)[1] if is_labelled else model(**inputs)
            is_named = isinstance(outputs, Mapping) and "logits" in outputs
            self._output_names[kind] = [name for name in outputs if name not in ("loss", "logits")] if is_named else []
        return self._output_names[kind]
