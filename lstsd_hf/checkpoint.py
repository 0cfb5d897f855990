"""A teacher's state beside the optimizer's in a checkpoint, written whole or not at all."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .errors import InputError
from .files import replacing
from .label_errors import LABEL_NAMES
from .teachers import Teacher

TEACHER_STATE_NAME = "teacher_state.safetensors"


def describe_run(teacher: Teacher, dataset: Any) -> dict[str, Any]:
    """What a resumed run must share with the interrupted one."""
    config = teacher.config
    return {
        "teacher": config.name if config is not None else type(teacher).__name__,
        "config": asdict(config) if config is not None else None,
        "num_examples": len(dataset) if hasattr(dataset, "__len__") else None,
        "labels_sha256": _labels_fingerprint(dataset),
    }


def save_teacher_state(state: dict[str, Any], run: dict[str, Any], global_step: int, folder: str) -> None:
    """Writes `teacher_state.safetensors` into a checkpoint folder.

    Args:
        state: `Teacher.state_dict()`.
        run: `describe_run()`.
        global_step: Optimizer steps done.
        folder: The checkpoint folder.
    """
    tensors = {name: value.contiguous() for name, value in state.items() if isinstance(value, torch.Tensor)}
    numbers = {name: value for name, value in state.items() if name not in tensors}
    metadata = {"run": run, "numbers": numbers, "global_step": global_step}
    with replacing(Path(folder) / TEACHER_STATE_NAME) as temporary:
        save_file(tensors, temporary, {name: json.dumps(value) for name, value in metadata.items()})


def load_teacher_state(run: dict[str, Any], global_step: int, folder: str) -> dict[str, Any]:
    """Reads `teacher_state.safetensors` of a checkpoint folder, tensors on the CPU.

    Raises:
        InputError: If the file is missing, or belongs to another step or to a run with other settings or data.
    """
    path = Path(folder) / TEACHER_STATE_NAME
    if not path.is_file():
        raise InputError(
            f"The checkpoint {folder} must contain `{TEACHER_STATE_NAME}`, found none: it was saved by another Trainer "
            "or with `save_only_model=True`, and without its teacher memory the run would silently become another "
            "one. Resume from a checkpoint with teacher memory, or start a new run from the checkpoint's model."
        )
    with safe_open(path, framework="pt") as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    saved = {**_flat(metadata["run"]), "global_step": metadata["global_step"]}
    expected = {**_flat(run), "global_step": global_step}
    for field in sorted(saved.keys() | expected.keys()):
        if saved.get(field) != expected.get(field):
            raise InputError(
                f"`{field}` must be what it was when {path} was saved: it was {saved.get(field)!r}, now it is "
                f"{expected.get(field)!r}. Resume with the same data and settings, or start a new run."
            )
    return state | metadata["numbers"]


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name != "config"} | (run["config"] or {})


def _labels_fingerprint(dataset: Any) -> str | None:
    """Digest of the label column, which tells a reordered or edited data set, or `None` where there is no column to
    read: fetching examples one by one could be slow and could draw random numbers."""
    columns = getattr(dataset, "column_names", None)
    if not isinstance(columns, list):
        return None
    for name in LABEL_NAMES:
        if name in columns:
            labels = dataset.with_format(None).select_columns(name)[:][name]
            return hashlib.sha256(json.dumps(labels).encode()).hexdigest()
    return None
