"""The one interface: a `Teacher` supplies distillation terms and remembers what it needs to supply the next ones."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from ..errors import InputError
from ..label_errors import LabelErrorCandidate, rank_label_errors
from ..memory import ExampleMemory
from ..model_copy import ModelCopy
from ..problems import Problem, SingleLabel
from ..schedules import Progress, TrainingPlan
from ..student import Student

M = TypeVar("M", bound=ExampleMemory)


@dataclass(frozen=True)
class TeacherConfig:
    """Base of every method's options. A subclass is a frozen dataclass whose fields become command-line options.

    Attributes:
        name: Name in the registry.
        search_space: What a search tunes: for each field its candidate values.
        changeable: Fields that a resumed run may have changed, if told so.
    """

    name: ClassVar[str]
    changeable: ClassVar[tuple[str, ...]] = ()
    search_space: ClassVar[Mapping[str, tuple]] = {}

    def __post_init__(self):
        hints = get_type_hints(type(self))
        for option in fields(self):
            value, allowed = getattr(self, option.name), hints[option.name]
            kinds = get_args(allowed) if get_origin(allowed) in (Union, UnionType) else (allowed,)
            if not any(_is_a(value, kind) for kind in kinds):
                shown = " or ".join(_SHOWN_KINDS[kind] for kind in kinds if kind in _SHOWN_KINDS)
                raise InputError(f"`{option.name}` of {type(self).__name__} must be {shown}, got {value!r}.")

    @classmethod
    def paper(cls) -> "TeacherConfig":
        """The options that reproduce the method's paper; where they are the defaults, `cls()`."""
        return cls()

    @classmethod
    def neutral(cls) -> "TeacherConfig":
        """The options under which training is the parent Trainer's, bit for bit."""
        raise TypeError(f"{cls.__name__} does not define `neutral`.")

    def check_plan(self, plan: TrainingPlan) -> None:
        """Raises an `InputError` if the options do not fit the length of a run."""

    def build(self) -> "Teacher":
        """The teacher that these options describe."""
        raise TypeError(f"{type(self).__name__} does not define `build`.")

    def _check_weight(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"`{name}` must be a finite number of at least 0, got {value}. 0 drops the term.")

    def _check_temperature(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"`temperature` must be positive, got {self.temperature}. 1 leaves the logits unchanged.")

    def _check_choice(self, name: str, choices: Mapping[str, Any]) -> None:
        if getattr(self, name) not in choices:
            raise InputError(f"`{name}` must be one of {sorted(choices)}, got {getattr(self, name)!r}.")

    def _check_decay(self, name: str) -> None:
        if not 0 <= getattr(self, name) < 1:
            raise InputError(
                f"`{name}` is the weight of the old value and must be from 0 to below 1, got {getattr(self, name)}."
            )

    def _check_epochs(self, name: str) -> None:
        length = getattr(self, name)
        if length is not None and length < 1:
            raise InputError(
                f"`{name}` must be a whole number of at least 1, got {length}. "
                "Leave it out to fit it to the number of epochs."
            )

    def _check_rampup(self) -> None:
        length = self.rampup_epochs
        if length is not None and not (math.isfinite(length) and length >= 0):
            raise InputError(
                f"`rampup_epochs` must be a finite number of at least 0, got {length}. 0: full weight at once."
            )


_SHOWN_KINDS = {float: "a number", int: "a whole number", bool: "True or False", str: "a string", NoneType: "None"}


def _is_a(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    # Other kinds, such as a choice, have checks of their own.
    return kind not in _SHOWN_KINDS or isinstance(value, kind)


@dataclass(frozen=True)
class TeacherBatch:
    """One micro-batch of training as a teacher sees it.

    Attributes:
        inputs: The model's inputs, without the example indices.
        indices: Positions in the training set, int64 `(batch_size,)`.
        labels: Class indices `(batch_size,)`, for other problems numbers; `None` if the batch has none.
        student_logits: The student's output for the update, at least fp32, with gradient, `(batch_size, num_labels)`.
        progress: Where training is.
        forward: Runs the student again, with gradient: inputs to logits. Safe under DistributedDataParallel and
            gradient accumulation.
    """

    inputs: Mapping[str, Any]
    indices: Tensor
    labels: Tensor | None
    student_logits: Tensor
    progress: Progress
    forward: Callable[[Mapping[str, Any]], Tensor]


@dataclass(frozen=True)
class DistillationTerm:
    """One weighted part of the loss, unreduced: only the trainer knows by what the base loss was divided.

    Attributes:
        per_example: Divergence of each example, `(batch_size,)`, with gradient to the student only; of other examples
            than the batch's, as many as there are.
        weight: λ, the factor in the total loss. The log shows the term without it.
        agreement: Whether student and teacher give the same answer, from 0 to 1 for each example, 0 without a teacher;
            to be logged.
    """

    per_example: Tensor
    weight: float
    agreement: Tensor | None = None


class Teacher:
    """What stands between plain fine-tuning and a self-distillation method. Override what your method needs.

    Order of calls: `reset`; `load_state_dict` when a run is resumed; `on_train_begin`; `on_epoch_begin`; for each
    micro-batch `loss_terms` and `base_loss_weight`, then `observe`; after each optimizer step `on_step_end`;
    `on_train_end` once. One object may train several times.

    Attributes:
        config: The options it was built from, if any; a resumed run must have the same.
        needs_batches: Whether the trainer hands over the training batches (example indices and student logits).
        is_stateful: Whether checkpoints must carry the teacher. Without batches and state it is the parent Trainer.
        runs_model: Whether it runs the model, or a copy of its weights, beside the training forward. Such a teacher is
            refused where the weights are sharded (FSDP, DeepSpeed ZeRO-3).
        learning_rate_factor: Optimizer steps done -> factor on the base learning rate, in the place of the scheduler
            that `TrainingArguments` ask for; `None` leaves that one.
        memory: The memory with a row for each training example, where the method keeps one and has seen a batch.
        memory_device: Where to keep it; `None` is the device of the training.
        distilled_steps: Optimizer steps whose loss contained a distillation term; counted by the trainer.
        accepts_changes: Whether the run may be resumed from one with other options; set by the trainer.
        student: The model being trained, set by the trainer before `on_train_begin`.
        problem: What the model's outputs mean, set by the trainer before the first `loss_terms`.
    """

    needs_batches: bool = True
    is_stateful: bool = True
    runs_model: bool = False
    learning_rate_factor: Callable[[int], float] | None = None
    memory: ExampleMemory | None = None
    memory_device: str | torch.device | None = None
    distilled_steps: int = 0
    accepts_changes: bool = False
    student: Student | None = None
    problem: Problem | None = None
    config: TeacherConfig | None = None

    # ---- Training ----

    def reset(self, num_examples: int) -> None:
        """Forgets everything, before a training run over `num_examples` examples."""

    def on_train_begin(self, plan: TrainingPlan) -> str | None:
        """Checks the plan; what it returns is logged as one line."""

    def on_epoch_begin(self, progress: Progress) -> None:
        """Called on every process before the first batch of an epoch, also of an epoch that is resumed half-way."""

    def base_loss_weight(self, batch: TeacherBatch) -> float:
        """Factor on the base loss."""
        return 1.0

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

    def _new_memory(self, memory_class: type[M], num_examples: int, rows: Tensor) -> M:
        """A memory for such rows."""
        device = self.memory_device or rows.device
        return memory_class(num_examples, rows.size(-1), device, rows.dtype, merge_device=rows.device)

    def _loaded_memory(self, memory_class: type[M], state: Mapping[str, Any], device: Any) -> M:
        """The memory of a checkpoint, for a training on `device`."""
        return memory_class.from_state_dict(state, self.memory_device or device, merge_device=device)

    # ---- Prediction ----

    def ensemble(self) -> list[ModelCopy]:
        """Copies whose softmax is averaged with the student's in `evaluate` and `predict`.

        The student alone is scored too, as `eval_student_…`; `eval_loss` is the plain loss of the mean.
        """
        return []

    @property
    def predicts_as_ensemble(self) -> bool:
        """Whether it declares an ensemble, which may have the student alone as yet."""
        return type(self).ensemble is not Teacher.ensemble

    @property
    def predicts_with_copies(self) -> bool:
        """Whether it declares an ensemble or copies to score."""
        return self.predicts_as_ensemble or type(self).scored_copies is not Teacher.scored_copies

    def scored_copies(self) -> dict[str, ModelCopy]:
        """Copies that `evaluate` scores beside the student, as `eval_<name>_…`."""
        return {}

    # ---- What the memory knows ----

    def example_probabilities(self) -> tuple[Tensor, Tensor]:
        """What the memory predicts for each training example.

        Returns:
            Probabilities `(num_examples, num_labels)` and which examples have them, bool `(num_examples,)`.

        Raises:
            InputError: If the method keeps no predictions or has none yet (an epoch must have ended), or if there are
                no labels to choose from.
        """
        if self.problem is not None and self.problem.name != SingleLabel.name:
            raise InputError(
                f"Examples must have one label of several to be ranked by it, got a model for {self.problem.name}."
            )
        found = self._example_probabilities()
        if found is None or not found[1].any():
            raise InputError(
                f"{type(self).__name__} must have predictions for the training examples, but has none. Train for at "
                "least an epoch, with a method that keeps them (README: methods)."
            )
        return found

    def _example_probabilities(self) -> tuple[Tensor, Tensor] | None:
        return None

    def rank_label_errors(self) -> list[LabelErrorCandidate]:
        """The training examples by how little the memory believes their given label, the least believed first."""
        probabilities, written = self.example_probabilities()
        student = self.student
        return rank_label_errors(
            probabilities, written, student.train_dataset, student.processing_class, student.label_names
        )

    # ---- Checkpoints ----

    def state_dict(self) -> dict[str, Tensor | int | float | str]:
        """Tensors, plain numbers and strings for a checkpoint, by name; `{}` needs none. Called on every process.

        Without it a teacher that observes batches or steps cannot be resumed.
        """
        return {}

    @property
    def can_be_resumed(self) -> bool:
        """Whether what it learns from batches and steps is in its `state_dict`."""
        learns = type(self).observe is not Teacher.observe or type(self).on_step_end is not Teacher.on_step_end
        return not (self.is_stateful and learns) or type(self).state_dict is not Teacher.state_dict

    def load_state_dict(self, state: dict[str, Tensor | int | float], device: Any) -> None:
        """Takes over what `state_dict` returned, with the tensors moved to `device`."""


class ConfiguredTeacher(Teacher):
    """A teacher that is built from a config.

    Args:
        config: Options; `None` is the defaults.
    """

    config_class: ClassVar[type[TeacherConfig]]

    def __init__(self, config: TeacherConfig | None = None):
        self.config = config if config is not None else self.config_class()
        self.reset(0)
