"""The terms of several teachers as one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .agreement import MOST_NUMBERS_TO_KEEP, Agreement
from .deferred_means import DeferredMeans
from .losses import kl_student_teacher, total_kl_student_teacher


def shares_of(weights: tuple[float, ...], like: Tensor) -> Tensor:
    """The shares of several weights in their sum, `(num_teachers, 1, 1)`; making them waits for an accelerator.

    Args:
        weights: Positive.
        like: A tensor of the kind wanted.
    """
    return (like.new_tensor(weights) / sum(weights))[:, None, None]


@dataclass(frozen=True)
class JointTerm:
    """The terms of several teachers, each KL[student ‖ teacher] over the labels, with about the cost of one.

    In the loss they are one divergence, and the mean of each is computed when the log is due. A large batch would not
    gain by that, so there each is computed at once.

    Attributes:
        student_logits: Logits `(batch_size, num_labels)`, with gradient.
        targets: Log-probabilities of the teachers, `(num_teachers, batch_size, num_labels)`.
        weights: λ of each teacher, positive.
        shares: Of each in their sum, see `shares_of`.
        agreement: Student and teachers, for the log.
        temperature: Softmax temperature of the student.
        factor: On each divergence.
    """

    student_logits: Tensor
    targets: Tensor
    weights: tuple[float, ...]
    shares: Tensor
    agreement: Agreement
    temperature: float = 1.0
    factor: float = 1.0

    @property
    def has_gradient(self) -> bool:
        return self.student_logits.requires_grad

    def separate(self) -> list[tuple[Tensor, float, Agreement]]:
        """For each teacher what makes a `DistillationTerm`: divergences `(batch_size,)`, λ, and the agreement."""
        divergences = kl_student_teacher(self.student_logits, self.targets, self.temperature) * self.factor
        return [(divergences[i], weight, self.agreement.of_teacher(i)) for i, weight in enumerate(self.weights)]

    def added_to(self, loss: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor | DeferredMeans]:
        """As `DistillationTerm.added_to`; with a mean for each teacher."""
        scale = scale * self.factor
        means: Tensor | DeferredMeans
        if self.targets.numel() > MOST_NUMBERS_TO_KEEP:
            totals = kl_student_teacher(self.student_logits, self.targets, self.temperature).sum(dim=-1)
            total, means = (totals * self.shares.flatten()).sum(), totals.detach() * (scale / len(self.student_logits))
        else:
            total = total_kl_student_teacher(self.student_logits, self.targets, self.shares, self.temperature)
            means = DeferredMeans(self.agreement, self.temperature, scale)
        weight = scale * (sum(self.weights) / len(self.student_logits))
        loss = loss + total * weight if isinstance(weight, Tensor) else torch.add(loss, total, alpha=weight)
        return loss, means
