"""The terms of several teachers as one."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .agreement import MOST_NUMBERS_TO_KEEP, Agreement
from .deferred_means import DeferredMeans
from .losses import kl_student_teacher, total_kl_student_teacher


# Copying numbers to an accelerator waits, so they are copied once.
@lru_cache(maxsize=64)
def _shares_of(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The shares of several weights in their sum, `(num_teachers, 1, 1)`."""
    return (torch.tensor(weights, dtype=dtype, device=device) / sum(weights))[:, None, None]


@dataclass(frozen=True)
class JointTerm:
    """The terms of several teachers, each KL[student ‖ teacher] over the labels, with about the cost of one.

    In the loss they are one divergence, and the mean of each is computed when the log is due. A large batch would not
    gain by that, so there each is computed at once.

    Attributes:
        student_logits: Logits `(batch_size, num_labels)`, with gradient.
        targets: Log-probabilities of the teachers, `(num_teachers, batch_size, num_labels)`.
        weights: λ of each teacher, positive.
        agreement: Student and teachers, for the log.
        temperature: Softmax temperature of the student.
        factor: On each divergence.
    """

    student_logits: Tensor
    targets: Tensor
    weights: tuple[float, ...]
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
        logits, targets = self.student_logits, self.targets
        scale = scale * self.factor
        weight = scale * (sum(self.weights) / len(logits))
        shares = _shares_of(self.weights, logits.dtype, logits.device)
        means: Tensor | DeferredMeans
        if targets.numel() > MOST_NUMBERS_TO_KEEP:
            totals = kl_student_teacher(logits, targets, self.temperature).sum(dim=-1)
            total, means = (totals * shares.flatten()).sum(), totals.detach() * (scale / len(logits))
        else:
            total = total_kl_student_teacher(logits, targets, shares, self.temperature)
            means = DeferredMeans(self.agreement, self.temperature, scale)
        if isinstance(weight, Tensor):
            # With several devices there is a weight for each, (num_devices, 1).
            return loss + total * (weight.flatten() if weight.dim() else weight), means
        return torch.add(loss, total, alpha=weight), means
