"""Whether student and teacher agree, compared when the log asks for it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .observers import TrainingBatch
from .problem_types import ProblemType, Regression

MOST_NUMBERS_TO_KEEP = 2**12
"""Numbers in a batch's targets up to which it is cheaper to look at many batches at once than at each."""


@dataclass(frozen=True)
class Agreement:
    """What tells whether student and teacher give the same answer.

    The log compares the answers of many batches at once, which costs what it costs for one.

    Attributes:
        problem_type: What the logits mean; not regression.
        student_logits: `(batch_size, num_labels)`, detached.
        targets: The teacher's, as `ProblemType.targets` returns them; of several teachers stacked.
        written: Which examples have a teacher, bool `(batch_size,)`, or `(num_teachers, batch_size)`.
    """

    problem_type: ProblemType
    student_logits: Tensor
    targets: Tensor
    written: Tensor

    @property
    def form(self) -> Hashable:
        """The same for what `answers` can take together."""
        return self.written.shape

    def of_teacher(self, position: int) -> "Agreement":
        """With one of several teachers."""
        return replace(self, targets=self.targets[position], written=self.written[position])

    def numel(self) -> int:
        """How many numbers the targets hold."""
        return self.targets.numel()


def agreement_with(targets: Tensor, batch: TrainingBatch, written: Tensor) -> Agreement | None:
    """What tells whether the student agrees with some targets; `None` where outputs are numbers.

    Args:
        targets: As in `Agreement`.
        batch: The batch.
        written: As in `Agreement`.
    """
    if isinstance(batch.problem_type, Regression):
        return None
    # Copied: a compiled model may write its next outputs to the same place.
    return Agreement(batch.problem_type, batch.student_logits.detach().clone(), targets, written)


def answers(values: Sequence[Tensor | Agreement]) -> Tensor:
    """Whether student and teacher agree in some batches of the same shape.

    Args:
        values: For each batch an `Agreement`, or the answers themselves, `(…, batch_size)`.

    Returns:
        From 0 to 1, `(num_batches, …, batch_size)`.
    """
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack([value.detach() for value in values]).float()
    agree = first.problem_type.agreement(*stacked(values))
    return agree.where(torch.stack([value.written for value in values]), 0.0)


def stacked(values: Sequence[Agreement]) -> tuple[Tensor, Tensor]:
    """The logits and the targets of several batches: their axis is the first.

    Args:
        values: The batches, of the same form.

    Returns:
        Logits `(num_batches, …, batch_size, num_labels)`, with an axis of 1 for several teachers, and targets.
    """
    logits, targets = (
        torch.stack([getattr(value, name) for value in values]) for name in ("student_logits", "targets")
    )
    return logits.unsqueeze(1) if values[0].written.dim() > 1 else logits, targets
