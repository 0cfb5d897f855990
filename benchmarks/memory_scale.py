"""What the teacher memory costs at any size, over the least that its work could cost.

Each ratio is of LSTSD's memory to plain torch on tables of the same size:

- `lookup and stage`: to an `index_select` of the rows and of the mask of those that were written, and an `index_add_`
  of the staged rows and of their counts; with top-k also to a log-softmax and a top-k of the batch, and empty rows to
  read into;
- `commit`, the transition between epochs: to one copy of the staged rows into a table and one clearing;
- `save` and `load`: to a raw write and a raw read of as many bytes.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from lstsd_hf import TableStorage, TeacherMemory
from lstsd_hf.checkpoint import load_teacher_state, save_teacher_state

from .measuring import in_turns

# Examples, labels, storage.
SIZES = [
    (10**4, 2, "cpu"),
    (10**6, 2, "cpu"),
    (10**7, 2, "cpu"),
    (10**7, 2, "cpu,bf16"),
    (10**8, 2, "cpu,bf16"),
    (10**5, 1000, "cpu"),
    (10**4, 50_000, "cpu,bf16"),
    (10**6, 50_000, "disk,bf16,top-16"),
]
QUICK_SIZES = [(10**4, 2, "cpu"), (10**5, 100, "disk,bf16")]
BATCH_SIZE, STEPS = 64, 200


def measure(quick: bool) -> list[dict[str, Any]]:
    """A row for each size."""
    return [_row(*size, rounds=3 if quick else 7) for size in (QUICK_SIZES if quick else SIZES)]


def _row(num_examples: int, num_labels: int, storage: str, rounds: int) -> dict[str, Any]:
    memory = TeacherMemory(num_examples, num_labels, TableStorage.parse(storage))
    state = memory.state_dict()
    num_bytes = sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor))
    generator = torch.Generator().manual_seed(0)
    steps = min(STEPS, max(10, 10**8 // (BATCH_SIZE * num_labels)))
    batches: dict[str, list[torch.Tensor]] = {}
    rows = torch.randn(BATCH_SIZE, num_labels, generator=generator)

    def draw() -> None:
        # Other examples in every turn: a processor's cache has those of the last one.
        for name in ("ours", "least"):
            batches[name] = [torch.randint(num_examples, (BATCH_SIZE,), generator=generator) for _ in range(steps)]

    def ours() -> None:
        for batch in batches["ours"]:
            memory.read(batch)
            memory.stage(batch, rows)
        memory._add_arrived()

    tables, staged = state["rows"], state["staged"]
    # What was never written to is a single page of zeros.
    for table in (tables, staged):
        table.view(torch.uint8).fill_(1)
    last, mask, counts = torch.ones_like(staged), state["written"].clone(), state["counts"].clone()
    ones = torch.ones(BATCH_SIZE, dtype=counts.dtype)
    plain = torch.ones(BATCH_SIZE, staged.size(1)).to(staged.dtype)
    top_k = state["top_k"]

    def least() -> None:
        for batch in batches["least"]:
            tables.index_select(1, batch).float()
            mask.index_select(1, batch)
            if top_k is not None:
                rows.log_softmax(dim=-1).topk(top_k, dim=-1)
                torch.zeros(2, *rows.shape)
            last.index_add_(0, batch, plain)
            counts.index_add_(0, batch, ones)

    lookup = in_turns(ours, least, rounds, before=draw)
    result = {"examples": num_examples, "labels": num_labels, "storage": storage}
    result |= {"bytes_for_an_example": num_bytes / num_examples, "lookup_and_stage": lookup}
    epochs = iter(range(1, 10**6))
    result["commit"] = in_turns(
        lambda: memory.transition(next(epochs), False),
        lambda: (tables[0].copy_(last), last.zero_()),
        rounds,
        # An epoch in which every example was seen.
        before=lambda: memory._counts.fill_(1),
    )
    if num_bytes < 2**30:
        result |= _files(memory.state_dict(), num_bytes, rounds)
    return result


def _files(state: dict[str, Any], num_bytes: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        # Beside the checkpoint: a save takes the checksum of whatever else lies in that.
        checkpoint, raw = Path(folder, "checkpoint"), Path(folder, "raw")
        content = (os.urandom(2**20) * (num_bytes // 2**20 + 1))[:num_bytes]

        def clear() -> None:
            # As in a training: every checkpoint is new. Some file systems write at once what replaces a file.
            shutil.rmtree(checkpoint, ignore_errors=True)
            raw.unlink(missing_ok=True)
            checkpoint.mkdir()
            os.sync()

        save = in_turns(
            lambda: save_teacher_state(state, {}, TrainerState(), None, checkpoint),
            lambda: raw.write_bytes(content),
            rounds,
            before=clear,
        )
        return {"save": save, "load": in_turns(lambda: load_teacher_state({}, checkpoint), raw.read_bytes, rounds)}
