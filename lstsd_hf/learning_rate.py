"""A learning rate that the teacher declares, as methods with cycles do."""

import torch
from torch.optim.lr_scheduler import LambdaLR

from .errors import InputError


class TeacherLearningRateMixin:
    """A trainer whose learning rate is its teacher's, where the teacher declares one."""

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The parent's, unless the teacher declares a learning rate of its own."""
        factor = self.teacher.learning_rate_factor
        if factor is None:
            return super().create_scheduler(num_training_steps=num_training_steps, optimizer=optimizer)
        if self.lr_scheduler is not None:
            raise InputError(
                f"{type(self.teacher).__name__} sets the learning rate itself, got a scheduler in `optimizers` too. "
                "Pass `optimizers=(optimizer, None)`, or set `cyclic_learning_rate=False` in its config."
            )
        # A plain function: the state of a scheduler contains the attributes of any other callable.
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: factor(step))
        self._created_lr_scheduler = True
        return self.lr_scheduler
