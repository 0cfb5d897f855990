"""What a teacher declares for the optimizer: a learning rate, as methods with cycles do, and parameters of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from .errors import InputError


class TeacherOptimizationMixin:
    """A trainer whose learning rate is its teacher's, where it declares one, and which trains its parameters too."""

    _own_parameters: Sequence[nn.Parameter] = ()
    _sets_rate = False

    def _optimization_wrappers(self) -> dict[str, Callable]:
        """For `shadowed`: they meet an override that never calls `super()`, too."""
        return {"create_optimizer": self._optimizer_with_own, "create_scheduler": self._checked_scheduler}

    def _optimizer_with_own(self, create_optimizer: Callable[..., Any], *args, **kwargs) -> Any:
        """The optimizer of `create_optimizer`, with the teacher's own parameters added."""
        created = create_optimizer(*args, **kwargs)
        # Trainer does not look at what is returned.
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
        return created

    def _checked_scheduler(self, create_scheduler: Callable[..., Any], *args, **kwargs) -> Any:
        self._sets_rate = False
        created = create_scheduler(*args, **kwargs)
        if self.teacher.learning_rate_factor is not None and not self._sets_rate:
            raise InputError(
                f"{type(self.teacher).__name__} sets the learning rate itself, got a `create_scheduler` of "
                f"{type(self).__name__} that makes another scheduler. Let it call `super().create_scheduler`, or set "
                "what in the method's config turns that off."
            )
        return created

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
        self._created_lr_scheduler = self._sets_rate = True
        return self.lr_scheduler
