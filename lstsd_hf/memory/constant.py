"""Predictions that were given before training and stay as they are."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .storage import IN_MEMORY, TableStorage


class ConstantMemory:
    """A table of given predictions, such as those of another model; training only reads it.

    Checkpoints hold its digest instead of the table, and a run is resumed only with the same one.

    Args:
        rows: One prediction for each training example, `(num_examples, num_labels)`, such as logits.
        written: Which examples have one, bool `(num_examples,)`; `None` is all.
        storage: Where to keep it; in its own precision. Its device is the CPU where it does not say.

    Attributes:
        coverage: Share of the training examples that have a prediction, from 0 to 1.
        is_complete: Whether all have one.
        digest: SHA-256 of the table.

    Raises:
        ValueError: If `rows` has another shape.

    Examples:
        >>> memory = ConstantMemory(torch.tensor([[2.0, -2.0], [0.5, 1.5]]))
        >>> rows, written = memory.read(torch.tensor([1]))
        >>> rows.tolist(), written.tolist()
        ([[[0.5, 1.5]]], [[True]])
    """

    def __init__(self, rows: Tensor, written: Tensor | None = None, storage: TableStorage = IN_MEMORY):
        if rows.dim() != 2:
            raise ValueError(f"`rows` must have the shape (num_examples, num_labels), got {tuple(rows.shape)}.")
        storage = storage.on(torch.device("cpu"))
        self._rows = storage.place(rows)[None]
        mask = torch.ones(len(rows), dtype=torch.bool) if written is None else written
        self._written = storage.place(mask)[None]
        self.coverage = float(mask.float().mean())
        self.is_complete = bool(mask.all())
        self.digest = _digest(rows, mask)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of some examples, in the form of `ExampleMemory.read`.

        Args:
            indices: Example indices, int64 `(batch_size,)`.

        Returns:
            Rows `(1, batch_size, num_labels)` and the written-mask, bool `(1, batch_size)`, on the device of `indices`.
        """
        own = indices.to(self._rows.device)
        rows, written = self._rows.index_select(1, own), self._written.index_select(1, own)
        return rows.to(indices.device), written.to(indices.device)

    def tables(self) -> tuple[Tensor, Tensor]:
        """All rows `(1, num_examples, num_labels)`, and which are written, bool `(1, num_examples)`."""
        return self._rows, self._written

    def state_dict(self) -> dict[str, str]:
        """The digest, which a resumed run is checked against."""
        return {"digest": self.digest}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raises an `InputError` if a checkpoint was made with another table.

        Args:
            state: What `state_dict` returned then.
        """
        check_same_digest(state["digest"], self.digest)


def check_same_digest(saved: str, found: str) -> None:
    """Raises an `InputError` if what teaches is not what taught when a checkpoint was saved.

    Args:
        saved: Its digest then.
        found: Its digest now.
    """
    if saved != found:
        raise InputError(
            f"The table of predictions must be what it was when the checkpoint was saved: its digest was "
            f"{saved[:12]}…, now it is {found[:12]}…. Resume with the same predictions, or start a new run."
        )


def _digest(rows: Tensor, written: Tensor) -> str:
    digest = hashlib.sha256(f"{rows.dtype} {tuple(rows.shape)}".encode())
    for tensor in (rows, written):
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
