"""The teachers of every training example: three tables of student outputs, and the one transition between epochs."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class _Table:
    """Rows of logits `(num_examples, num_labels)` and which of them were ever written, `(num_examples,)`."""

    logits: Tensor
    written: Tensor

    def commit(self, rows: Tensor, fresh: Tensor) -> None:
        """Overwrites the rows where `fresh` is true; the others keep their older teacher."""
        self.logits.copy_(torch.where(fresh.unsqueeze(-1), rows, self.logits))
        self.written |= fresh


class TeacherMemory:
    """Short-term, long-term and staged student outputs (logits) of every training example, on the training device.

    Within an epoch the short- and long-term tables are only read and the staged table is only written, so neither the
    order of the batches nor a repeated example nor gradient accumulation changes what is read. `transition`, called
    before each epoch, moves the staged rows over; it is also the only moment at which processes talk to each other.

    Args:
        num_examples: Rows, one for each training example.
        num_labels: Columns.
        device: Device of the tables.
        dtype: `torch.float32`, or `torch.float64` for a student that computes in double precision.

    Attributes:
        epoch: Index of the epoch that the tables are ready for (from 0).
    """

    def __init__(
        self,
        num_examples: int,
        num_labels: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        for field, value in (("num_examples", num_examples), ("num_labels", num_labels)):
            if value < 1:
                raise ValueError(f"`{field}` must be at least 1, got {value}.")
        self.num_examples = num_examples
        self.num_labels = num_labels
        self.epoch = 0

        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        def table() -> _Table:
            return _Table(zeros(num_examples, num_labels, dtype=dtype), zeros(num_examples, dtype=torch.bool))

        self._short, self._long = table(), table()
        # Sums and counts rather than rows: a repeated example (a sampler's refill, another process) is averaged.
        self._staged_sum = zeros(num_examples, num_labels, dtype=dtype)
        self._staged_count = zeros(num_examples, dtype=dtype)

    @property
    def short_term_logits(self) -> Tensor:
        """Each example's output in the previous epoch, `(num_examples, num_labels)`; zeros where never written."""
        return self._short.logits

    @property
    def short_term_written(self) -> Tensor:
        """Which examples have a short-term teacher, bool `(num_examples,)`."""
        return self._short.written

    @property
    def long_term_logits(self) -> Tensor:
        """Each example's output in the last epoch of the previous mini-generation; zeros where never written."""
        return self._long.logits

    @property
    def long_term_written(self) -> Tensor:
        """Which examples have a long-term teacher, bool `(num_examples,)`."""
        return self._long.written

    def read_short_term(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Short-term teachers of some examples.

        Args:
            indices: Example indices, int64 `(batch_size,)`.

        Returns:
            Logits `(batch_size, num_labels)` and the written-mask, bool `(batch_size,)`.

        Raises:
            IndexError: If an index is out of range (checked for indices on the CPU; on an accelerator the check would
                stall the device, and `ExampleIndexCollator` has made it already).
        """
        return self._read(self._short, indices)

    def read_long_term(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Long-term teachers of some examples; see `read_short_term`."""
        return self._read(self._long, indices)

    def _read(self, table: _Table, indices: Tensor) -> tuple[Tensor, Tensor]:
        self._check_indices(indices)
        return table.logits[indices], table.written[indices]

    def stage(self, indices: Tensor, logits: Tensor) -> None:
        """Keeps a batch of student outputs for the next transition. Rows that are not finite are passed over.

        Args:
            indices: Example indices, int64 `(batch_size,)`.
            logits: Student outputs, `(batch_size, num_labels)`; the gradient is not kept.

        Raises:
            IndexError: As in `read_short_term`.
            ValueError: If `logits` is not of shape `(batch_size, num_labels)`.
        """
        self._check_indices(indices)
        if logits.shape != (len(indices), self.num_labels):
            raise ValueError(
                f"`logits` must have the shape (batch_size, num_labels) = ({len(indices)}, {self.num_labels}), "
                f"got {tuple(logits.shape)}."
            )
        logits = logits.detach().to(self._staged_sum.dtype)
        finite = logits.isfinite().all(dim=-1)
        self._staged_sum.index_add_(0, indices, logits.masked_fill(~finite.unsqueeze(-1), 0.0))
        self._staged_count.index_add_(0, indices, finite.to(self._staged_count.dtype))

    def transition(self, epoch: int, begins_mini_generation: bool) -> None:
        """Makes the tables ready for `epoch`: staged rows become the short-term teachers, and the long-term ones too
        where a mini-generation begins. A second call for the same epoch does nothing.

        Every process must call it; staged rows of all processes are merged here.

        Args:
            epoch: Index of the epoch about to begin (from 0); after the last epoch, their number.
            begins_mini_generation: Whether `epoch` is the first of a mini-generation.

        Raises:
            ValueError: If `epoch` is neither the current epoch nor the next one.
        """
        if epoch == self.epoch:
            return
        if epoch != self.epoch + 1:
            raise ValueError(
                f"`epoch` must be {self.epoch} (the epoch that the teacher memory is ready for) or {self.epoch + 1} "
                f"(the next one), got {epoch}. Was a checkpoint of another run loaded?"
            )
        total, count = self._merged_staging()
        fresh = count > 0
        rows = total / count.clamp(min=1).unsqueeze(-1)
        self._short.commit(rows, fresh)
        if begins_mini_generation:
            self._long.commit(rows, fresh)
        self._staged_sum.zero_()
        self._staged_count.zero_()
        self.epoch = epoch

    def coverage(self) -> float:
        """Share of the training examples that have a short-term teacher, from 0 to 1. Waits for the device."""
        return self._short.written.float().mean().item()

    def state_dict(self) -> dict[str, Tensor | int]:
        """Everything needed to go on, with the staged rows of all processes merged (every process must call it)."""
        total, count = self._merged_staging()
        return {
            "short_term_logits": self._short.logits,
            "short_term_written": self._short.written,
            "long_term_logits": self._long.logits,
            "long_term_written": self._long.written,
            "staged_sum": total,
            "staged_count": count,
            "epoch": self.epoch,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor | int], device: torch.device | str = "cpu") -> "TeacherMemory":
        """Rebuilds a memory from `state_dict()`. Of several processes only the first takes over the staged rows, so
        that the next merge counts them once."""
        num_examples, num_labels = state["short_term_logits"].shape
        memory = cls(num_examples, num_labels, device, state["short_term_logits"].dtype)
        targets = {
            "short_term_logits": memory._short.logits,
            "short_term_written": memory._short.written,
            "long_term_logits": memory._long.logits,
            "long_term_written": memory._long.written,
        }
        if not _is_distributed() or dist.get_rank() == 0:
            targets |= {"staged_sum": memory._staged_sum, "staged_count": memory._staged_count}
        for name, target in targets.items():
            target.copy_(state[name])
        memory.epoch = state["epoch"]
        return memory

    def _check_indices(self, indices: Tensor) -> None:
        if indices.device.type != "cpu" or not len(indices):
            return
        low, high = (int(bound) for bound in torch.aminmax(indices))
        if low < 0 or high >= self.num_examples:
            raise index_out_of_range(low if low < 0 else high, self.num_examples)

    def _merged_staging(self) -> tuple[Tensor, Tensor]:
        total, count = self._staged_sum, self._staged_count
        if _is_distributed():
            total, count = total.clone(), count.clone()
            dist.all_reduce(total)
            dist.all_reduce(count)
        return total, count


def index_out_of_range(index: int, num_examples: int) -> IndexError:
    """The error for an example index that no row belongs to."""
    return IndexError(
        f"`example_index` must be between 0 and {num_examples - 1} (the training set has {num_examples} examples), "
        f"got {index}. The index is a position in the training set; do not change the data set while training."
    )


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
