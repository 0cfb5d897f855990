"""What the teacher memory costs at any size, over the least that its work could cost.

Each ratio is of LSTSD's memory to plain torch on tables of the same size: `lookup and stage` to two `index_select` and
one `index_add_`, `commit` (the transition between epochs) to one copy of the staged rows into a table and one clearing,
`save` and `load` to a raw write and a raw read of as many bytes.
"""

import os
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
    batches = [torch.randint(num_examples, (BATCH_SIZE,), generator=generator) for _ in range(steps)]
    rows = torch.randn(BATCH_SIZE, num_labels, generator=generator)

    def ours() -> None:
        for batch in batches:
            memory.read(batch)
            memory.stage(batch, rows)
        memory._add_arrived()

    tables, staged = state["rows"], state["staged"]
    last = torch.zeros_like(staged)
    plain = torch.randn(BATCH_SIZE, staged.size(1), generator=generator).to(staged.dtype)

    def least() -> None:
        for batch in batches:
            tables.index_select(1, batch).float()
            last.index_add_(0, batch, plain)

    lookup = in_turns(ours, least, rounds)
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
        raw, content = Path(folder, "raw"), (os.urandom(2**20) * (num_bytes // 2**20 + 1))[:num_bytes]
        return {
            "save": in_turns(
                lambda: save_teacher_state(state, {}, TrainerState(), None, folder),
                lambda: raw.write_bytes(content),
                rounds,
            ),
            "load": in_turns(lambda: load_teacher_state({}, folder), raw.read_bytes, rounds),
        }
