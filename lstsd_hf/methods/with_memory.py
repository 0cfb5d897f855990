"""What the methods with a memory share: a row for each training example, from one epoch to the next."""

from typing import ClassVar

import torch
from torch import Tensor

from ..context import TrainingContext
from ..errors import InputError
from ..memory import ExampleMemory, ShardedMemory, new_memory, restored_memory
from ..observers import State, TrainingBatch
from ..problem_types import SingleLabel
from ..schedules import Progress
from .base import ConfiguredTeacher


class MemoryTeacher(ConfiguredTeacher):
    """A teacher that remembers something of every training example, staged in one epoch and read in the next.

    A subclass names its `memory_class` and says in `loss_terms` what the memory teaches.

    Attributes:
        memory_class: The kind of memory.
        memory: The memory, `None` until the first row is staged.

    Examples:
        >>> from lstsd_hf import LatestMemory, NoTeacherConfig
        >>> class Remembers(MemoryTeacher):
        ...     config_class = NoTeacherConfig
        ...     memory_class = LatestMemory
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher=Remembers())
        >>> _ = trainer.train()
        >>> trainer.teacher.memory.latest.shape == (len(data), 2)
        True
    """

    memory_class: ClassVar[type[ExampleMemory]]
    memory: ExampleMemory | ShardedMemory | None = None

    def reset(self) -> None:
        self.memory = None
        self._expected: Tensor | None = None

    def rows(self, batch: TrainingBatch) -> Tensor:
        """What to remember of a batch, `(batch_size, num_columns)`: the student's logits unless overridden."""
        return batch.student_logits

    def transition(self, epoch: int) -> None:
        """Makes the memory ready for an epoch; override it if yours takes more than the epoch."""
        self.memory.transition(epoch)

    def on_epoch_begin(self, progress: Progress) -> None:
        self._move_on(progress)

    def on_epoch_examples(self, indices: Tensor) -> None:
        if self.memory is None:
            self._expected = indices
        else:
            self.memory.expect(indices)

    def on_train_end(self, progress: Progress) -> None:
        self._move_on(progress)

    def _move_on(self, progress: Progress) -> None:
        if self.memory is not None:
            self.transition(progress.epoch)

    def observe(self, batch: TrainingBatch) -> None:
        self.stage(batch.indices, self.rows(batch))

    def stage(self, indices: Tensor, rows: Tensor) -> None:
        """Keeps rows for the next transition.

        Args:
            indices: Example indices, int64 `(batch_size,)`.
            rows: What to remember, `(batch_size, num_columns)`.
        """
        if self.memory is None:
            context = self.context
            check_form(context, type(self).__name__, keeps_logits=type(self).rows is MemoryTeacher.rows)
            self.memory = new_memory(self.memory_class, context.num_examples, rows, context.storage)
            if self._expected is not None:
                self.memory.expect(self._expected)
                self._expected = None
        self.memory.stage(indices, rows)

    def recall(self, batch: TrainingBatch, like: Tensor) -> tuple[Tensor, Tensor]:
        """What the memory's first table has of a batch.

        Args:
            batch: The batch.
            like: A tensor of the shape and kind of the rows, `(batch_size, num_columns)`.

        Returns:
            The rows, zeros where an example has none, and which examples have one, bool `(batch_size,)`.
        """
        if self.memory is None:
            return torch.zeros_like(like), torch.zeros(len(like), dtype=torch.bool, device=like.device)
        rows, written = self.memory.read(batch.indices)
        return rows[0], written[0]

    def log_metrics(self) -> dict[str, float]:
        return {} if self.memory is None else {"teacher_coverage": self.memory.coverage}

    def state_dict(self) -> State:
        return {} if self.memory is None else self.memory.state_dict()

    def load_state_dict(self, state: State) -> None:
        context = self.context
        self.memory = None
        if state:
            self.memory = restored_memory(self.memory_class, state, context.storage, context.device)


def check_form(context: TrainingContext, name: str, *, keeps_logits: bool = True) -> None:
    """Raises an `InputError` if the run's storage keeps the largest probabilities of what is not one distribution.

    Args:
        context: The run.
        name: Of the method.
        keeps_logits: Whether it remembers the student's logits as they are.
    """
    kind, top_k = context.problem_type, context.storage.top_k
    if top_k is not None and not (keeps_logits and (kind is None or kind.name == SingleLabel.name)):
        raise InputError(
            f"`memory_storage` with top-{top_k} needs a method that remembers logits, and single-label classification, "
            f"got {name}{'' if kind is None else f' for {kind.name}'}. Leave it out."
        )
