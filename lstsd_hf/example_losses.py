"""Weighting each example's own share of a base loss, which arrives as one number."""

import torch
from torch import Tensor

from .errors import InputError
from .health import SentToHost
from .loss_scale import BaseLoss
from .observers import TrainingBatch
from .problem_types import SingleLabel

# How far two computations of a loss may be apart, relatively: a model in bf16 rounds it.
TOLERANCE = 2e-2


class ExampleLosses:
    """What is known of a base loss example by example.

    That is so for Trainer's label smoothing, and for any other loss, whoever computes it, as long as its value is that
    of the problem type's usual one in every batch that is weighted example by example.

    Args:
        needed_by: Name of a teacher that means nothing without it; `None` does with a weight of the mean.

    Attributes:
        is_usual: Whether it was, bool `()`, on the device of the training so that nobody waits for it; `None` before
            the first such batch.
    """

    def __init__(self, needed_by: str | None = None):
        self._needed_by = needed_by
        self.reset()

    def reset(self) -> None:
        """Forgets what was found: training begins."""
        self.is_usual: Tensor | None = None
        self._sent: SentToHost | None = None

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
        if batch.labels is None:
            return as_a_whole
        losses = _usual(loss, batch.student_logits, batch)
        scale = scale.flatten() if isinstance(scale, Tensor) and value.dim() else scale
        exactly = value + _mean((weight - 1.0) * losses, value) * scale
        if loss.smoothing and not (loss.is_overridden or loss.is_function):
            return exactly
        rounded = losses.detach() if losses.dtype == value.dtype else usual_losses(loss, value, batch)
        expected = _mean(rounded, value) * scale
        found = value.detach().float()
        # What is not finite does not tell: the model has diverged.
        is_usual = (torch.isclose(found, expected.float(), rtol=TOLERANCE, atol=1e-6) | ~found.isfinite()).all()
        self.is_usual = is_usual if self.is_usual is None else self.is_usual & is_usual
        if self._needed_by is not None:
            self._sent = SentToHost(self.is_usual)
        return torch.where(self.is_usual, exactly, as_a_whole)

    def check(self) -> None:
        """Raises an `InputError` if a method needs them and they are not known."""
        if self._sent is not None and not self._sent.read():
            raise InputError(
                f"{self._needed_by} must know the loss of each example: the usual one of the problem type, such as "
                "cross-entropy, or Trainer's label smoothing; got another loss, such as one with class weights, or a "
                "`compute_loss_func` that does not divide by `num_items_in_batch`. Use that, or another method."
            )


def usual_losses(loss: BaseLoss, value: Tensor, batch: TrainingBatch) -> Tensor:
    """The usual losses of a micro-batch, `(batch_size,)`, in the precision in which the model computed `value`."""
    return _usual(loss, batch.student_logits.detach().to(value.dtype), batch)


def _mean(losses: Tensor, value: Tensor) -> Tensor:
    """As many means as a loss has numbers: under DataParallel one for the rows of each device."""
    return torch.stack([rows.mean() for rows in losses.chunk(len(value))]) if value.dim() else losses.mean()


def _usual(loss: BaseLoss, logits: Tensor, batch: TrainingBatch) -> Tensor:
    kind, labels = batch.problem_type, batch.labels
    if kind.name != SingleLabel.name or labels.is_floating_point():
        return kind.base_loss(logits, labels)
    # A loss of one's own may take labels that are no classes, as if they were none.
    labels = labels.long()
    labels = labels.where((labels >= 0) & (labels < logits.size(1)), -100)
    return smoothed_losses(logits, labels, loss.smoothing) if loss.smoothing else kind.base_loss(logits, labels)


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
