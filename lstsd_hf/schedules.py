"""When things happen, in epochs and optimizer steps. Pure numbers; epochs are counted from 0."""

import math
from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class TrainingPlan:
    """The length of a training run, known when it begins.

    Attributes:
        num_epochs: Epochs that will be begun; the last one may be cut short.
        steps_per_epoch: Optimizer steps in a full epoch.
        max_steps: Optimizer steps of the whole run.
    """

    num_epochs: int
    steps_per_epoch: int
    max_steps: int

    def check_length(self, field: str, length: int, consequence: str = "no epoch distils") -> None:
        """Raises an `InputError` unless a second period of `length` epochs begins; without it `consequence` holds."""
        if length < self.num_epochs:
            return
        remedy = (
            f"Train for more epochs, or set `{field}` to at most {self.num_epochs - 1}"
            if self.num_epochs > 1
            else "Train for at least 2 epochs"
        )
        raise InputError(
            f"`{field}` must be less than the number of planned epochs, or {consequence}: got {length} with "
            f"{self.num_epochs} planned ({self.max_steps} optimizer steps at {self.steps_per_epoch} an epoch). "
            f"{remedy}; for plain fine-tuning use the method `vanilla`."
        )


@dataclass(frozen=True)
class Progress:
    """A position in a training run.

    Attributes:
        epoch: Index of the epoch that runs or is about to begin, from 0. At train end the number of epochs begun.
        global_step: Optimizer steps done.
        plan: The run's planned length.
    """

    epoch: int
    global_step: int
    plan: TrainingPlan


@dataclass(frozen=True)
class MiniGenerations:
    """Consecutive groups of `length` epochs; the last group may be shorter.

    Source: Jiang et al., "Long Short-Term Sample Distillation", AAAI 2020, arXiv 2003.00739, Algorithm 1.

    Attributes:
        length: Epochs in a mini-generation (E).
        num_epochs: Epochs planned in all.
    """

    length: int
    num_epochs: int

    @staticmethod
    def default_length(num_epochs: int) -> int:
        """The paper's 6 epochs where at least two such mini-generations fit, else a third of the run."""
        return 6 if num_epochs >= 12 else max(1, num_epochs // 3)

    @property
    def count(self) -> int:
        """How many mini-generations begin."""
        return -(-self.num_epochs // self.length)

    def begins_at(self, epoch: int) -> bool:
        """Whether `epoch` is the first of a mini-generation."""
        return epoch % self.length == 0

    def has_teachers(self, epoch: int) -> bool:
        """Whether `epoch` lies in the second mini-generation or later, where distillation acts."""
        return epoch >= self.length


@dataclass(frozen=True)
class CosineCycles:
    """Learning-rate cycles that each fall from the base rate to almost 0 along half a cosine, then restart.

    A last cycle that is cut short falls along its own length, so that the run still ends near 0.

    Source: Huang et al., "Snapshot Ensembles: Train 1, Get M for Free", ICLR 2017, arXiv 1704.00109, Eq. 2.

    Attributes:
        length: Optimizer steps in a cycle.
        max_steps: Optimizer steps of the whole run.
    """

    length: int
    max_steps: int

    @property
    def count(self) -> int:
        """How many cycles begin."""
        return -(-self.max_steps // self.length)

    def factor(self, step: int) -> float:
        """Factor on the base learning rate for the update that follows `step` optimizer steps."""
        start = step // self.length * self.length
        length = max(1, min(self.length, self.max_steps - start))
        return 0.5 * (1.0 + math.cos(math.pi * ((step - start) / length)))

    def ends_after(self, steps_done: int) -> bool:
        """Whether the last of `steps_done` optimizer steps was a cycle's last one."""
        return steps_done % self.length == 0 or steps_done == self.max_steps

    def of_last_step(self, steps_done: int) -> int:
        """Index of the cycle that the last of `steps_done` optimizer steps belongs to, from 0."""
        return max(0, steps_done - 1) // self.length


def ramp_up(epoch: int, rampup_epochs: float) -> float:
    """Factor that grows from exp(-5) in epoch 0 to 1 from epoch `rampup_epochs` on: exp(-5 (1 - epoch / R)²).

    Source: Laine & Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017, arXiv 1610.02242, Sec. 3.
    """
    return math.exp(-5.0 * (1.0 - epoch / rampup_epochs) ** 2) if epoch < rampup_epochs else 1.0
