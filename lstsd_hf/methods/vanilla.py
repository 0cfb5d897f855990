"""Plain fine-tuning, as a teacher that teaches nothing."""

from dataclasses import dataclass
from typing import Self

from .base import ConfiguredTeacher
from .config import TeacherConfig


@dataclass(frozen=True)
class NoTeacherConfig(TeacherConfig):
    """Plain fine-tuning; there is nothing to set.

    Examples:
        >>> NoTeacherConfig().build().needs_batches
        False
    """

    name = "vanilla"

    @classmethod
    def neutral(cls) -> Self:
        return cls()

    def build(self) -> "NoTeacher":
        return NoTeacher()


class NoTeacher(ConfiguredTeacher):
    """Plain fine-tuning: the trainer behaves as its parent Trainer, for every kind of task.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="vanilla")
        >>> _ = trainer.train()
        >>> trainer.distilled_steps
        0
    """

    needs_batches = False
    is_stateful = False
    config_class = NoTeacherConfig
