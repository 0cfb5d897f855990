"""Weighting each example's own share of a base loss, which arrives as one number."""

import torch
from torch import Tensor

from .loss_scale import BaseLoss
from .observers import TrainingBatch


class ExampleLosses:
    """What is known of a base loss example by example.

    That is so for Trainer's label smoothing. It is so for a model's own loss as long as that is the usual one of its
    problem type in every batch that is weighted example by example.

    Attributes:
        is_usual: Whether it was, bool `()`, on the device of the training so that nobody waits for it; `None` before
            the first such batch.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forgets what was found: training begins."""
        self.is_usual: Tensor | None = None

    def weighted(
        self, loss: BaseLoss, value: Tensor, weight: float | Tensor, batch: TrainingBatch, scale: float | Tensor
    ) -> Tensor:
        """A base loss with its weight.

        Args:
            loss: Where it comes from.
            value: Its value.
            weight: One factor, or one for each example, `(batch_size,)`.
            batch: The micro-batch.
            scale: The factor between a mean over the micro-batch and the base loss's scale (`term_scale`).

        Returns:
            `value` times the weight; with one for each example `value + scale · mean((weight - 1) · loss of each)`,
            or where their losses are not known, `value` times the mean weight.

        Raises:
            ValueError: If a weight for each example is not of shape `(batch_size,)`.
        """
        if not isinstance(weight, Tensor):
            return value if weight == 1 else value * weight
        if weight.shape != batch.indices.shape:
            raise ValueError(
                f"`base_loss_weight` must return a number or a tensor of shape (batch_size,) = "
                f"{tuple(batch.indices.shape)}, got {tuple(weight.shape)}."
            )
        as_a_whole = value * weight.mean()
        if loss.is_overridden or loss.is_function or batch.labels is None:
            return as_a_whole
        if loss.smoothing:
            losses = smoothed_losses(batch.student_logits, batch.labels, loss.smoothing)
            return value + ((weight - 1.0) * losses).mean() * scale
        losses = batch.problem_type.base_loss(batch.student_logits, batch.labels)
        # Under DataParallel the value and the scale have a number for each device.
        expected, found = (losses.mean() * scale).detach().mean(), value.detach().mean()
        is_usual = torch.isclose(found, expected.to(found.dtype), rtol=1e-2, atol=1e-6)
        self.is_usual = is_usual if self.is_usual is None else self.is_usual & is_usual
        return torch.where(self.is_usual, value + ((weight - 1.0) * losses).mean() * scale, as_a_whole)


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
