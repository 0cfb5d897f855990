"""Where tables with a row for each training example are kept, and how precisely."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..distributed import num_processes
from ..errors import InputError
from .free import free_memory

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DISK, _SHARDED = "disk", "sharded"


@dataclass(frozen=True)
class TableStorage:
    """Where tables are kept, and how precisely.

    Attributes:
        device: Their device; `None` is that of the training. On another one each batch waits for the transfer.
        dtype: Of their numbers; `None` is that of the student's outputs, fp32 or fp64. With `torch.bfloat16` or
            `torch.float16` they take half the space, and what is read of them is rounded.
        top_k: How many of a row's largest probabilities are kept, beside the mass of all others; `None` is all outputs.
            For methods that store logits of one label of several.
        on_disk: Whether they are memory-mapped files instead of in memory. The files have no name, so that none is left
            behind however the run ends; checkpoints hold the tables as ever. Linux only.
        folder: Where the files are.
        sharded: Whether each of several processes keeps the tables of some examples only; see `ShardedMemory`.

    Examples:
        >>> TableStorage.parse("cpu,bf16").dtype
        torch.bfloat16
    """

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    top_k: int | None = None
    on_disk: bool = False
    folder: Path = Path(tempfile.gettempdir())
    sharded: bool = False

    @classmethod
    def of(cls, value: "TableStorage | str | None", folder: Path) -> "TableStorage":
        """The storage that is meant: the default for `None`, else see `parse`."""
        if value is None:
            return cls(folder=folder)
        storage = value if isinstance(value, cls) else cls.parse(value, folder)
        if storage.device is not None and storage.device.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"`memory_storage` must be on this machine, got {storage.device} and no GPU. Use 'cpu'.")
        return storage

    @classmethod
    def parse(cls, text: str, folder: Path | None = None) -> "TableStorage":
        """The storage in a text such as "bf16", "cpu", "disk" or "disk,bf16,top-16".

        Args:
            text: With commas between: a place (a device, or "disk"), a precision ("fp32", "bf16", "fp16"), how many of
                the largest probabilities, and "sharded".
            folder: Where "disk" is.

        Raises:
            InputError: If it says something else.
        """
        meant: dict[str, Any] = {}
        for word in str(text).split(","):
            name, value = _meaning(word.strip())
            if name is None or name in meant:
                raise _not_a_storage(text)
            meant[name] = value
        if {"device", "on_disk"} <= meant.keys():
            raise _not_a_storage(text)
        return cls(**meant) if folder is None else cls(**meant, folder=folder)

    def on(self, device: torch.device | str) -> "TableStorage":
        """The same with a device: that of the training, or the CPU for files, where none was asked for.

        Args:
            device: Device of the training.
        """
        if self.device is not None:
            return self
        return replace(self, device=torch.device("cpu" if self.on_disk else device))

    def zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A new table of zeros.

        Args:
            *shape: Its shape.
            dtype: Its dtype; that of the storage is the caller's to ask for.
        """
        if not self.on_disk:
            return torch.zeros(shape, dtype=dtype, device=self.device)
        count = torch.Size(shape).numel()
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".table-", dir=self.folder)
        try:
            # Reserved now: a full disk is an error here, not a crash in the middle of training.
            os.posix_fallocate(handle, 0, count * dtype.itemsize)
            mapped = torch.from_file(name, shared=True, size=count * dtype.itemsize, dtype=torch.uint8)
            return mapped.view(dtype).view(shape)
        finally:
            os.close(handle)
            os.unlink(name)

    def place(self, table: Tensor) -> Tensor:
        """A copy of a table, kept here in its own precision."""
        kept = self.zeros(*table.shape, dtype=table.dtype)
        return kept.copy_(table.detach())

    def check_form(self, stored: torch.dtype, top_k: int | None) -> None:
        """Raises an `InputError` unless tables of a checkpoint are as precise as those to be kept here.

        Args:
            stored: Their dtype.
            top_k: How many of the largest probabilities they hold; `None` is all outputs.
        """
        expected = self.dtype or torch.promote_types(stored, torch.float32)
        if (stored, top_k) != (expected, self.top_k):
            raise InputError(
                "`memory_storage` must have the precision that it had when the checkpoint was saved, "
                f"{_form(stored, top_k)}, got {_form(expected, self.top_k)}. Resume with the same, or start a new run."
            )

    @property
    def form(self) -> str:
        """What of the storage makes a difference to the result, such as "bf16"; "fp32" is the default."""
        return _form(self.dtype, self.top_k)

    @property
    def free_bytes(self) -> int:
        """How much one process can keep here, of those on the machine."""
        if self.device is not None and self.device.type == "cuda":
            # What torch keeps for itself can be had too.
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return torch.cuda.mem_get_info(self.device)[0] + unused
        if self.on_disk:
            existing = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
            free = shutil.disk_usage(existing).free
        else:
            free = free_memory()
        return free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))

    def check_fits(self, name: str, bytes_with: Callable[[torch.dtype | None], int]) -> None:
        """Raises an `InputError`, with what would do, if tables are larger than what is free.

        Args:
            name: Whose tables they are.
            bytes_with: How large they are with a dtype, or for `None` with that of the student's outputs.
        """
        needed = bytes_with(self.dtype)
        if needed <= self.free_bytes:
            return
        cpu = torch.device("cpu")
        places = [self, replace(self, device=cpu, on_disk=False), replace(self, device=cpu, on_disk=True)]
        others = [replace(place, dtype=dtype) for place in places for dtype in (self.dtype, torch.bfloat16)]
        sizes = [(other, bytes_with(other.dtype)) for other in others]
        if num_processes() > 1 and not self.sharded and self.top_k is None:
            # Each has the rows that it owns and those that it borrows.
            sizes.append((replace(self, sharded=True), 2 * needed // num_processes()))
        remedy = "Use fewer examples, or a machine with more memory or disk."
        for other, size in sizes:
            if size <= other.free_bytes:
                words = [] if other._place == self._place else [other._place]
                words += [other.form] if other.form != "fp32" else []
                words += [_SHARDED] if other.sharded else []
                where_it_can = ", where the method can" if other.sharded else ""
                remedy = f"Use `memory_storage='{','.join(words or ['fp32'])}'` ({_size(size)}){where_it_can}."
                break
        raise InputError(
            f"The tables of {name} must fit into what is free on {self._place}, {_size(self.free_bytes)} for each "
            f"process, but need {_size(needed)}. {remedy}"
        )

    @property
    def _place(self) -> str:
        return _DISK if self.on_disk else str(self.device)


IN_MEMORY = TableStorage()
"""The default: on the device of the training, as precise as the student's outputs."""


def _not_a_storage(text: str) -> InputError:
    return InputError(
        "`memory_storage` must be a place (a device such as 'cpu', or 'disk'), a precision "
        f"({', '.join(_DTYPES)}), a number of largest probabilities ('top-16'), 'sharded', or several of these, as in "
        f"'disk,bf16', got {text!r}."
    )


def _meaning(word: str) -> tuple[str | None, Any]:
    if word in _DTYPES:
        return "dtype", _DTYPES[word]
    if word == _SHARDED:
        return "sharded", True
    if word == _DISK:
        if not hasattr(os, "posix_fallocate"):
            raise InputError("`memory_storage` 'disk' needs Linux. Use 'cpu', or a precision such as 'bf16'.")
        return "on_disk", True
    if re.fullmatch(r"top-[1-9]\d*", word):
        return "top_k", int(word.removeprefix("top-"))
    try:
        return "device", torch.device(word)
    except RuntimeError:
        return None, None


def _form(dtype: torch.dtype | None, top_k: int | None) -> str:
    names = {value: name for name, value in _DTYPES.items()}
    precision = "fp32" if dtype is None else names.get(dtype, str(dtype))
    if top_k is None:
        return precision
    return f"top-{top_k}" if precision == "fp32" else f"{precision},top-{top_k}"


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
