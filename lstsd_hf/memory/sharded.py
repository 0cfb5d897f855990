"""A memory divided over the processes: none holds the rows of all examples."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed import gather_objects, num_processes, rank
from ..errors import InputError
from .rows import stored_rows
from .staged import NUMBERS_AT_ONCE, ExampleMemory
from .storage import TableStorage


class ShardedMemory:
    """A memory of which each process owns the rows of some examples, and borrows those that it trains on in an epoch.

    Rows travel between epochs only: the borrowed ones at the beginning, to `expect`; what the epoch said of them back
    to their owners at its end, in `transition`. In between it is read and staged as any memory. Checkpoints are those
    of the undivided memory, so a run can go on with or without division, and on another number of processes. Saving one
    puts the whole tables on the first process of each machine.

    All methods but `read` and `stage` must be called on every process.

    Args:
        memory_class: The memory.
        num_examples: Training examples.
        num_labels: Columns.
        storage: Where each process keeps its rows, and how precisely.
        dtype: Of what is read.
        merge_device: The device of the training, on which processes can talk to each other.

    Attributes:
        coverage: Share of the training examples with a row in the first table, from 0 to 1.
        is_complete: Whether every example has a row in every table.

    Raises:
        InputError: If the rows of a process are larger than what is free there, or the storage or the number of
            examples does not allow a division.
    """

    def __init__(
        self,
        memory_class: type[ExampleMemory],
        num_examples: int,
        num_labels: int,
        storage: TableStorage,
        dtype: torch.dtype,
        merge_device: torch.device | str,
    ):
        if storage.top_k is not None:
            raise InputError(
                "`memory_storage` must keep all labels to be sharded, got top-k. Leave out one of the two."
            )
        if num_examples < num_processes():
            raise InputError(
                f"`memory_storage` 'sharded' needs an example for each process, got {num_examples} for "
                f"{num_processes()}. Leave it out."
            )
        self.num_examples, self.num_labels = num_examples, num_labels
        self._storage = storage = storage.on(torch.device("cpu"))
        self._dtype, self._merge_device = dtype, torch.device(merge_device)
        shares = [num_examples * process // num_processes() for process in range(num_processes() + 1)]
        self._shares = [slice(*ends) for ends in itertools.pairwise(shares)]
        share = self._shares[rank()]
        self._owned = memory_class(share.stop - share.start, num_labels, storage, dtype, merge_device)
        self._owned.is_shard = True
        storage.check_fits(memory_class.__name__, self._num_bytes)
        self._borrowed: BorrowedRows | None = None
        self.coverage, self.is_complete = 0.0, False

    def _num_bytes(self, dtype: torch.dtype | None) -> int:
        numbers = self.num_labels * (self._owned.num_tables + 1) * self._dtype.itemsize
        masks_and_indices = self._owned.num_tables + torch.int32.itemsize + 2 * torch.int64.itemsize
        return self._owned._num_bytes(dtype) + self._owned.num_examples * (numbers + masks_and_indices)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"A memory with `memory_storage='sharded'` has no `{name}`: its tables are on no process as a whole. Read "
            "them from a checkpoint, or leave out `sharded`."
        )

    @property
    def epoch(self) -> int:
        """Index of the epoch that the tables are ready for (from 0)."""
        return self._owned.epoch

    def expect(self, indices: Tensor) -> None:
        """Borrows the rows of the examples that this process trains on until the next transition.

        Args:
            indices: Their indices, int64 `(num_expected,)`, in any order.
        """
        if self._borrowed is not None:
            # What an epoch that begins again has staged is not lost.
            self._give_back()
        num_tables = self._owned.num_tables
        self._borrowed = BorrowedRows(indices, num_tables, self.num_labels, self._storage, self._dtype)
        if not self.coverage:
            return
        for owner, part in self._parts():
            shape = num_tables, part.stop - part.start
            rows = torch.empty(*shape, self.num_labels, dtype=self._dtype, device=self._merge_device)
            written = torch.empty(shape, dtype=torch.uint8, device=self._merge_device)
            if owner == rank():
                own = self._own(part)
                own_rows, own_written = self._owned.read(torch.arange(own.start, own.stop, device=self._storage.device))
                rows.copy_(own_rows)
                written.copy_(own_written)
            dist.broadcast(rows, owner)
            dist.broadcast(written, owner)
            self._borrowed.take(part, rows, written)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """As `ExampleMemory.read`, of examples that were expected."""
        return self._lent.read(indices)

    def stage(self, indices: Tensor, rows: Tensor) -> None:
        """As `ExampleMemory.stage`, of examples that were expected."""
        self._lent.stage(indices, rows)

    @property
    def _lent(self) -> "BorrowedRows":
        if self._borrowed is None:
            raise InputError(
                "`memory_storage` 'sharded' needs a method that reads and stages rows of its training batches only, "
                "got others between two epochs. Leave it out; in a teacher of your own set `needs_whole_tables`."
            )
        return self._borrowed

    def transition(self, epoch: int, *options: Any, **named: Any) -> None:
        """As that of the undivided memory."""
        if epoch == self.epoch:
            return
        self._give_back()
        self._owned.transition(epoch, *options, **named)
        self._borrowed = None
        self._measure_coverage()

    def _give_back(self) -> None:
        """Moves what was staged so far to the owners of the examples."""
        for owner, part in self._parts():
            size = part.stop - part.start
            rows = torch.zeros(size, self.num_labels, dtype=self._dtype, device=self._merge_device)
            counts = torch.zeros(size, dtype=torch.int32, device=self._merge_device)
            if self._borrowed is not None:
                self._borrowed.put_staged(part, rows, counts)
            dist.reduce(rows, owner)
            dist.reduce(counts, owner)
            if owner == rank():
                self._owned.add_staged(self._own(part), rows, counts)
        if self._borrowed is not None:
            self._borrowed.forget_staged()

    def state_dict(self) -> dict[str, Any]:
        """That of the undivided memory, on the first process of each machine; the others have tables without rows."""
        self._give_back()
        state = self._owned.state_dict()
        keeps = int(os.environ.get("LOCAL_RANK", rank())) == 0
        return {
            name: self._whole(value, self._owned.example_axis(name), keeps) if isinstance(value, Tensor) else value
            for name, value in state.items()
        }

    def _whole(self, own_table: Tensor, axis: int, keeps: bool) -> Tensor:
        place = self._storage if self._storage.on_disk and keeps else TableStorage(torch.device("cpu"))
        shape = list(own_table.shape)
        shape[axis] = self.num_examples if keeps else 0
        whole = place.zeros(*shape, dtype=own_table.dtype)
        from_rows, to_rows = own_table.movedim(axis, 0), whole.movedim(axis, 0)
        for owner, part in self._parts():
            count = part.stop - part.start
            rows = torch.empty(count, *from_rows.shape[1:], dtype=own_table.dtype, device=self._merge_device)
            if owner == rank():
                rows.copy_(from_rows[self._own(part)])
            # As bytes: not every backend has every dtype.
            dist.broadcast(rows.view(torch.uint8), owner)
            if keeps:
                to_rows[part] = rows.to(whole.device)
        return whole

    @classmethod
    def from_state_dict(
        cls,
        memory_class: type[ExampleMemory],
        state: dict[str, Any],
        storage: TableStorage,
        merge_device: torch.device | str,
    ) -> Self:
        """As `ExampleMemory.from_state_dict`, of the state of an undivided memory."""
        storage.check_form(state["rows"].dtype, state["top_k"])
        dtype = getattr(torch, state["dtype"])
        memory = cls(memory_class, state["rows"].size(1), state["num_labels"], storage, dtype, merge_device)
        memory._load(state)
        return memory

    def _load(self, state: dict[str, Any]) -> None:
        share = self._shares[rank()]
        own = {
            name: value.movedim(axis := self._owned.example_axis(name), 0)[share].movedim(0, axis)
            if isinstance(value, Tensor)
            else value
            for name, value in state.items()
        }
        self._owned._load(own)
        self._measure_coverage()

    def skip_to(self, epoch: int) -> None:
        """As `ExampleMemory.skip_to`."""
        self._owned.skip_to(epoch)

    def _measure_coverage(self) -> None:
        everyones = zip(*gather_objects(self._owned.rows_written), strict=True)
        counts = [sum(counts) for counts in everyones]
        self.coverage = counts[0] / self.num_examples
        self.is_complete = min(counts) == self.num_examples

    def _parts(self) -> Iterator[tuple[int, slice]]:
        """All examples, as many at a time as are best moved together, and whose they are."""
        size = max(1, NUMBERS_AT_ONCE // (self._owned.num_tables * self.num_labels))
        for owner, share in enumerate(self._shares):
            for start in range(share.start, share.stop, size):
                yield owner, slice(start, min(start + size, share.stop))

    def _own(self, part: slice) -> slice:
        """A part of this process's share, in its own tables."""
        first = self._shares[rank()].start
        return slice(part.start - first, part.stop - first)


class BorrowedRows(ExampleMemory):
    """The rows of an epoch's examples on one process: to be read, and what is staged of them.

    Args:
        indices: The examples, int64 `(num_drawn,)`, in any order.
        num_tables: Tables of the memory that they are of.
        num_labels: Columns.
        storage: Where they are kept.
        dtype: Of what is read.
    """

    def __init__(self, indices: Tensor, num_tables: int, num_labels: int, storage: TableStorage, dtype: torch.dtype):
        self.num_tables = num_tables
        self._expected = indices.unique().to(storage.device)
        # Not rounded once more: an average that is read need not be one that a table could hold.
        super().__init__(max(1, len(self._expected)), num_labels, replace(storage, dtype=None), dtype)
        # What a table cannot hold is passed over.
        self._form = stored_rows(num_labels, None, storage.dtype or dtype, dtype)

    def _num_bytes(self, dtype: torch.dtype | None) -> int:
        # `ShardedMemory` has asked for them.
        return 0

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        rows, written = super().read(self._places(indices))
        return rows.to(indices.device), written.to(indices.device)

    def _add(self, indices: Tensor, rows: Tensor) -> None:
        super()._add(self._places(indices), rows)

    def _places(self, indices: Tensor) -> Tensor:
        own = indices.to(self._expected.device)
        places = torch.searchsorted(self._expected, own)
        is_expected = self._expected[places.clamp(max=len(self._expected) - 1)] == own
        if own.device.type != "cpu":
            # Without a wait.
            torch._assert_async(is_expected.all())
        elif not is_expected.all():
            raise IndexError(
                "Examples must be among those that the process was to train on in this epoch, got "
                f"{own[~is_expected].tolist()}."
            )
        return places

    def take(self, part: slice, rows: Tensor, written: Tensor) -> None:
        """Takes over the rows of a part of all examples, with the mask of those that were written."""
        inside, places = self._inside(part, rows.device)
        self._rows[:, inside] = rows[:, places].to(self._rows.device)
        self._written[:, inside] = written[:, places].bool().to(self._written.device)

    def put_staged(self, part: slice, rows: Tensor, counts: Tensor) -> None:
        """Writes what was staged of a part of all examples into their rows and counts."""
        self._add_arrived()
        inside, places = self._inside(part, rows.device)
        rows[places], counts[places] = self._staged[inside].to(rows), self._counts[inside].to(counts)

    def forget_staged(self) -> None:
        """Begins anew."""
        self._staged_with_rest.zero_()
        self._counts_with_rest.zero_()

    def _inside(self, part: slice, device: torch.device) -> tuple[slice, Tensor]:
        """Where the expected ones of a part are among all expected ones, and within the part."""
        ends = torch.tensor([part.start, part.stop], device=self._expected.device)
        inside = slice(*torch.searchsorted(self._expected, ends).tolist())
        return inside, (self._expected[inside] - part.start).to(device)


def new_memory(
    memory_class: type[ExampleMemory], num_examples: int, rows: Tensor, storage: TableStorage
) -> ExampleMemory | ShardedMemory:
    """An empty memory for such rows.

    Args:
        memory_class: Its class.
        num_examples: Training examples.
        rows: The first ones, `(batch_size, num_labels)`, on the device of the training.
        storage: Where the tables are kept, and how precisely.
    """
    if storage.sharded and num_processes() > 1:
        return ShardedMemory(memory_class, num_examples, rows.size(-1), storage, rows.dtype, rows.device)
    return memory_class.for_rows(num_examples, rows, storage)


def restored_memory(
    memory_class: type[ExampleMemory], state: dict[str, Any], storage: TableStorage, merge_device: torch.device | str
) -> ExampleMemory | ShardedMemory:
    """A memory of what `state_dict` returned.

    Args:
        memory_class: Its class.
        state: The state.
        storage: Where the tables are kept from now on, as precisely as before.
        merge_device: The device of the training.
    """
    if storage.sharded and num_processes() > 1:
        return ShardedMemory.from_state_dict(memory_class, state, storage, merge_device)
    return memory_class.from_state_dict(state, storage, merge_device=merge_device)
