"""What one epoch said of the training examples."""

import torch
from torch import Tensor

from .staged import ExampleMemory


class EpochMemory(ExampleMemory):
    """One table: each example's row of the last finished epoch, and none where that epoch did not see it.

    Arguments and attributes are those of `ExampleMemory`.

    Example:
        >>> memory = EpochMemory(num_examples=2, num_labels=2)
        >>> memory.stage(torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
        >>> memory.transition(epoch=1)
        >>> memory.transition(epoch=2)
        >>> memory.written.tolist()
        [False, False]
    """

    @property
    def rows(self) -> Tensor:
        """The rows, `(num_examples, num_labels)`; zeros where there is none."""
        return self._rows[0]

    @property
    def written(self) -> Tensor:
        """Which examples have a row, bool `(num_examples,)`."""
        return self._written[0]

    def transition(self, epoch: int) -> None:
        """Makes the table ready for `epoch`: staged rows replace the table. A second call for it does nothing.

        Every process must call it.

        Args:
            epoch: Index of the epoch about to begin (from 0); after the last epoch, their number.

        Raises:
            InputError: If `epoch` is neither the current epoch nor the next one.
        """
        if self._is_ready_for(epoch):
            return
        rows, fresh = self._staged_means()
        self._rows = torch.where(fresh, rows, 0.0)[None]
        self._written = fresh.squeeze(-1)[None]
        self._end_transition(epoch)
