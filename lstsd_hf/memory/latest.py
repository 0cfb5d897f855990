"""The newest prediction of every training example."""

import torch
from torch import Tensor

from .staged import ExampleMemory


class LatestMemory(ExampleMemory):
    """One table: each example's newest staged row.

    Arguments and attributes are those of `ExampleMemory`.

    Examples:
        >>> memory = LatestMemory(num_examples=2, num_labels=2)
        >>> memory.stage(torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
        >>> memory.transition(epoch=1)
        >>> memory.latest.tolist(), memory.coverage
        ([[1.0, 0.0], [0.0, 0.0]], 0.5)
    """

    @property
    def latest(self) -> Tensor:
        """The rows, `(num_examples, num_labels)`; zeros where never written."""
        return self._table(0)

    @property
    def written(self) -> Tensor:
        """Which examples have a row, bool `(num_examples,)`."""
        return self._written[0]

    def transition(self, epoch: int) -> None:
        """Makes the table ready for `epoch`: staged rows replace older ones. A second call for it does nothing.

        Every process must call it.

        Args:
            epoch: Index of the epoch about to begin (from 0); after the last epoch, their number.

        Raises:
            InputError: If `epoch` is neither the current epoch nor the next one.
        """
        if self._is_ready_for(epoch):
            return

        def write(part: slice, rows: Tensor, fresh: Tensor | None) -> None:
            replace_fresh(self._rows[0, part], rows, fresh)
            self._mark(slice(None), part, fresh)

        self._commit(epoch, write)


def replace_fresh(table: Tensor, rows: Tensor, fresh: Tensor | None) -> None:
    """Writes the rows of the examples that have a new one, all of them for `None`, into a table."""
    table.copy_(rows if fresh is None else torch.where(fresh, rows.to(table.dtype), table))
