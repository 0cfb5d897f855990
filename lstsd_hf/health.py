"""Noticing a teacher that teaches nothing, with the cause."""

from collections.abc import Mapping

from torch import Tensor

from .errors import InputError
from .memory import ExampleMemory


def check_gradient(name: str, per_example: Tensor) -> None:
    """Raises an `InputError` unless a term depends on the student.

    Args:
        name: Name of the term.
        per_example: Its values.
    """
    if not per_example.requires_grad:
        raise InputError(
            f"The term `{name}` must have a gradient, got none: the student's logits are detached from the model. A "
            "`compute_loss` of your own must return the model's outputs as they are."
        )


def check_coverage(memory: ExampleMemory | None) -> None:
    """Raises an `InputError` if a memory that is about to teach holds nothing.

    Args:
        memory: The memory, made ready for an epoch.
    """
    if memory is not None and memory.coverage == 0:
        raise InputError(
            "The teacher memory must hold a prediction for some examples by now, got none: the model's outputs were "
            "not finite for any of them. Lower the learning rate, or look for the cause in the data."
        )


class SilenceDetector:
    """Raises an `InputError` once all terms have been exactly zero for a whole epoch, and for `LEAST_STEPS`.

    A few steps alone say nothing: a moving average of weights begins as the weights themselves.
    """

    LEAST_STEPS = 10

    def __init__(self):
        self._silent_steps = 0

    def check(self, terms: Mapping[str, float], num_steps: int, steps_per_epoch: int) -> None:
        """Takes note of another stretch of training.

        Args:
            terms: Means of the terms over the stretch.
            num_steps: Its optimizer steps.
            steps_per_epoch: Optimizer steps in an epoch.
        """
        if not terms or any(terms.values()):
            self._silent_steps = 0
            return
        self._silent_steps += num_steps
        if self._silent_steps >= max(steps_per_epoch, self.LEAST_STEPS):
            raise InputError(
                f"A distillation term must differ from 0, got {', '.join(f'{name} 0.0' for name in terms)} for "
                f"{self._silent_steps} optimizer steps: the student says exactly what its teacher said. Is the "
                "learning rate 0, or is everything frozen?"
            )
