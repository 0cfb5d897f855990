"""What of a row of student outputs a table holds: all of it, or its largest probabilities and the mass of the rest."""

import math
from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed import rank
from ..errors import InputError


class StoredRows(ABC):
    """A form of rows in a table.

    Attributes:
        num_columns: Columns of the table.
        dtype: Of the table.
        staged_dtype: Of the rows that wait for the next transition.
    """

    def __init__(self, num_columns: int, dtype: torch.dtype, staged_dtype: torch.dtype):
        self.num_columns = num_columns
        self.dtype = dtype
        self.staged_dtype = staged_dtype

    @abstractmethod
    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The form of rows `(batch_size, num_labels)` to stage, `(batch_size, num_columns)`, and which of them can be
        had so, bool `(batch_size,)`."""

    @abstractmethod
    def decode(self, stored: Tensor) -> Tensor:
        """The rows `(…, num_labels)` of their form `(…, num_columns)`; what was never written has no meaning."""

    @abstractmethod
    def put(self, staged: Tensor, counts: Tensor, places: Tensor, stored: Tensor) -> None:
        """Puts rows into a table of staged rows, and counts them.

        Args:
            staged: The table.
            counts: How often it has each example, int32.
            places: Where they belong, int64 `(batch_size,)`.
            stored: Their form.
        """

    @abstractmethod
    def merge(self, staged: Tensor, counts: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """What all processes have staged, of several. Every one must call it.

        Args:
            staged: This one's rows.
            counts: How often it has each example.
            device: On which processes can talk to each other.
        """

    def owners(self, counts: Tensor, device: torch.device) -> Tensor | None:
        """The process whose staged row of each example `merge` keeps, int32; `None` where it sums up those of all.

        Args:
            counts: How often this one has each example.
            device: On which processes can talk to each other. Every one must call it.
        """
        return None


class AllLabels(StoredRows):
    """A number for each label. Staged rows are sums, so that a repeated example is averaged, and are not rounded."""

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows.to(self.staged_dtype), _is_usable(rows.to(self.dtype))

    def decode(self, stored: Tensor) -> Tensor:
        return stored.to(self.staged_dtype)

    def put(self, staged: Tensor, counts: Tensor, places: Tensor, stored: Tensor) -> None:
        staged.index_add_(0, places, stored)
        counts.index_add_(0, places, torch.ones_like(places, dtype=counts.dtype))

    def merge(self, staged: Tensor, counts: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        return _summed(staged, device), _summed(counts, device)


class TopLabels(StoredRows):
    """The k largest log-probabilities, that of all other labels together, and which labels they are.

    Read back, the others share their mass evenly. So the student's KL to it differs from that to the whole row by
    Σ p log(z / u) over the others, where u is their even share: at most the student's probability of them times the
    largest |log(z / u)| among them. Of a repeated example one row is kept.

    Args:
        num_labels: Labels of a row.
        top_k: k.
        dtype: Of the log-probabilities. The labels are whole numbers of its size in the same table.
        read_dtype: Of the rows read back.

    Raises:
        InputError: If that takes as much space as all labels, or the labels are too many for the dtype.
    """

    def __init__(self, num_labels: int, top_k: int, dtype: torch.dtype, read_dtype: torch.dtype):
        super().__init__(2 * top_k + 2, dtype, dtype)
        self.num_labels, self.top_k, self.read_dtype = num_labels, top_k, read_dtype
        self._label_dtype = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        # Processes send each other whole numbers of a size that every backend has.
        self._sent_as = torch.int64 if dtype.itemsize == 8 else torch.int32
        if self.num_columns >= num_labels:
            raise InputError(
                f"`memory_storage` with top-{top_k} needs more than {self.num_columns} labels, or it saves nothing, "
                f"got {num_labels}. Leave it out, or take fewer."
            )
        most = 2 ** (8 * dtype.itemsize)
        if num_labels > most:
            raise InputError(
                f"`memory_storage` with top-{top_k} and numbers of {8 * dtype.itemsize} bits takes at most {most:,} "
                f"labels, got {num_labels:,}. Use fp32."
            )

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        is_usable = _is_usable(rows)
        log_probs = rows.log_softmax(dim=-1)
        top, labels = log_probs.topk(self.top_k, dim=-1)
        rest = log_probs.scatter(-1, labels, -math.inf).logsumexp(dim=-1, keepdim=True)
        whole = torch.cat([labels, torch.zeros_like(labels[:, :1])], dim=-1).to(self._label_dtype)
        return torch.cat([top.to(self.dtype), rest.to(self.dtype), whole.view(self.dtype)], dim=-1), is_usable

    def decode(self, stored: Tensor) -> Tensor:
        size, bits = self.top_k + 1, 8 * self.dtype.itemsize
        # Contiguous, to be seen as whole numbers; those from half on are negative there.
        labels = stored[..., size:-1].contiguous().view(self._label_dtype).long()
        labels = torch.where(labels < 0, labels + 2**bits, labels) if bits < 64 else labels
        values = stored[..., :size].to(self.read_dtype)
        share = values[..., -1:] - math.log(self.num_labels - self.top_k)
        rows = share.expand(*share.shape[:-1], self.num_labels)
        return rows.scatter(-1, labels, values[..., :-1])

    def put(self, staged: Tensor, counts: Tensor, places: Tensor, stored: Tensor) -> None:
        staged.index_copy_(0, places, stored)
        counts.index_fill_(0, places, 1)

    def owners(self, counts: Tensor, device: torch.device) -> Tensor:
        owners = torch.where(counts > 0, rank(), dist.get_world_size()).to(device, torch.int32)
        dist.all_reduce(owners, dist.ReduceOp.MIN)
        return owners.to(counts.device)

    def merge(self, staged: Tensor, counts: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        owners = self.owners(counts, device)
        # Only one process holds each example, so the sum copies it.
        own = torch.where((owners == rank())[:, None], staged.view(self._sent_as), 0)
        return _summed(own, device).view(self.dtype), (owners < dist.get_world_size()).to(counts.dtype)


def own_rows(owners: Tensor | None) -> slice | Tensor:
    """Which of the staged rows that a checkpoint has this process goes on with, of several.

    Args:
        owners: What `StoredRows.owners` said; the first process takes those of processes that are no more.
    """
    if owners is None:
        return slice(None) if rank() == 0 else slice(0)
    return owners.where(owners < dist.get_world_size(), 0) == rank()


def stored_rows(num_labels: int, top_k: int | None, dtype: torch.dtype, read_dtype: torch.dtype) -> StoredRows:
    """The form of rows in a table.

    Args:
        num_labels: Labels of a row.
        top_k: How many of the largest probabilities are kept; `None` is all outputs.
        dtype: Of the table.
        read_dtype: Of the rows read back.
    """
    if top_k is None:
        return AllLabels(num_labels, dtype, read_dtype)
    return TopLabels(num_labels, top_k, dtype, read_dtype)


def _is_usable(rows: Tensor) -> Tensor:
    largest = rows.amax(dim=-1)
    # Infinity minus itself is NaN, and NaN is the largest of all, so this is false for both.
    return largest - largest == 0


def _summed(tensor: Tensor, device: torch.device) -> Tensor:
    summed = tensor.to(device, copy=True)
    dist.all_reduce(summed)
    return summed.to(tensor.device)
