"""Where tables with a row for each training example are kept, and how precisely."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor

from ..errors import InputError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DISK = "disk"


@dataclass(frozen=True)
class TableStorage:
    """Where tables are kept, and how precisely.

    Attributes:
        device: Their device; `None` is that of the training. On another one each batch waits for the transfer.
        dtype: Of their numbers; `None` is that of the student's outputs, fp32 or fp64. With `torch.bfloat16` or
            `torch.float16` they take half the space, and what is read of them is rounded.
        folder: Where to keep them as memory-mapped files instead of in memory. The files have no name, so that none is
            left behind however the run ends; checkpoints hold the tables as ever.

    Example:
        >>> TableStorage.parse("cpu,bf16")
        TableStorage(device=device(type='cpu'), dtype=torch.bfloat16, folder=None)
    """

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    folder: Path | None = None

    @classmethod
    def of(cls, value: "TableStorage | str | None", folder: Path) -> "TableStorage":
        """The storage that is meant: the default for `None`, else see `parse`."""
        if value is None or isinstance(value, cls):
            return value or cls()
        return cls.parse(value, folder)

    @classmethod
    def parse(cls, text: str, folder: Path | None = None) -> "TableStorage":
        """The storage in a text such as "bf16", "cpu", "disk" or "disk,bf16".

        Args:
            text: A place (a device, or "disk"), a precision ("fp32", "bf16", "fp16"), or both with a comma between.
            folder: Where "disk" is.

        Raises:
            InputError: If it says something else.
        """
        storage = cls()
        for word in str(text).split(","):
            field, value = _meaning(word.strip(), folder or Path(tempfile.gettempdir()))
            if field is None or getattr(storage, field) is not None:
                raise _not_a_storage(text)
            storage = replace(storage, **{field: value})
        if storage.device is not None and storage.folder is not None:
            raise _not_a_storage(text)
        return storage

    def on(self, device: torch.device | str) -> "TableStorage":
        """The same with a device: that of the training, or the CPU for files, where none was asked for.

        Args:
            device: Device of the training.
        """
        if self.device is not None:
            return self
        return replace(self, device=torch.device("cpu" if self.folder is not None else device))

    def zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A new table of zeros.

        Args:
            *shape: Its shape.
            dtype: Its dtype; that of the storage is the caller's to ask for.
        """
        if self.folder is None:
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

    def check_precision(self, stored: torch.dtype) -> None:
        """Raises an `InputError` unless tables of a checkpoint are as precise as those to be kept here.

        Args:
            stored: Their dtype.
        """
        expected = self.dtype or torch.promote_types(stored, torch.float32)
        if stored != expected:
            names = {dtype: name for name, dtype in _DTYPES.items()}
            raise InputError(
                f"`memory_storage` must have the precision that it had when the checkpoint was saved, {names[stored]}, "
                f"got {names.get(self.dtype, 'none, which is fp32')}. Resume with the same, or start a new run."
            )

    @property
    def free_bytes(self) -> int:
        """How much can be kept here."""
        if self.folder is not None:
            return shutil.disk_usage(next(path for path in (self.folder, *self.folder.parents) if path.exists())).free
        if self.device is not None and self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return psutil.virtual_memory().available

    def check_fits(self, name: str, num_numbers: int, num_flags: int, dtype: torch.dtype) -> None:
        """Raises an `InputError`, with what would do, if tables are larger than what is free.

        Args:
            name: Whose tables they are.
            num_numbers: How many numbers they have.
            num_flags: How many bytes beside them.
            dtype: Of the numbers, where the storage does not say.
        """
        needed = num_numbers * (self.dtype or dtype).itemsize + num_flags
        if needed <= self.free_bytes:
            return
        fitting = []
        for other in self._others():
            other_bytes = num_numbers * (other.dtype or dtype).itemsize + num_flags
            if other_bytes <= other.free_bytes:
                fitting.append(f"`memory_storage={str(other)!r}` ({_size(other_bytes)} of {_size(other.free_bytes)})")
        remedy = f"Use {fitting[0]}." if fitting else "Use fewer examples, or a machine with more memory or disk."
        raise InputError(
            f"The tables of {name} must fit into what is free on {self._place}, {_size(self.free_bytes)}, but need "
            f"{_size(needed)}. {remedy}"
        )

    def _others(self) -> Iterable["TableStorage"]:
        disk = self.folder or Path(tempfile.gettempdir())
        places = [self, TableStorage(torch.device("cpu")), TableStorage(torch.device("cpu"), folder=disk)]
        for place in places:
            yield replace(place, dtype=self.dtype)
            yield replace(place, dtype=torch.bfloat16)

    @property
    def precision(self) -> str:
        """The name of the dtype, "fp32" where there is none."""
        return next((name for name, dtype in _DTYPES.items() if dtype == self.dtype), "fp32")

    @property
    def _place(self) -> str:
        return _DISK if self.folder is not None else str(self.device)

    def __str__(self) -> str:
        return self._place if self.precision == "fp32" else f"{self._place},{self.precision}"


IN_MEMORY = TableStorage()
"""The default: on the device of the training, as precise as the student's outputs."""


def _not_a_storage(text: str) -> InputError:
    return InputError(
        "`memory_storage` must be a place (a device such as 'cpu', or 'disk'), a precision "
        f"({', '.join(_DTYPES)}) or both, as in 'disk,bf16', got {text!r}."
    )


def _meaning(word: str, folder: Path) -> tuple[str | None, object]:
    if word in _DTYPES:
        return "dtype", _DTYPES[word]
    if word == _DISK:
        return "folder", folder
    try:
        return "device", torch.device(word)
    except RuntimeError:
        return None, None


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
