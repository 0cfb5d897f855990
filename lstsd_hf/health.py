"""Noticing a teacher that teaches nothing, with the cause."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .context import TrainingContext
from .deferred_means import DeferredMeans, means
from .errors import InputError
from .joint_term import JointTerm
from .memory import ExampleMemory
from .term_names import Names, by_name, quoted


def check_gradient(names: Names, term: Any) -> None:
    """Raises an `InputError` unless a term depends on the student.

    Args:
        names: Name of the term, or of terms that are computed together.
        term: A `DistillationTerm`, or with several names a `JointTerm`.

    Raises:
        TypeError: If it is something else.
    """
    kind = "DistillationTerm" if isinstance(names, str) else "JointTerm"
    if not hasattr(term, "has_gradient") or isinstance(term, JointTerm) == isinstance(names, str):
        raise TypeError(f"`loss_terms` must return a `{kind}` for the {quoted(names)}, got {type(term).__name__}.")
    if not term.has_gradient:
        raise InputError(
            f"The {quoted(names)} must have a gradient, got none: the student's logits are detached from the "
            "model. A `compute_loss` of your own must return the model's outputs as they are."
        )


class SentToHost:
    """A number on its way to the host, which does not wait for it before it is read.

    Args:
        number: A tensor, on any device.
    """

    def __init__(self, number: Tensor):
        number = number.detach()
        self._copy = number.to("cpu", non_blocking=number.is_cuda)
        self._arrived = torch.cuda.current_stream(number.device).record_event() if number.is_cuda else None

    def read(self) -> Tensor:
        """The number, on the CPU."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copy


class FiniteCheck:
    """Notices a term that is NaN or infinite although the base loss is finite, before an optimizer step is made of it.

    The host does not wait for an accelerator: Trainer waits for the loss of each micro-batch anyway, and what was sent
    off before has then arrived.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forgets everything: training begins."""
        self._sent: list[tuple[Mapping[Names, Tensor | DeferredMeans], SentToHost]] = []

    def add(self, loss: Tensor, parts: Mapping[Names, Tensor | DeferredMeans]) -> None:
        """Takes note of a micro-batch, and looks at it if nobody need wait.

        Args:
            loss: The loss, one number or one for each device.
            parts: The mean of each part of it or what tells it, the base loss first, without gradient.

        Raises:
            InputError: As `check`.
        """
        if len(parts) == 1:
            return
        if loss.is_cpu:
            _check_parts(loss, parts)
        else:
            self._sent.append((parts, SentToHost(loss)))

    def check(self) -> None:
        """Raises an `InputError` that names the term."""
        sent, self._sent = self._sent, []
        for parts, arriving in sent:
            _check_parts(arriving.read(), parts)


def _check_parts(loss: Tensor, parts: Mapping[Names, Tensor | DeferredMeans]) -> None:
    if math.isfinite((loss.sum() if loss.dim() else loss).tolist()):
        return
    # Where the base loss is not finite itself, training has diverged without the terms' doing.
    found = (by_name(names, means([part])[0]) for names, part in parts.items())
    (_, base_loss), *terms = ((name, float(mean)) for group in found for name, mean in group.items())
    for name, value in terms:
        if math.isfinite(base_loss) and not math.isfinite(value):
            raise InputError(
                f"The term `{name}` must be finite, got {value} while the base loss is finite. Student and teacher "
                "exclude different labels (logits of -inf), or a teacher is certain of a label that the student rules "
                "out. Mask the same labels of an example in every epoch; with KL[student ‖ teacher] a `teacher_floor` "
                "above 0 helps."
            )


def check_coverage(memory: ExampleMemory | None, context: TrainingContext) -> None:
    """Raises an `InputError` if a memory that is about to teach holds nothing although training has not diverged.

    Args:
        memory: The memory, made ready for an epoch.
        context: The run.
    """
    if memory is not None and memory.coverage == 0 and context.has_diverged is False:
        raise InputError(
            "The teacher memory must hold a prediction for some examples by now, got none: the model's outputs were "
            "not finite for any of them, though its loss was. Return the logits that the loss is made of."
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
        if not terms or any(math.isfinite(mean) and mean for mean in terms.values()):
            self._silent_steps = 0
            return
        self._silent_steps += num_steps
        if self._silent_steps >= max(steps_per_epoch, self.LEAST_STEPS):
            raise InputError(
                f"A distillation term must be a number other than 0, got "
                f"{', '.join(f'{name} {mean}' for name, mean in terms.items())} for {self._silent_steps} optimizer "
                "steps. At 0 the student says exactly what its teacher said: is the learning rate 0, or is everything "
                "frozen? Examples that were never drawn before have no teacher: does a sampler draw new ones in each "
                "epoch?"
            )
