"""The base of the memories: tables with a row for each training example, and the one transition between epochs."""

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed import is_distributed, rank
from ..errors import InputError
from .storage import IN_MEMORY, TableStorage

# Batches that wait to be added, and the size above which one does not wait.
_MOST_BATCHES = 64
_MOST_NUMBERS_TO_KEEP = 2**12
# Of a table, moved at a time: few enough to stay in a processor's cache.
_NUMBERS_IN_A_PART = 2**18


class ExampleMemory:
    """Tables with a row for each training example; the base of the memories.

    Within an epoch the tables are only read and the staged rows are only written, so neither the order of the batches
    nor a repeated example nor gradient accumulation changes what is read. A transition, called before each epoch, moves
    the staged rows over; it is also the only moment at which processes talk to each other.

    Args:
        num_examples: Rows, one for each training example.
        num_labels: Columns.
        storage: Where the tables are kept, and how precisely; its device is the CPU where it does not say.
        dtype: Of what is read: `torch.float32`, or `torch.float64` for a student that computes in double precision.
        merge_device: The device of the training, on which processes can talk to each other; `None` is that of the
            tables.

    Attributes:
        num_tables: How many tables there are.
        epoch: Index of the epoch that the tables are ready for (from 0).
        coverage: Share of the training examples with a row in the first table, from 0 to 1.
        is_complete: Whether every example has a row in every table.

    Raises:
        InputError: If the tables are larger than what is free.
        ValueError: If a size is less than 1.

    Example:
        >>> from lstsd_hf import LatestMemory
        >>> memory = LatestMemory(num_examples=3, num_labels=2)
        >>> memory.stage(torch.tensor([2]), torch.tensor([[1.0, -1.0]]))
        >>> memory.transition(epoch=1)
        >>> rows, written = memory.read(torch.tensor([2, 0]))
        >>> rows.tolist(), written.tolist()
        ([[[1.0, -1.0], [0.0, 0.0]]], [[True, False]])
    """

    num_tables: int = 1

    def __init__(
        self,
        num_examples: int,
        num_labels: int,
        storage: TableStorage = IN_MEMORY,
        dtype: torch.dtype = torch.float32,
        merge_device: torch.device | str | None = None,
    ):
        for field, value in (("num_examples", num_examples), ("num_labels", num_labels)):
            if value < 1:
                raise ValueError(f"`{field}` must be at least 1, got {value}.")
        self.num_examples = num_examples
        self.num_labels = num_labels
        self.epoch = 0
        self._storage = storage = storage.on(torch.device("cpu"))
        self._dtype = dtype
        self._merge_device = merge_device or storage.device
        stored, columns = storage.dtype or dtype, (self.num_tables + 1) * num_labels
        flags, counts = self.num_tables, torch.int32.itemsize
        storage.check_fits(type(self).__name__, num_examples * columns, num_examples * (flags + counts), stored)
        self._rows = storage.zeros(self.num_tables, num_examples, num_labels, dtype=stored)
        self._written = storage.zeros(self.num_tables, num_examples, dtype=torch.bool)
        # Sums of rows, and their counts: a repeated example (a sampler's refill, another process) is averaged. The last
        # row takes in what is passed over.
        self._staged_with_rest = storage.zeros(num_examples + 1, num_labels, dtype=stored)
        self._counts_with_rest = storage.zeros(num_examples + 1, dtype=torch.int32)
        self._staged, self._counts = self._staged_with_rest[:-1], self._counts_with_rest[:-1]
        # Batches that `_staged` does not have yet: one addition for many of them costs what it costs for one.
        self._arrived: list[tuple[Tensor, Tensor]] = []
        self._measure_coverage()

    @classmethod
    def for_rows(cls, num_examples: int, rows: Tensor, storage: TableStorage) -> Self:
        """An empty memory for such rows.

        Args:
            num_examples: Rows, one for each training example.
            rows: The first ones, `(batch_size, num_labels)`, on the device of the training.
            storage: Where the tables are kept, and how precisely.
        """
        return cls(num_examples, rows.size(-1), storage, rows.dtype, merge_device=rows.device)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of some examples.

        Args:
            indices: Example indices, int64 `(batch_size,)`, on the device of the training.

        Returns:
            Rows `(num_tables, batch_size, num_labels)` and the written-mask, bool `(num_tables, batch_size)`, on the
            same device.

        Raises:
            IndexError: If an index is out of range. On an accelerator the check would stall the device; there
                `ExampleIndexCollator` has made it.
        """
        own = indices.to(self._rows.device)
        try:
            rows, written = self._rows.index_select(1, own), self._written.index_select(1, own)
            return rows.to(indices.device, self._dtype), written.to(indices.device)
        except (IndexError, RuntimeError):
            self._check_indices(indices)
            raise

    def stage(self, indices: Tensor, rows: Tensor) -> None:
        """Keeps a batch of student outputs for the next transition.

        Rows with NaN or +inf, or with nothing finite, are passed over; -inf beside finite outputs is an excluded label.

        Args:
            indices: Example indices, int64 `(batch_size,)`.
            rows: Student outputs, `(batch_size, num_labels)`; the gradient is not kept.

        Raises:
            IndexError: As in `read`, at the latest at the next transition.
            ValueError: If `rows` is not of shape `(batch_size, num_labels)`.
        """
        if rows.shape != (len(indices), self.num_labels):
            raise ValueError(
                f"`rows` must have the shape (batch_size, num_labels) = ({len(indices)}, {self.num_labels}), "
                f"got {tuple(rows.shape)}."
            )
        if rows.numel() > _MOST_NUMBERS_TO_KEEP:
            self._add_arrived()
            self._add(indices, rows.detach())
            return
        # Copied: a compiled model may write its next outputs to the same place.
        self._arrived.append((indices, rows.detach().clone()))
        if len(self._arrived) == _MOST_BATCHES:
            self._add_arrived()

    def _add_arrived(self) -> None:
        if self._arrived:
            indices, rows = (torch.cat(parts) for parts in zip(*self._arrived, strict=True))
            self._arrived = []
            self._add(indices, rows)

    def _add(self, indices: Tensor, rows: Tensor) -> None:
        staged, counts = self._staged_with_rest, self._counts_with_rest
        indices, rows = indices.to(staged.device), rows.to(staged.device, staged.dtype)
        if indices.device.type == "cpu":
            self._check_indices(indices)
        largest = rows.amax(dim=-1)
        # Infinity minus itself is NaN, and NaN is the largest of all, so this is false for both.
        is_finite = largest - largest == 0
        places = torch.where(is_finite, indices, self.num_examples)
        staged.index_add_(0, places, rows)
        counts.index_add_(0, places, torch.ones_like(places, dtype=counts.dtype))

    def fill(self, rows: Tensor, written: Tensor | None = None) -> None:
        """Writes given predictions into every table, as if each epoch so far had produced them.

        Args:
            rows: Predictions as the tables hold them, `(num_examples, num_labels)`.
            written: Which examples have one, bool `(num_examples,)`; `None` is all.

        Raises:
            ValueError: If `rows` is not of shape `(num_examples, num_labels)`.
        """
        if rows.shape != (self.num_examples, self.num_labels):
            raise ValueError(
                f"`rows` must have the shape (num_examples, num_labels) = ({self.num_examples}, {self.num_labels}), "
                f"got {tuple(rows.shape)}."
            )
        self._rows.copy_(rows.expand_as(self._rows))
        self._written.copy_(torch.ones_like(self._written) if written is None else written.expand_as(self._written))
        self._measure_coverage()

    def skip_to(self, epoch: int) -> None:
        """Makes the tables ready for `epoch` as they are: the epochs between staged nothing.

        Args:
            epoch: Index of an epoch (from 0), not before the one that they are ready for.
        """
        self.epoch = max(self.epoch, epoch)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Everything needed to go on, with the staged rows of all processes merged (every process must call it)."""
        self._add_arrived()
        return {
            "rows": self._rows,
            "written": self._written,
            "staged": self._merged(self._staged),
            "counts": self._merged(self._counts),
            "epoch": self.epoch,
        }

    @classmethod
    def from_state_dict(
        cls,
        state: dict[str, Tensor | int],
        storage: TableStorage = IN_MEMORY,
        merge_device: torch.device | str | None = None,
    ) -> Self:
        """Rebuilds a memory from `state_dict()`. Of several processes only the first takes over the staged rows, so
        that the next merge counts them once.

        Args:
            state: The state.
            storage: Where the tables are kept from now on, as precisely as before.
            merge_device: The device of the training.

        Raises:
            InputError: If the storage has another precision.
        """
        _, num_examples, num_labels = state["rows"].shape
        stored = state["rows"].dtype
        storage.check_precision(stored)
        dtype = torch.promote_types(stored, torch.float32)
        memory = cls(num_examples, num_labels, storage, dtype, merge_device)
        memory._load(state)
        return memory

    def _load(self, state: dict[str, Tensor | int]) -> None:
        self._rows.copy_(state["rows"])
        self._written.copy_(state["written"])
        if rank() == 0:
            self._staged.copy_(state["staged"])
            self._counts.copy_(state["counts"])
        self.epoch = state["epoch"]
        self._measure_coverage()

    def _table(self, position: int) -> Tensor:
        return self._rows[position].to(self._dtype)

    def _is_ready_for(self, epoch: int) -> bool:
        if epoch not in (self.epoch, self.epoch + 1):
            raise InputError(
                f"`epoch` must be {self.epoch} (the epoch that the teacher memory is ready for) or {self.epoch + 1} "
                f"(the next one), got {epoch}. A run whose epochs were cut short (`control.should_epoch_stop`) cannot "
                "be resumed; else, was a checkpoint of another run loaded?"
            )
        return epoch == self.epoch

    def _commit(self, epoch: int, write: Callable[[slice, Tensor, Tensor | None], None]) -> None:
        """Ends a transition: hands over the staged rows part by part, so that no second table is needed.

        Args:
            epoch: The epoch about to begin.
            write: Takes some examples, the means of their staged rows over all processes, `(num_rows, num_labels)`, and
                which of them have one, bool `(num_rows, 1)`; `None` is all of them.
        """
        self._add_arrived()
        size = max(1, _NUMBERS_IN_A_PART // self.num_labels)
        for start in range(0, self.num_examples, size):
            part = slice(start, start + size)
            rows, counts = self._merged(self._staged[part]), self._merged(self._counts[part])[:, None]
            fewest, most = (int(count) for count in counts.aminmax())
            if most > 1:
                rows = rows.to(self._dtype) / counts.clamp(min=1)
            if most > 0:
                write(part, rows, None if fewest > 0 else counts > 0)
            self._staged[part].zero_()
        self._counts.zero_()
        # What was passed over may be NaN.
        self._staged_with_rest[-1].zero_()
        self.epoch = epoch
        self._measure_coverage()

    def _mark(self, tables: slice, part: slice, fresh: Tensor | None) -> None:
        """Takes note of the examples that have a row now."""
        if fresh is None:
            self._written[tables, part] = True
        else:
            self._written[tables, part] |= fresh.squeeze(-1)

    def _measure_coverage(self) -> None:
        # Waits for the device, so once an epoch and not whenever asked.
        counts = [_number_of_true(table) for table in self._written]
        self.coverage = counts[0] / self.num_examples
        self.is_complete = min(counts) == self.num_examples

    def _merged(self, staged: Tensor) -> Tensor:
        """Sums or counts of this process to those of all of them."""
        if not is_distributed():
            return staged
        summed = staged.to(self._merge_device, copy=True)
        dist.all_reduce(summed)
        return summed.to(staged.device)

    def _check_indices(self, indices: Tensor) -> None:
        if not len(indices):
            return
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= self.num_examples:
            raise index_out_of_range(low if low < 0 else high, self.num_examples)


def _number_of_true(mask: Tensor) -> int:
    # Many times as fast as torch's sum of truth values.
    return int(np.count_nonzero(mask.numpy()) if mask.device.type == "cpu" else mask.sum())


def index_out_of_range(index: int, num_examples: int) -> IndexError:
    """The error for an example index that no row belongs to."""
    return IndexError(
        f"`example_index` must be between 0 and {num_examples - 1} (the training set has {num_examples} examples), "
        f"got {index}. The index is a position in the training set; do not change the dataset while training."
    )
