"""A memory divided over the processes: none holds the rows of all examples."""

import itertools
import os
from collections.abc import Iterator
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed import gather_objects, num_processes, rank
from ..errors import InputError
from .staged import NUMBERS_AT_ONCE, ExampleMemory
from .storage import TableStorage


class ShardedMemory:
    """A memory of which each process owns the rows of some examples, and borrows those that it trains on in an epoch.

    Rows travel between epochs only: the borrowed ones at the beginning, to `expect`; what the epoch said of them back
    to their owners at its end, in `transition`. In between it is read and staged as any memory. Checkpoints are those
    of the undivided memory, so a run can go on with or without division, and on another number of processes.

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
        self._expected = torch.empty(0, dtype=torch.int64, device=storage.device)
        self._borrowed: _BorrowedRows | None = None
        self.coverage, self.is_complete = 0.0, False

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"`{name}` of a memory with `memory_storage='sharded'` is on no process as a whole. Read it from a "
            "checkpoint, or leave out `sharded`."
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
        self._expected = indices.unique().to(self._storage.device)
        self._borrowed = _BorrowedRows(
            self._owned.num_tables, max(1, len(self._expected)), self.num_labels, self._storage, self._dtype
        )
        if not self.coverage:
            return
        for owner, part in self._parts():
            shape = self._owned.num_tables, part.stop - part.start
            rows = torch.empty(*shape, self.num_labels, dtype=self._dtype, device=self._merge_device)
            written = torch.empty(shape, dtype=torch.uint8, device=self._merge_device)
            if owner == rank():
                own = self._own(part)
                own_rows, own_written = self._owned.read(torch.arange(own.start, own.stop))
                rows.copy_(own_rows)
                written.copy_(own_written)
            dist.broadcast(rows, owner)
            dist.broadcast(written, owner)
            inside = self._expected_in(part)
            places = (self._expected[inside] - part.start).to(self._merge_device)
            self._borrowed.take(inside, rows[:, places], written[:, places].bool())

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """As `ExampleMemory.read`, of examples that were expected."""
        return self._borrowed.read(self._places(indices))

    def stage(self, indices: Tensor, rows: Tensor) -> None:
        """As `ExampleMemory.stage`, of examples that were expected."""
        self._borrowed.stage(self._places(indices), rows)

    def _places(self, indices: Tensor) -> Tensor:
        own = indices.to(self._expected.device)
        places = torch.searchsorted(self._expected, own)
        if own.device.type == "cpu":
            # On an accelerator the check would stall the device.
            is_expected = self._expected[places.clamp(max=len(self._expected) - 1)] == own
            if not is_expected.all():
                raise IndexError(
                    f"Examples must be among those that the process was to train on in this epoch, got "
                    f"{own[~is_expected].tolist()}."
                )
        return places.to(indices.device)

    def transition(self, epoch: int, *options: Any) -> None:
        """As that of the undivided memory."""
        if epoch == self.epoch:
            return
        self._give_back()
        self._owned.transition(epoch, *options)
        self._borrowed = None
        self._measure_coverage()

    def _give_back(self) -> None:
        """Moves what was staged so far to the owners of the examples."""
        if self._borrowed is not None:
            staged, counts = self._borrowed.drain()
        for owner, part in self._parts():
            size = part.stop - part.start
            rows = torch.zeros(size, self.num_labels, dtype=self._dtype, device=self._merge_device)
            times = torch.zeros(size, dtype=torch.int32, device=self._merge_device)
            if self._borrowed is not None:
                inside = self._expected_in(part)
                places = (self._expected[inside] - part.start).to(self._merge_device)
                rows[places], times[places] = staged[inside].to(rows), counts[inside].to(times)
            dist.reduce(rows, owner)
            dist.reduce(times, owner)
            if owner == rank():
                self._owned.add_staged(self._own(part), rows, times)
        if self._borrowed is not None:
            self._borrowed.clear()

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
        own_table = own_table.movedim(axis, 0)
        row_shape = own_table.shape[1:]
        place = self._storage if self._storage.on_disk else TableStorage(torch.device("cpu"))
        whole = place.zeros(self.num_examples if keeps else 0, *row_shape, dtype=own_table.dtype)
        for owner, part in self._parts():
            rows = torch.empty(part.stop - part.start, *row_shape, dtype=own_table.dtype, device=self._merge_device)
            if owner == rank():
                rows.copy_(own_table[self._own(part)])
            # As bytes: not every backend has every dtype.
            dist.broadcast(rows.view(torch.uint8), owner)
            if keeps:
                whole[part] = rows.to(whole.device)
        return whole.movedim(0, axis)

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

    def _expected_in(self, part: slice) -> slice:
        """Where the expected examples of a part are among all expected ones."""
        ends = torch.tensor([part.start, part.stop], device=self._expected.device)
        return slice(*torch.searchsorted(self._expected, ends).tolist())


class _BorrowedRows(ExampleMemory):
    """The rows of an epoch's examples, as they are read."""

    def __init__(self, num_tables: int, num_rows: int, num_labels: int, storage: TableStorage, dtype: torch.dtype):
        self.num_tables = num_tables
        super().__init__(num_rows, num_labels, storage, dtype)
        # Not rounded once more: an average that is read need not be one that a table could hold.
        if self._rows.dtype != dtype:
            self._rows = self._storage.zeros(*self._rows.shape, dtype=dtype)

    def take(self, part: slice, rows: Tensor, written: Tensor) -> None:
        self._rows[:, part] = rows.to(self._rows.device)
        self._written[:, part] = written.to(self._written.device)

    def drain(self) -> tuple[Tensor, Tensor]:
        self._add_arrived()
        return self._staged, self._counts

    def clear(self) -> None:
        self._staged_with_rest.zero_()
        self._counts_with_rest.zero_()


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
