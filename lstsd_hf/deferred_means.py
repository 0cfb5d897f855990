"""Means of divergences that are computed when the log asks for them."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .agreement import Agreement, stacked
from .losses import kl_student_teacher


class DeferredMeans(NamedTuple):
    """What tells the mean of KL[student ‖ teacher] over a batch, for each of several teachers.

    The log computes the means of many batches at once, which costs what it costs for one.

    Attributes:
        agreement: Student and teachers.
        temperature: Softmax temperature of the student.
        factor: On the means: a number, or a tensor with one or one for each device.
    """

    agreement: Agreement
    temperature: float
    factor: float | Tensor

    @property
    def form(self) -> Hashable:
        """The same for what `means` can take together."""
        return self.agreement.form, self.temperature, getattr(self.factor, "shape", None)


def means(parts: Sequence[Tensor | DeferredMeans]) -> Tensor:
    """The means in some batches of the same form, at least fp32.

    Args:
        parts: For each batch a `DeferredMeans`, or the means themselves, a tensor without gradient.

    Returns:
        `(num_batches, …)`: of several teachers the last axis is theirs, and one before it the devices'.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        found = torch.stack(parts)
        return found if found.dtype == torch.float64 else found.float()
    logits, targets = stacked([part.agreement for part in parts])
    found = kl_student_teacher(logits, targets, first.temperature).mean(dim=-1)
    factors = [part.factor for part in parts]
    if isinstance(first.factor, Tensor):
        return found.unsqueeze(1) * torch.stack(factors).reshape(len(parts), -1, 1)
    # One number for all does not wait for an accelerator.
    return found * (first.factor if len({*factors}) == 1 else found.new_tensor(factors)[:, None])
