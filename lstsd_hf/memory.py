"""The teachers of every training example: tables of student outputs, and the one transition between epochs."""

import torch
import torch.distributed as dist
from torch import Tensor


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
        coverage: Share of the training examples that have a short-term teacher, from 0 to 1.
        is_complete: Whether every example has both teachers.
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
        # Short-term table first, long-term table second: one read serves both.
        self._logits = torch.zeros(2, num_examples, num_labels, dtype=dtype, device=device)
        self._written = torch.zeros(2, num_examples, dtype=torch.bool, device=device)
        # Sums of logits and, in the last column, their count: a repeated example (a sampler's refill, another process)
        # is averaged.
        self._staged = torch.zeros(num_examples, num_labels + 1, dtype=dtype, device=device)
        self._measure_coverage()

    @property
    def short_term_logits(self) -> Tensor:
        """Each example's output in the previous epoch, `(num_examples, num_labels)`; zeros where never written."""
        return self._logits[0]

    @property
    def short_term_written(self) -> Tensor:
        """Which examples have a short-term teacher, bool `(num_examples,)`."""
        return self._written[0]

    @property
    def long_term_logits(self) -> Tensor:
        """Each example's output in the last epoch of the previous mini-generation; zeros where never written."""
        return self._logits[1]

    @property
    def long_term_written(self) -> Tensor:
        """Which examples have a long-term teacher, bool `(num_examples,)`."""
        return self._written[1]

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Both teachers of some examples.

        Args:
            indices: Example indices, int64 `(batch_size,)`.

        Returns:
            Logits `(2, batch_size, num_labels)` and the written-mask, bool `(2, batch_size)`; short-term first.

        Raises:
            IndexError: If an index is out of range. On an accelerator the check would stall the device; there
                `ExampleIndexCollator` has made it.
        """
        try:
            return self._logits.index_select(1, indices), self._written.index_select(1, indices)
        except (IndexError, RuntimeError):
            self._check_indices(indices)
            raise

    def stage(self, indices: Tensor, logits: Tensor) -> None:
        """Keeps a batch of student outputs for the next transition. Rows that are not finite are passed over.

        Args:
            indices: Example indices, int64 `(batch_size,)`.
            logits: Student outputs, `(batch_size, num_labels)`; the gradient is not kept.

        Raises:
            IndexError: As in `read`.
            ValueError: If `logits` is not of shape `(batch_size, num_labels)`.
        """
        if logits.shape != (len(indices), self.num_labels):
            raise ValueError(
                f"`logits` must have the shape (batch_size, num_labels) = ({len(indices)}, {self.num_labels}), "
                f"got {tuple(logits.shape)}."
            )
        logits = logits.detach()
        # Infinity minus itself is not a number, so this is false for both, with fewer operations than `isfinite`.
        finite = (logits - logits == 0).all(dim=-1, keepdim=True)
        rows = torch.nn.functional.pad(logits, (0, 1), value=1.0)
        try:
            self._staged.index_add_(0, indices, torch.where(finite, rows, 0.0).to(self._staged.dtype))
        except (IndexError, RuntimeError):
            self._check_indices(indices)
            raise

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
        staged = self._merged_staging()
        count = staged[:, -1:]
        fresh = count > 0
        tables = slice(0, 2) if begins_mini_generation else slice(0, 1)
        # Rows that were not visited keep their older teacher.
        self._logits[tables] = torch.where(fresh, staged[:, :-1] / count.clamp(min=1), self._logits[tables])
        self._written[tables] |= fresh.squeeze(-1)
        self._staged.zero_()
        self.epoch = epoch
        self._measure_coverage()

    def state_dict(self) -> dict[str, Tensor | int]:
        """Everything needed to go on, with the staged rows of all processes merged (every process must call it)."""
        return {
            "logits": self._logits,
            "written": self._written,
            "staged": self._merged_staging(),
            "epoch": self.epoch,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor | int], device: torch.device | str = "cpu") -> "TeacherMemory":
        """Rebuilds a memory from `state_dict()`. Of several processes only the first takes over the staged rows, so
        that the next merge counts them once."""
        _, num_examples, num_labels = state["logits"].shape
        memory = cls(num_examples, num_labels, device, state["logits"].dtype)
        memory._logits.copy_(state["logits"])
        memory._written.copy_(state["written"])
        if not _is_distributed() or dist.get_rank() == 0:
            memory._staged.copy_(state["staged"])
        memory.epoch = state["epoch"]
        memory._measure_coverage()
        return memory

    def _measure_coverage(self) -> None:
        # Waits for the device, so once an epoch and not whenever asked.
        short_term, long_term = self._written.sum(dim=1).tolist()
        self.coverage = short_term / self.num_examples
        self.is_complete = short_term == long_term == self.num_examples

    def _merged_staging(self) -> Tensor:
        if not _is_distributed():
            return self._staged
        staged = self._staged.clone()
        dist.all_reduce(staged)
        return staged

    def _check_indices(self, indices: Tensor) -> None:
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= self.num_examples:
            raise index_out_of_range(low if low < 0 else high, self.num_examples)


def index_out_of_range(index: int, num_examples: int) -> IndexError:
    """The error for an example index that no row belongs to."""
    return IndexError(
        f"`example_index` must be between 0 and {num_examples - 1} (the training set has {num_examples} examples), "
        f"got {index}. The index is a position in the training set; do not change the data set while training."
    )


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
