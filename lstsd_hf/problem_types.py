"""What a model's outputs mean (one label, several labels, or numbers), and so what it is to be close to a teacher."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from .errors import InputError
from .losses import DIVERGENCES, cross_entropy_to, teacher_log_probs


class ProblemType(ABC):
    """A kind of task. Outputs have the shape `(…, batch_size, num_labels)`, losses and divergences one value for each
    example. Targets are what a teacher's outputs become before a student is compared with them.

    Attributes:
        name: As in the `problem_type` of a transformers config.

    Examples:
        >>> kind = PROBLEM_TYPES["multi_label_classification"]
        >>> kind.agreement(torch.tensor([[2.0, -2.0]]), kind.targets(torch.tensor([[1.0, 1.0]]))).tolist()
        [0.5]
    """

    name: ClassVar[str]

    @abstractmethod
    def targets(self, teacher_logits: Tensor, temperature: float = 1.0, floor: float = 0.0) -> Tensor:
        """The targets in a teacher's outputs, see `teacher_log_probs`."""

    @abstractmethod
    def divergence(self, name: str, student_logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """How far the student is from the targets, by a divergence of `losses.DIVERGENCES`."""

    @abstractmethod
    def cross_entropy_to(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        """The student's loss against the targets instead of labels."""

    @abstractmethod
    def base_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The usual loss, unreduced over the batch."""

    @abstractmethod
    def uniform_targets(self, logits: Tensor) -> Tensor:
        """Targets that favour none of the labels that these outputs do not exclude.

        Raises:
            InputError: If there are no labels.
        """

    def agreement(self, student_logits: Tensor, targets: Tensor) -> Tensor | None:
        """Whether student and teacher give the same answer, for each example.

        Returns:
            Bool; for several labels the share of them, from 0 to 1; `None` for numbers.
        """
        return None

    def temperature(self, temperature: float) -> float:
        """The temperature where outputs are logits, 1 where they are numbers."""
        return temperature

    @abstractmethod
    def predictions(self, logits: Tensor) -> Tensor:
        """The outputs as rows whose mean is a prediction again: probabilities, or the numbers themselves."""

    @abstractmethod
    def targets_of_predictions(self, predictions: Tensor) -> Tensor:
        """The targets in a mean of `predictions`."""

    @abstractmethod
    def logits_of_log_probabilities(self, log_probs: Tensor) -> Tensor:
        """Outputs `(batch_size, num_labels)` that mean these probabilities of the labels."""

    @abstractmethod
    def joint_logits(self, members: Tensor) -> Tensor:
        """The outputs `(batch_size, num_labels)` of an ensemble `(num_members, batch_size, num_labels)`."""


class SingleLabel(ProblemType):
    """One of several labels: a softmax."""

    name = "single_label_classification"

    def targets(self, teacher_logits: Tensor, temperature: float = 1.0, floor: float = 0.0) -> Tensor:
        return teacher_log_probs(teacher_logits, temperature, floor)

    def divergence(self, name: str, student_logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        return DIVERGENCES[name](student_logits, targets, temperature)

    def cross_entropy_to(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy_to(student_logits, targets)

    def base_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = cross_entropy(logits, labels, reduction="none")
        if labels.is_floating_point():
            return losses
        # Its mean is that over the examples with a label, as in the models.
        return losses * (len(labels) / (labels != -100).sum().clamp(min=1))

    def uniform_targets(self, logits: Tensor) -> Tensor:
        # An excluded label is one to which the outputs give no probability.
        log_probs = torch.log_softmax(logits.detach(), dim=-1)
        return torch.log_softmax(torch.zeros_like(log_probs).masked_fill(log_probs.exp() == 0, -math.inf), dim=-1)

    def agreement(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        # Detached: there is no gradient, and autograd need not keep track.
        return student_logits.detach().argmax(dim=-1) == targets.argmax(dim=-1)

    def predictions(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1)

    def targets_of_predictions(self, predictions: Tensor) -> Tensor:
        # The clamp keeps empty rows and vanished labels finite; it is so low that the probability stays 0.
        return predictions.log().clamp(min=2 * math.log(torch.finfo(predictions.dtype).tiny))

    def logits_of_log_probabilities(self, log_probs: Tensor) -> Tensor:
        return log_probs

    def joint_logits(self, members: Tensor) -> Tensor:
        return members.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(members))


class MultiLabel(SingleLabel):
    """Any of several labels: each its own sigmoid, which is a softmax over "no" (logit 0) and "yes".

    Divergences are means over the labels, as the binary cross-entropy beside them is.
    """

    name = "multi_label_classification"

    def targets(self, teacher_logits: Tensor, temperature: float = 1.0, floor: float = 0.0) -> Tensor:
        return super().targets(_no_and_yes(teacher_logits), temperature, floor)

    def divergence(self, name: str, student_logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        return super().divergence(name, _no_and_yes(student_logits), targets, temperature).mean(dim=-1)

    def cross_entropy_to(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        return super().cross_entropy_to(_no_and_yes(student_logits), targets).mean(dim=-1)

    def base_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(dim=-1)

    def uniform_targets(self, logits: Tensor) -> Tensor:
        return super().uniform_targets(_no_and_yes(logits))

    def agreement(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        return super().agreement(_no_and_yes(student_logits), targets).to(student_logits.dtype).mean(dim=-1)

    def predictions(self, logits: Tensor) -> Tensor:
        return super().predictions(_no_and_yes(logits)).flatten(-2)

    def targets_of_predictions(self, predictions: Tensor) -> Tensor:
        return super().targets_of_predictions(predictions.unflatten(-1, (-1, 2)))

    def logits_of_log_probabilities(self, log_probs: Tensor) -> Tensor:
        # Certainty would be infinite.
        edge = torch.finfo(log_probs.dtype).eps
        return log_probs.exp().logit(eps=edge)

    def joint_logits(self, members: Tensor) -> Tensor:
        no, yes = super().joint_logits(_no_and_yes(members)).unbind(dim=-1)
        return yes - no


class Regression(ProblemType):
    """Numbers: every divergence is the squared error to the teacher's output, a mean over the outputs.

    Temperatures, floors and the direction of a divergence have no meaning here.
    """

    name = "regression"

    def targets(self, teacher_logits: Tensor, temperature: float = 1.0, floor: float = 0.0) -> Tensor:
        return teacher_logits

    def divergence(self, name: str, student_logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        return self.cross_entropy_to(student_logits, targets)

    def cross_entropy_to(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        return (student_logits - targets).square().mean(dim=-1)

    def base_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return mse_loss(logits, labels.reshape(logits.shape).to(logits.dtype), reduction="none").mean(dim=-1)

    def uniform_targets(self, logits: Tensor) -> Tensor:
        raise InputError("The model must predict labels to spread a target over them, got a regression.")

    def temperature(self, temperature: float) -> float:
        return 1.0

    def predictions(self, logits: Tensor) -> Tensor:
        return logits

    def targets_of_predictions(self, predictions: Tensor) -> Tensor:
        return predictions

    def logits_of_log_probabilities(self, log_probs: Tensor) -> Tensor:
        raise InputError("A regression has no probabilities: give its teacher's outputs as `logits`.")

    def joint_logits(self, members: Tensor) -> Tensor:
        return members.mean(dim=0)


PROBLEM_TYPES: dict[str, ProblemType] = {kind.name: kind for kind in (SingleLabel(), MultiLabel(), Regression())}


def problem_type_of(
    config: Any, logits: Tensor, labels: Tensor | None, known: ProblemType | None = None
) -> ProblemType:
    """The problem type of a model: what its config says, else what its loss takes its outputs and labels for.

    Args:
        config: The model's config, if it has one.
        logits: Its outputs.
        labels: The batch's labels, if it has any.
        known: What earlier batches told.

    Raises:
        InputError: If outputs and labels fit no kind of classification or regression.
    """
    name = getattr(config, "problem_type", None) or (known and known.name)
    if name is None and logits.dim() == 2:
        is_class = labels is None or not (labels.is_floating_point() or labels.dim() > 1)
        if logits.size(1) > 1:
            is_unclear = not is_class and labels.shape == logits.shape
        else:
            # Numbers by the convention of transformers' configs, which models of one's own need not follow.
            is_number = labels is None or (
                labels.is_floating_point() and (config is not None or bool(((labels != 0) & (labels != 1)).any()))
            )
            is_unclear = not is_number and labels.numel() == len(logits)
        if is_unclear:
            meanings = [MultiLabel.name, Regression.name] + ([SingleLabel.name] if logits.size(1) > 1 else [])
            raise InputError(
                f"`problem_type` of the model's config must be one of {meanings} for {labels.dtype} labels of shape "
                f"{tuple(labels.shape)} and logits of shape {tuple(logits.shape)}, got None: they do not tell whether "
                "labels are yes or no for each output, numbers, or probabilities of one label. Set "
                "`model.config.problem_type`; a model without a config takes `model.config = "
                "types.SimpleNamespace(problem_type=...)`."
            )
        name = Regression.name if logits.size(1) == 1 else SingleLabel.name if is_class else None
    if name not in PROBLEM_TYPES or logits.dim() != 2 or not _FITS[name](logits, labels):
        got = f"logits of shape {tuple(logits.shape)}"
        if labels is not None:
            got += f" and {labels.dtype} labels of shape {tuple(labels.shape)}"
        raise InputError(
            "Sample distillation needs logits (batch_size, num_labels), and integer labels (batch_size,) of at least 2 "
            "kinds, or float labels (batch_size, num_labels), or a number for each output; or logits (batch_size, "
            "length, num_labels) and integer labels (batch_size, length); got "
            f"{got}{f' with `problem_type={name!r}`' if name else ''}. For plain fine-tuning use "
            "`teacher=NoTeacherConfig()`, no observers."
        )
    return PROBLEM_TYPES[name]


def labels_in(inputs: Mapping[str, Any], label_names: Iterable[str]) -> Any:
    """The labels among a model's inputs, or `None`.

    Take them before the loss: label smoothing and `compute_loss_func` pop them from the inputs.

    Args:
        inputs: The model's inputs.
        label_names: The trainer's names of labels; as in Trainer, `labels` goes first.
    """
    if "labels" in label_names and "labels" in inputs:
        return flat_labels(inputs["labels"])
    return flat_labels(next((inputs[name] for name in label_names if name in inputs), None))


def flat_labels(labels: Any) -> Any:
    """Class indices `(batch_size, 1)` as `(batch_size,)`; other labels as they are."""
    is_column = isinstance(labels, Tensor) and labels.dim() == 2 and labels.size(1) == 1
    return labels.squeeze(1) if is_column and not labels.is_floating_point() else labels


_FITS = {
    SingleLabel.name: lambda logits, labels: (
        logits.size(1) > 1 and (labels is None or labels.shape == _class_labels(logits, labels))
    ),
    MultiLabel.name: lambda logits, labels: labels is None or labels.shape == logits.shape,
    Regression.name: lambda logits, labels: labels is None or labels.numel() == logits.numel(),
}


def _class_labels(logits: Tensor, labels: Tensor) -> torch.Size:
    """The shape of single labels: class indices `(batch_size,)`, or probabilities `(batch_size, num_labels)`."""
    return logits.shape if labels.is_floating_point() else logits.shape[:1]


def _no_and_yes(logits: Tensor) -> Tensor:
    return torch.stack((torch.zeros_like(logits), logits), dim=-1)
