"""Weighting each example's own share of a base loss, which arrives as one number."""

import math

import torch
from torch import Tensor
from transformers.trainer_pt_utils import LabelSmoother

from .loss_scale import BaseLoss
from .observers import TrainingBatch


class ExampleLosses:
    """What is known of a base loss example by example.

    That is so for Trainer's label smoothing, and for a model's own loss if that is the usual one of its problem type.
    Whether it is shows in the first batch that is weighted example by example.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forgets what was found: training begins."""
        self._is_usual: bool | None = None

    def weighted(
        self,
        loss: BaseLoss,
        value: Tensor,
        weight: float | Tensor,
        batch: TrainingBatch,
        scale: float | Tensor,
        smoother: LabelSmoother | None,
    ) -> Tensor:
        """A base loss with its weight.

        Args:
            loss: Where it comes from.
            value: Its value.
            weight: One factor, or one for each example, `(batch_size,)`.
            batch: The micro-batch.
            scale: The factor between a mean over the micro-batch and the base loss's scale (`term_scale`).
            smoother: Trainer's label smoothing, if it smooths.

        Returns:
            `value` times the weight; with one for each example `value + scale · mean((weight - 1) · loss of each)`,
            or where their losses are not known, `value` times the mean weight.
        """
        if not isinstance(weight, Tensor):
            return value if weight == 1 else value * weight
        per_example = self._per_example(loss, value, batch, scale, smoother)
        if per_example is None:
            return value * weight.mean()
        return value + ((weight - 1.0) * per_example).mean() * scale

    def _per_example(
        self,
        loss: BaseLoss,
        value: Tensor,
        batch: TrainingBatch,
        scale: float | Tensor,
        smoother: LabelSmoother | None,
    ) -> Tensor | None:
        if loss.is_overridden or loss.is_function or batch.labels is None or self._is_usual is False:
            return None
        if smoother is not None:
            return smoothed_losses(batch.student_logits, batch.labels, smoother.epsilon)
        per_example = batch.problem_type.base_loss(batch.student_logits, batch.labels)
        if self._is_usual is None:
            expected, found = float(per_example.detach().mean() * scale), float(value.detach().mean())
            self._is_usual = math.isclose(found, expected, rel_tol=1e-2, abs_tol=1e-6)
        return per_example if self._is_usual else None


def smoothed_losses(logits: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """The loss of Trainer's label smoothing, unreduced: (1 - ε) · cross-entropy + ε · mean over the labels of -log p.

    Args:
        logits: Logits `(batch_size, num_labels)`.
        labels: Class indices `(batch_size,)`; -100 is no label.
        epsilon: ε, from 0 to 1.

    Returns:
        `(batch_size,)`, whose mean is that over the examples with a label.
    """
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    spread = -torch.log_softmax(logits, dim=-1).mean(dim=-1)
    has_label = labels != -100
    smoothed = ((1.0 - epsilon) * losses + epsilon * spread).where(has_label, 0.0)
    return smoothed * (len(labels) / has_label.sum().clamp(min=1))
