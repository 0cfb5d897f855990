"""Who sees the training batches: observers, of which the teacher is one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .context import TrainingContext
from .errors import InputError
from .problem_types import ProblemType
from .schedules import Progress
from .tokens import LabelledTokens

State = Mapping[str, Tensor | int | float | str | None]
"""Tensors, plain numbers and strings for a checkpoint, by name."""


def entries_below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries of a state whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class TrainingBatch:
    """One micro-batch of training as teachers and observers see it.

    In a token-level task an example is a labelled token, and `batch_size` the number of these in the micro-batch.

    Attributes:
        inputs: The model's inputs, without the example indices.
        indices: Positions in the training set, int64 `(batch_size,)`.
        labels: Class indices `(batch_size,)`, for other problem types numbers; `None` if the batch has none.
        student_logits: The student's output for the update, at least fp32, with gradient, `(batch_size, num_labels)`.
        problem_type: What the logits mean.
        progress: Where training is.
        forward: Runs the student again, with gradient: inputs to logits. Safe under DistributedDataParallel and
            gradient accumulation. In a token-level task it takes inputs of this batch, and returns its tokens' logits.
        tokens: Of a token-level task, where the tokens are in `inputs`.

    Examples:
        >>> class Accuracy(Observer):
        ...     name = "accuracy"
        ...     def observe(self, batch):
        ...         self.last = float((batch.student_logits.argmax(-1) == batch.labels).float().mean())
        >>> accuracy = Accuracy()
        >>> _ = LSTSDTrainer(model=model, args=args, train_dataset=data, observers=[accuracy]).train()
        >>> 0 <= accuracy.last <= 1
        True
    """

    inputs: Mapping[str, Any]
    indices: Tensor
    labels: Tensor | None
    student_logits: Tensor
    problem_type: ProblemType
    progress: Progress
    forward: Callable[[Mapping[str, Any]], Tensor]
    tokens: LabelledTokens | None = None

    def rows(self, logits: Tensor) -> Tensor:
        """What a model's outputs for `inputs` say of the examples, `(batch_size, num_labels)`."""
        return logits if self.tokens is None else self.tokens.of(logits)


class Observer:
    """Sees each training batch's indices, labels and outputs, and may keep tables of its own. Override what you need.

    Order of calls: `reset`; `load_state_dict` when a run is resumed; `on_train_begin`; `on_epoch_begin`; `observe` for
    each micro-batch; after each optimizer step `on_step_end`; `on_train_end` once. One object may train several times.

    Attributes:
        name: Name in checkpoints, unlike any other observer's of the same trainer.
        needs_batches: Whether it is to see the training batches.
        is_stateful: Whether checkpoints must carry its state.
        needs_whole_tables: Whether it keeps a table that cannot be divided over processes.
        takes_tokens: Whether it can work on the labelled tokens of a token-level task as if they were examples.
        context: The run; set before `reset`.

    Examples:
        >>> class CountsExamples(Observer):
        ...     name = "counts_examples"
        ...     def reset(self):
        ...         self.count = 0
        ...     def observe(self, batch):
        ...         self.count += len(batch.indices)
        ...     def state_dict(self):
        ...         return {"count": self.count}
        ...     def load_state_dict(self, state):
        ...         self.count = state["count"]
    """

    name: ClassVar[str]
    needs_batches: bool = True
    is_stateful: bool = True
    needs_whole_tables: bool = False
    takes_tokens: bool = False
    # A placeholder, so that a constructor of your own need not call `super().__init__()`.
    context: TrainingContext = TrainingContext()

    def begin(self, context: TrainingContext) -> None:
        """Enters a training run and forgets everything before it.

        Args:
            context: The run.
        """
        self.context = context
        self.reset()

    def reset(self) -> None:
        """Forgets everything; `self.context` is that of the run that begins."""

    def on_train_begin(self) -> str | None:
        """`self.context.plan` is known now. What it returns is logged as one line."""

    def on_epoch_begin(self, progress: Progress) -> None:
        """Called on every process before the first batch of an epoch, also of an epoch that is resumed half-way."""

    def on_epoch_examples(self, indices: Tensor) -> None:
        """With `memory_storage="sharded"` on several processes, called on each before an epoch's first batch.

        Args:
            indices: All examples that this process draws in the epoch, int64 `(num_drawn,)`; in an epoch that is
                resumed half-way also those that are skipped.
        """

    def observe(self, batch: TrainingBatch) -> None:
        """Takes note of a batch, after its loss was computed."""

    def on_step_end(self, progress: Progress) -> None:
        """Called after each optimizer step."""

    def on_train_end(self, progress: Progress) -> None:
        """Called on every process after the last epoch."""

    def log_metrics(self) -> dict[str, float]:
        """Plain numbers to add to each training log. Called on every process; keep it free of device waits."""
        return {}

    def state_dict(self) -> State:
        """What a checkpoint must hold; `{}` needs nothing. Called on every process.

        Without it an observer that learns from batches or steps cannot be resumed.
        """
        return {}

    def load_state_dict(self, state: State) -> None:
        """Takes over what `state_dict` returned; tensors are on the CPU."""

    @property
    def can_be_resumed(self) -> bool:
        """Whether what it learns from batches and steps is in its `state_dict`."""
        kind = type(self)
        learns = kind.observe is not Observer.observe or kind.on_step_end is not Observer.on_step_end
        return not (self.is_stateful and learns) or kind.state_dict is not Observer.state_dict


class ObserverGroup:
    """A trainer's teacher and observers, addressed as one. The teacher comes first.

    Args:
        teacher: The teacher.
        observers: The others.

    Attributes:
        teacher: The teacher.

    Raises:
        InputError: If two observers have the same name.
        TypeError: If something is no observer.
    """

    def __init__(self, teacher: Observer, observers: Sequence[Observer]):
        for observer in observers:
            if not isinstance(observer, Observer):
                raise TypeError(
                    f"`observers` must be a sequence of `Observer` objects, got {observer!r} of type "
                    f"{type(observer).__name__} among them."
                )
            if "." in getattr(observer, "name", "."):
                raise InputError(
                    f"`name` of {type(observer).__name__} must be a text without dots, its name in checkpoints, got "
                    f"{getattr(observer, 'name', None)!r}."
                )
        names = [observer.name for observer in observers]
        if len(set(names)) < len(names):
            raise InputError(f"`observers` must have different names, got {', '.join(names)}.")
        self.teacher = teacher
        self._observers = tuple(observers)

    def __iter__(self) -> Iterator[Observer]:
        return iter((self.teacher, *self._observers))

    @property
    def takes_part(self) -> bool:
        """Whether anyone is to hear of a training."""
        return bool(self._observers) or self.needs_batches or self.is_stateful

    @property
    def stateful_names(self) -> list[str]:
        """The names of the observers, without the teacher, whose state checkpoints must carry."""
        return sorted(observer.name for observer in self._observers if observer.is_stateful)

    @property
    def needs_batches(self) -> bool:
        """Whether anyone is to see the training batches."""
        return any(member.needs_batches for member in self)

    @property
    def is_stateful(self) -> bool:
        """Whether checkpoints must carry anyone's state."""
        return any(member.is_stateful for member in self)

    def introduce(self, context: TrainingContext) -> None:
        """Makes a trainer known to those that know none yet: they may be asked to predict before any training."""
        for member in self:
            if member.context.student is None:
                member.context = context

    def begin(self, context: TrainingContext) -> None:
        """Everyone enters a training run."""
        for member in self:
            member.begin(context)

    def on_epoch_examples(self, indices: Tensor) -> None:
        """Tells everyone what an epoch will draw."""
        for member in self:
            member.on_epoch_examples(indices)

    def observe(self, batch: TrainingBatch) -> None:
        """Shows a batch to everyone who is to see the batches."""
        for member in self:
            if member.needs_batches and (member is self.teacher or not getattr(self.teacher, "is_empty", False)):
                member.observe(batch)

    def log_metrics(self) -> dict[str, float]:
        """Everyone's numbers for the log."""
        return {name: value for member in self for name, value in member.log_metrics().items()}

    def check_can_be_resumed(self) -> None:
        """Raises an `InputError` if somebody would have forgotten what it learned before the interruption."""
        for member in self:
            if not member.can_be_resumed:
                raise InputError(
                    f"{type(member).__name__} must define `state_dict` and `load_state_dict` to be resumed, has "
                    "neither: what it learned before the interruption would be lost. Define them, or start a new run."
                )

    def state_dict(self) -> dict[str, Any]:
        """Everyone's state."""
        return {
            f"{prefix}{name}": value
            for prefix, member in self._by_prefix().items()
            for name, value in member.state_dict().items()
        }

    def load_state_dict(self, state: State, teacher_only: bool = False) -> None:
        """Takes over what `state_dict` returned.

        Args:
            state: The state.
            teacher_only: Leaves the observers as they are.
        """
        for prefix, member in self._by_prefix().items():
            if member is self.teacher or not teacher_only:
                own = entries_below(state, prefix)
                member.load_state_dict(own)

    def _by_prefix(self) -> dict[str, Observer]:
        return {"teacher.": self.teacher} | {f"observers.{observer.name}.": observer for observer in self._observers}
