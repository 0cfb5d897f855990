"""What a teacher declares for the optimizer: a learning rate, as methods with cycles do, and parameters of its own."""

import torch
from torch.optim.lr_scheduler import LambdaLR

from .errors import InputError


class TeacherOptimizationMixin:
    """A trainer whose learning rate is its teacher's, where it declares one, and which trains its parameters too."""

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """The parent's, with the teacher's own parameters added."""
        optimizer = super().create_optimizer(*args, **kwargs)
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        added = [parameter for parameter in self.teacher.trainable_parameters() if id(parameter) not in known]
        if added:
            optimizer.add_param_group({"params": added})
        return optimizer

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
