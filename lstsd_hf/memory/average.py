"""One moving average over the epochs of every training example's predictions."""

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .latest import replace_fresh
from .staged import ExampleMemory


class MovingAverageMemory(ExampleMemory):
    """A bias-corrected moving average of each example's staged rows.

    Rows are averaged as they are, so stage what may be averaged, such as probabilities. The average begins at zero and
    is divided by the weight that it has seen, so that it is a mean of the rows from the first one on.

    Arguments and attributes are those of `ExampleMemory`.

    Examples:
        >>> memory = MovingAverageMemory(num_examples=1, num_labels=2)
        >>> for epoch, row in enumerate(([1.0, 0.0], [0.0, 1.0])):
        ...     memory.stage(torch.tensor([0]), torch.tensor([row]))
        ...     memory.transition(epoch + 1, decay=0.5)
        >>> [round(value, 3) for value in memory.moving_average[0].tolist()]
        [0.333, 0.667]
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self._storage.top_k is not None:
            raise InputError("`memory_storage` must keep all labels for a moving average, got top-k. Leave it out.")
        # What the average of ones would be: 1 - decay^t after t epochs.
        self._weights = self._storage.zeros(self.num_examples, 1, dtype=self._dtype)

    @property
    def moving_average(self) -> Tensor:
        """The averages, `(num_examples, num_labels)`; zeros where never written."""
        return _corrected(self._table(0), self._weights)

    @property
    def written(self) -> Tensor:
        """Which examples have an average, bool `(num_examples,)`."""
        return self._written[0]

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        rows, written = super().read(indices)
        weights = self._weights.index_select(0, indices.to(self._weights.device))
        return _corrected(rows, weights.to(rows.device)), written

    def fill(self, rows: Tensor, written: Tensor | None = None) -> None:
        super().fill(rows, written)
        self._weights.copy_(self._written[0, :, None])

    def transition(self, epoch: int, decay: float) -> None:
        """Makes the table ready for `epoch`: `row <- decay · row + (1 - decay) · staged row` where there is one.

        A second call for the same epoch does nothing; every process must call it.

        Args:
            epoch: Index of the epoch about to begin (from 0); after the last epoch, their number.
            decay: Weight of the old row, from 0 (keep the newest) to below 1.

        Raises:
            InputError: If `epoch` is neither the current epoch nor the next one.
        """
        if self._is_ready_for(epoch):
            return

        def write(part: slice, rows: Tensor, fresh: Tensor | None) -> None:
            table, weights = self._rows[0, part], self._weights[part]
            replace_fresh(table, decay * table.to(self._dtype) + (1 - decay) * rows.to(self._dtype), fresh)
            replace_fresh(weights, decay * weights + (1 - decay), fresh)
            self._mark(slice(None), part, fresh)

        self._commit(epoch, write)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "weights": self._weights}

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self._weights.copy_(state["weights"])


def _corrected(rows: Tensor, weights: Tensor) -> Tensor:
    # Rows never written are zeros and stay so.
    return rows / weights.clamp(min=torch.finfo(rows.dtype).tiny)
