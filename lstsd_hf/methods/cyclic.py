"""What the snapshot methods share: training in cycles of the learning rate."""

from dataclasses import dataclass, field, replace
from typing import Self

from ..errors import InputError
from ..schedules import CosineCycles, TrainingPlan
from .base import ConfiguredTeacher
from .config import TeacherConfig


@dataclass(frozen=True)
class CyclicConfig(TeacherConfig):
    """Options of a method that trains in cycles; see the methods for their meaning.

    Examples:
        >>> CyclicConfig().fitted_to(TrainingPlan(num_epochs=50, steps_per_epoch=39, max_steps=1950)).cycle_epochs
        10
    """

    cycle_epochs: int | None = field(
        default=None, metadata={"help": "Epochs in a learning-rate cycle; unset: a fifth of the planned epochs."}
    )
    cyclic_learning_rate: bool = field(
        default=True, metadata={"help": "Cosine cycles instead of lr_scheduler_type and its warm-up."}
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_epochs("cycle_epochs")

    def fitted_to(self, plan: TrainingPlan) -> Self:
        return replace(self, cycle_epochs=self.cycle_epochs or max(1, plan.num_epochs // 5))

    def check_plan(self, plan: TrainingPlan) -> None:
        plan.check_length("cycle_epochs", self.fitted_to(plan).cycle_epochs, "there is no second cycle")


class CyclicTeacher(ConfiguredTeacher):
    """A teacher whose mini-generations are cycles of the learning rate.

    Examples:
        >>> class Restarts(CyclicTeacher):
        ...     config_class = CyclicConfig
        ...     needs_batches = False
        >>> Restarts().learning_rate_factor(0)
        1.0
    """

    def reset(self) -> None:
        # The scheduler asks before training begins, and a cycle begins at the base rate.
        self._cycles: CosineCycles | None = None

    @property
    def learning_rate_factor(self):
        return self._factor if self.config.cyclic_learning_rate else None

    def _factor(self, step: int) -> float:
        return 1.0 if self._cycles is None else self._cycles.factor(step)

    def on_train_begin(self) -> str | None:
        super().on_train_begin()
        plan, length = self.context.plan, self.options.cycle_epochs
        self._cycles = cycles = CosineCycles(length * plan.steps_per_epoch, plan.max_steps)
        if cycles.count < 2:
            raise InputError(
                f"A run must have at least 2 learning-rate cycles, got {plan.max_steps} steps and cycles of "
                f"{length * plan.steps_per_epoch}. Shorten `cycle_epochs`; a dataset without a length has no epochs."
            )
        rate = "the learning rate falls along a cosine in each" if self.config.cyclic_learning_rate else "no restarts"
        return f"{self.config.name}: {cycles.count} cycles of {length} epoch{'s' * (length > 1)}; {rate}."
