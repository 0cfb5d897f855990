"""The base of the memories: tables with a row for each training example, and the one transition between epochs."""

from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..distributed import is_distributed
from ..errors import InputError
from .indices import check_indices
from .rows import own_rows, stored_rows
from .storage import IN_MEMORY, TableStorage

# Batches that wait to be added, and the size above which one does not wait.
_MOST_BATCHES = 64
_MOST_NUMBERS_TO_KEEP = 2**12
# How many numbers of a table are moved at a time.
_NUMBERS_IN_CACHE = 2**18
NUMBERS_AT_ONCE = 2**24


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
        is_shard: Whether it holds some of the examples for all processes, so that it has nothing to merge.

    Raises:
        InputError: If the tables are larger than what is free.
        ValueError: If a size is less than 1.

    Examples:
        >>> from lstsd_hf import LatestMemory
        >>> memory = LatestMemory(num_examples=3, num_labels=2)
        >>> memory.stage(torch.tensor([2]), torch.tensor([[1.0, -1.0]]))
        >>> memory.transition(epoch=1)
        >>> rows, written = memory.read(torch.tensor([2, 0]))
        >>> rows.tolist(), written.tolist()
        ([[[1.0, -1.0], [0.0, 0.0]]], [[True, False]])
    """

    num_tables: int = 1
    is_shard: bool = False

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
        self.num_examples, self.num_labels = num_examples, num_labels
        self.epoch = 0
        self._storage = storage = storage.on(torch.device("cpu"))
        self._dtype = dtype
        self._merge_device = torch.device(merge_device or storage.device)
        storage.check_fits(type(self).__name__, self._num_bytes)
        self._form = form = stored_rows(num_labels, storage.top_k, storage.dtype or dtype, dtype)
        self._rows = storage.zeros(self.num_tables, num_examples, form.num_columns, dtype=form.dtype)
        self._written = storage.zeros(self.num_tables, num_examples, dtype=torch.bool)
        # What the running epoch said, and how often. The last row takes in what is passed over.
        self._staged_with_rest = storage.zeros(num_examples + 1, form.num_columns, dtype=form.staged_dtype)
        self._counts_with_rest = storage.zeros(num_examples + 1, dtype=torch.int32)
        # Batches that `_staged` does not have yet: one addition for many of them costs what it costs for one.
        self._arrived: list[tuple[Tensor, Tensor]] = []
        self._measure_coverage()

    def _num_bytes(self, dtype: torch.dtype | None) -> int:
        form = stored_rows(self.num_labels, self._storage.top_k, dtype or self._dtype, self._dtype)
        numbers = form.num_columns * (self.num_tables * form.dtype.itemsize + form.staged_dtype.itemsize)
        return self.num_examples * (numbers + self.num_tables + torch.int32.itemsize)

    @property
    def _staged(self) -> Tensor:
        return self._staged_with_rest[:-1]

    @property
    def _counts(self) -> Tensor:
        return self._counts_with_rest[:-1]

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
        device = indices.device
        is_here = device == self._rows.device
        own = indices if is_here else indices.to(self._rows.device)
        try:
            rows, written = self._rows.index_select(1, own), self._written.index_select(1, own)
            if not is_here:
                rows, written = rows.to(device), written.to(device)
            return self._form.decode(rows), written
        except (IndexError, RuntimeError):
            check_indices(indices, self.num_examples)
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
        staged = self._staged_with_rest
        indices = indices.to(staged.device)
        if indices.device.type == "cpu":
            check_indices(indices, self.num_examples)
        rows, is_usable = self._form.encode(rows.to(staged.device))
        self._form.put(staged, self._counts_with_rest, torch.where(is_usable, indices, self.num_examples), rows)

    def add_staged(self, part: slice, rows: Tensor, counts: Tensor) -> None:
        """Adds what another memory has staged.

        Args:
            part: Of which examples.
            rows: Sums of their rows, `(num_rows, num_labels)`.
            counts: Of how many rows each, int32 `(num_rows,)`.
        """
        self._staged[part] += rows.to(self._staged.device)
        self._counts[part] += counts.to(self._counts.device)

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
        stored, _ = self._form.encode(rows.to(self._rows.device))
        self._rows.copy_(stored.expand_as(self._rows))
        self._written.copy_(torch.ones_like(self._written) if written is None else written.expand_as(self._written))
        self._measure_coverage()

    def skip_to(self, epoch: int) -> None:
        """Makes the tables ready for `epoch` as they are: the epochs between staged nothing.

        Args:
            epoch: Index of an epoch (from 0), not before the one that they are ready for.
        """
        self.epoch = max(self.epoch, epoch)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, with the staged rows of all processes merged (every process must call it)."""
        self._add_arrived()
        staged, counts = self._staged, self._counts
        owners = self._form.owners(counts, self._merge_device) if self._merges else None
        if self._merges:
            staged = self._storage.zeros(*staged.shape, dtype=staged.dtype)
            counts = self._storage.zeros(*counts.shape, dtype=counts.dtype)
            for part in self._parts():
                staged[part], counts[part] = self._merged(part)
        return {
            "rows": self._rows,
            "written": self._written,
            "staged": staged,
            "counts": counts,
            **({} if owners is None else {"owners": owners}),
            "epoch": self.epoch,
            "num_labels": self.num_labels,
            "top_k": self._storage.top_k,
            "dtype": str(self._dtype).removeprefix("torch."),
        }

    def example_axis(self, name: str) -> int:
        """Which axis of a tensor in `state_dict()` is that of the examples."""
        return 1 if name in ("rows", "written") else 0

    @classmethod
    def from_state_dict(
        cls,
        state: dict[str, Any],
        storage: TableStorage = IN_MEMORY,
        merge_device: torch.device | str | None = None,
    ) -> Self:
        """Rebuilds a memory from `state_dict()`; each staged row on one process, so that the next merge counts it once.

        Args:
            state: The state.
            storage: Where the tables are kept from now on, as precisely as before.
            merge_device: The device of the training.

        Raises:
            InputError: If the storage has another precision.
        """
        storage.check_form(state["rows"].dtype, state["top_k"])
        dtype = getattr(torch, state["dtype"])
        memory = cls(state["rows"].size(1), state["num_labels"], storage, dtype, merge_device)
        memory._load(state)
        return memory

    def _load(self, state: dict[str, Any]) -> None:
        self._rows.copy_(state["rows"])
        self._written.copy_(state["written"])
        own = own_rows(state.get("owners")) if self._merges else slice(None)
        for table, saved in ((self._staged, state["staged"]), (self._counts, state["counts"])):
            table[own] = saved[own].to(table.device)
        self.epoch = state["epoch"]
        self._measure_coverage()

    def _table(self, position: int) -> Tensor:
        return self._form.decode(self._rows[position])

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
        for part in self._parts():
            rows, counts = self._merged(part)
            counts = counts[:, None]
            fewest, most = torch.stack(counts.aminmax()).tolist()
            if most > 1:
                rows = rows / counts.clamp(min=1)
            if most > 0:
                write(part, rows, None if fewest > 0 else counts > 0)
            self._staged[part].zero_()
        # With the last row, in which what was passed over may be NaN.
        self._staged_with_rest[-1].zero_()
        self._counts_with_rest.zero_()
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
        counts = self.rows_written
        self.coverage = counts[0] / self.num_examples
        self.is_complete = min(counts) == self.num_examples

    @property
    def rows_written(self) -> list[int]:
        """How many examples have a row in each table. Waits for the device."""
        # numpy counts truth values many times as fast as torch.
        tables = self._written
        return [int(np.count_nonzero(table.numpy()) if table.device.type == "cpu" else table.sum()) for table in tables]

    def _merged(self, part: slice) -> tuple[Tensor, Tensor]:
        """What all processes have staged of some examples, and how often."""
        staged, counts = self._staged[part], self._counts[part]
        return self._form.merge(staged, counts, self._merge_device) if self._merges else (staged, counts)

    @property
    def _merges(self) -> bool:
        """Whether other processes have rows of the same examples."""
        return is_distributed() and not self.is_shard

    def _parts(self) -> Iterator[slice]:
        """The examples, as many at a time as are best moved together."""
        # On a processor so few that they stay in its cache; elsewhere each part has a price.
        is_near = self._rows.device.type == "cpu" and not self._merges
        size = max(1, (_NUMBERS_IN_CACHE if is_near else NUMBERS_AT_ONCE) // self._form.num_columns)
        for start in range(0, self.num_examples, size):
            yield slice(start, start + size)
