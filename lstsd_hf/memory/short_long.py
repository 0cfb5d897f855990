"""LSTSD's two teachers of every training example."""

from torch import Tensor

from .latest import replace_fresh
from .staged import ExampleMemory


class TeacherMemory(ExampleMemory):
    """Short-term, long-term and staged student outputs (logits) of every training example.

    `read` returns the short-term table first, the long-term table second: one read serves both. Arguments and
    attributes are those of `ExampleMemory`.

    Examples:
        >>> memory = TeacherMemory(num_examples=2, num_labels=2)
        >>> memory.stage(torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> memory.transition(epoch=1, begins_mini_generation=True)
        >>> memory.read(torch.tensor([1]))[0].tolist()
        [[[0.0, 1.0]], [[0.0, 1.0]]]
    """

    num_tables = 2

    @property
    def short_term_logits(self) -> Tensor:
        """Each example's output in the previous epoch, `(num_examples, num_labels)`; zeros where never written."""
        return self._table(0)

    @property
    def short_term_written(self) -> Tensor:
        """Which examples have a short-term teacher, bool `(num_examples,)`."""
        return self._written[0]

    @property
    def long_term_logits(self) -> Tensor:
        """Each example's output in the last epoch of the previous mini-generation; zeros where never written."""
        return self._table(1)

    @property
    def long_term_written(self) -> Tensor:
        """Which examples have a long-term teacher, bool `(num_examples,)`."""
        return self._written[1]

    def transition(self, epoch: int, begins_mini_generation: bool) -> None:
        """Makes the tables ready for `epoch`: staged rows become the short-term teachers, and the long-term ones too
        where a mini-generation begins. A second call for the same epoch does nothing.

        Every process must call it; staged rows of all processes are merged here.

        Args:
            epoch: Index of the epoch about to begin (from 0); after the last epoch, their number.
            begins_mini_generation: Whether `epoch` is the first of a mini-generation.

        Raises:
            InputError: If `epoch` is neither the current epoch nor the next one.
        """
        if self._is_ready_for(epoch):
            return
        tables = slice(0, 2) if begins_mini_generation else slice(0, 1)

        def write(part: slice, rows: Tensor, fresh: Tensor | None) -> None:
            for table in self._rows[tables, part]:
                # Rows that were not visited keep their older teacher.
                replace_fresh(table, rows, fresh)
            self._mark(tables, part, fresh)

        self._commit(epoch, write)
