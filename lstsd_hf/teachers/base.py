"""The one interface: a `Teacher` supplies distillation terms and remembers what it needs to supply the next ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..memory import TeacherMemory
from ..schedules import Progress, TrainingPlan


@dataclass(frozen=True)
class TeacherConfig:
    """Base of every method's options. A subclass is a frozen dataclass whose fields become command-line options."""

    name: ClassVar[str]

    @classmethod
    def paper(cls) -> "TeacherConfig":
        """The options that reproduce the method's paper; where they are the defaults, `cls()`."""
        return cls()

    def build(self) -> "Teacher":
        """The teacher that these options describe."""
        raise TypeError(f"{type(self).__name__} does not define `build`.")


@dataclass(frozen=True)
class TeacherBatch:
    """One micro-batch of training as a teacher sees it.

    Attributes:
        inputs: The model's inputs, without the example indices.
        indices: Positions in the training set, int64 `(batch_size,)`.
        labels: Class indices `(batch_size,)`, or `None` if the batch has none.
        student_logits: The student's output for the update, at least fp32, with gradient, `(batch_size, num_labels)`.
    """

    inputs: Mapping[str, Any]
    indices: Tensor
    labels: Tensor | None
    student_logits: Tensor


@dataclass(frozen=True)
class DistillationTerm:
    """One weighted part of the loss, unreduced: only the trainer knows by what the base loss was divided.

    Attributes:
        per_example: Divergence of each example, `(batch_size,)`, with gradient to the student only.
        weight: λ, the factor in the total loss. The log shows the term without it.
    """

    per_example: Tensor
    weight: float


class Teacher:
    """What stands between plain fine-tuning and a self-distillation method. Override what your method needs.

    Order of calls: `on_train_begin` once (`load_state_dict` before it when a run is resumed); `on_epoch_begin`; for
    each micro-batch `loss_terms`, then `observe`; after each optimizer step `on_step_end`; `on_train_end` once. One
    object may train several times: `reset` is called before each.

    Attributes:
        needs_batches: Whether the trainer hands over the training batches (example indices and student logits). False
            makes it the parent Trainer.
        memory: The teacher memory, where the method keeps one and a first batch was seen.
        distilled_steps: Optimizer steps whose loss contained a distillation term; kept up by the method.
    """

    needs_batches: bool = True
    memory: TeacherMemory | None = None
    distilled_steps: int = 0

    @property
    def config(self) -> TeacherConfig | None:
        """The options it was built from; a resumed run must have the same."""
        return None

    def reset(self, num_examples: int) -> None:
        """Forgets everything, before a training run over `num_examples` examples."""

    def on_train_begin(self, plan: TrainingPlan) -> str | None:
        """Checks the plan; what it returns is logged as one line."""

    def on_epoch_begin(self, progress: Progress) -> None:
        """Called on every process before the first batch of an epoch, also of an epoch that is resumed half-way."""

    def loss_terms(self, batch: TeacherBatch) -> dict[str, DistillationTerm]:
        """Terms to add to the base loss, by the name that follows `loss_` in the log; `{}` is plain fine-tuning."""
        return {}

    def observe(self, batch: TeacherBatch) -> None:
        """Writes per-batch state; the only place that does."""

    def on_step_end(self, progress: Progress) -> None:
        """Called after each optimizer step."""

    def on_train_end(self, progress: Progress) -> None:
        """Called on every process after the last epoch."""

    def log_metrics(self) -> dict[str, float]:
        """Plain numbers to add to each training log. Called on every process; keep it free of device waits."""
        return {}

    def state_dict(self) -> dict[str, Tensor | int | float]:
        """Tensors and plain numbers for a checkpoint, by name; `{}` needs none. Called on every process."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor | int | float], device: Any) -> None:
        """Takes over what `state_dict` returned, with the tensors moved to `device`."""
