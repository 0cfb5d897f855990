"""What a teacher declares for the optimizer: a learning rate, as methods with cycles do, and parameters of its own."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from .errors import InputError
from .schedules import TrainingPlan


class TeacherOptimizationMixin:
    """A trainer whose learning rate is its teacher's, where it declares one, and which trains its parameters too."""

    _own_parameters: Sequence[nn.Parameter] = ()
    _own_scheduler: LambdaLR | None = None

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """The parent's, with the teacher's own parameters added."""
        super().create_optimizer(*args, **kwargs)
        # Trainer does not look at what is returned, so that an override may return nothing.
        optimizer, own = self.optimizer, self.teacher.trainable_parameters()
        # A teacher makes new parameters for each training; those of an earlier one leave.
        earlier = {id(parameter) for parameter in self._own_parameters}
        optimizer.param_groups[:] = [
            group for group in optimizer.param_groups if not earlier & {id(parameter) for parameter in group["params"]}
        ]
        self._own_parameters = own
        if own and self.lr_scheduler is not None and not self._created_lr_scheduler:
            raise InputError(
                f"{type(self.teacher).__name__} trains parameters of its own, which a scheduler made before does not "
                "know, got a scheduler in `optimizers`. Pass `optimizers=(optimizer, None)`."
            )
        if own:
            optimizer.add_param_group({"params": own, "weight_decay": self.args.weight_decay})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The parent's, unless the teacher declares a learning rate of its own."""
        factor = self.teacher.learning_rate_factor
        if factor is None:
            return super().create_scheduler(num_training_steps=num_training_steps, optimizer=optimizer)
        if self.lr_scheduler is not None:
            raise InputError(
                f"{type(self.teacher).__name__} sets the learning rate itself, got a scheduler in `optimizers` too. "
                "Pass `optimizers=(optimizer, None)`, or set what in its config turns that off."
            )
        # A plain function: the state of a scheduler contains the attributes of any other callable.
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: factor(step))
        self._created_lr_scheduler = True
        self._own_scheduler = self.lr_scheduler
        return self.lr_scheduler

    def _check_plan(self, plan: TrainingPlan) -> None:
        """The parent's; and whether optimizer and scheduler, which an override may have made, are the teacher's too."""
        super()._check_plan(plan)
        if self.is_deepspeed_enabled:
            # It makes its own of them, by a copy of the trainer.
            return
        kind = type(self).__name__
        scheduler = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        if self.teacher.learning_rate_factor is not None and scheduler is not self._own_scheduler:
            raise InputError(
                f"{type(self.teacher).__name__} sets the learning rate itself, got a `create_scheduler` of {kind} that "
                "makes another scheduler. Let it call `super().create_scheduler`, or set what in the method's config "
                "turns that off."
            )
        trained = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        if not {id(parameter) for parameter in self.teacher.trainable_parameters()} <= trained:
            raise InputError(
                f"{type(self.teacher).__name__} trains parameters of its own, got a `create_optimizer` of {kind} that "
                "leaves them out. Let it call `super().create_optimizer` after it has set `self.optimizer`."
            )
