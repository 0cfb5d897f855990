"""Checkpoints that carry a teacher, and which of them are whole."""

import contextlib
import hashlib
import json
import logging
import re
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from transformers import TrainerState
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .errors import InputError
from .files import file_checksum, replacing
from .methods import Teacher

logger = logging.getLogger(__name__)

TEACHER_STATE_NAME = "teacher_state.safetensors"
TRAINER_STATE_NAME = "trainer_state.json"
FORMAT_VERSION = 5

_RNG_PREFIX = "rng_state"
# Fields whose values say nothing to people.
_DIGESTS = {
    "labels_sha256": "The training labels are others, or in another order.",
    "rows_sha256": "The training examples are others, or in another order.",
}
# What Trainer's just-in-time checkpoints contain until they are finished.
_UNFINISHED_NAME = "checkpoint-is-incomplete.txt"


# ---- The teacher's file ----


def describe_teacher(teacher: Teacher) -> dict[str, Any]:
    """The method and its options, which a resumed run must share with the interrupted one."""
    config = teacher.config
    return {"teacher": config.name if config is not None else type(teacher).__name__} | (
        asdict(config) if config is not None else {}
    )


def save_teacher_state(
    state: Mapping[str, Any],
    run: Mapping[str, Any],
    trainer_state: TrainerState,
    ranks: Iterable[int] | None,
    folder: str,
) -> None:
    """Writes `teacher_state.safetensors` into a checkpoint folder, with checksums of what else belongs to it.

    Args:
        state: That of teacher, observers and trainer: tensors, plain numbers and strings.
        run: What a resumed run must share; JSON.
        trainer_state: The trainer's state, which is written later.
        ranks: The processes that leave their random states in this folder; `None` where there is only one.
        folder: The checkpoint folder, with model, optimizer, scheduler and scaler saved.
    """
    tensors = {name: value.contiguous() for name, value in state.items() if isinstance(value, torch.Tensor)}
    metadata = {
        "format_version": FORMAT_VERSION,
        "run": dict(run),
        "numbers": {name: value for name, value in state.items() if name not in tensors},
        "global_step": trainer_state.global_step,
        "saved_at": time.time_ns(),
        "trainer_state_sha256": _trainer_state_digest(asdict(trainer_state)),
        "random_states": [f"{_RNG_PREFIX}.pth"] if ranks is None else [f"{_RNG_PREFIX}_{rank}.pth" for rank in ranks],
        "files": {str(path.relative_to(folder)): file_checksum(path) for path in _files_saved_before(Path(folder))},
    }
    shown = {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}
    with replacing(Path(folder) / TEACHER_STATE_NAME) as temporary:
        save_file(tensors, temporary, {**shown, "checksum": _state_checksum(sorted(tensors.items()), shown)})


def load_teacher_state(run: Mapping[str, Any], folder: str, changeable: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Reads `teacher_state.safetensors` of a checkpoint folder.

    Args:
        run: What the resumed run is like.
        folder: The checkpoint folder.
        changeable: Fields of `run` that may differ.

    Returns:
        What was given to `save_teacher_state`, tensors on the CPU.

    Raises:
        InputError: If the file is missing or damaged, or belongs to a run with other settings or data.
    """
    tensors: dict[str, torch.Tensor] = {}
    metadata = _read_teacher_file(Path(folder), tensors)
    check_same_run(metadata, run, Path(folder), changeable)
    return tensors | metadata["numbers"]


def check_same_run(
    metadata: Mapping[str, Any],
    expected: Mapping[str, Any],
    folder: Path,
    changeable: frozenset[str] = frozenset(),
    could_change: Iterable[str] = (),
) -> None:
    """Raises an `InputError` naming the first field in which a run differs from that of a teacher's file.

    Args:
        metadata: Of the file.
        expected: What the run is like.
        folder: The checkpoint folder.
        changeable: Fields that may differ.
        could_change: Fields that might, if the user allowed it.
    """
    saved = {**metadata["run"], "global_step": metadata["global_step"]}
    for field, value in expected.items():
        # As JSON has it: a tuple comes back as a list.
        if field not in changeable and saved.get(field) != json.loads(json.dumps(value)):
            what = f" {_DIGESTS[field]}" if field in _DIGESTS else ""
            allowed = ", allow it with `train(..., allow_teacher_changes=True)`" if field in could_change else ""
            raise InputError(
                f"`{field}` must be what it was when {folder / TEACHER_STATE_NAME} was saved: it was "
                f"{saved.get(field)!r}, now it is {value!r}.{what} Resume with the same data and settings{allowed}, or "
                "start a new run."
            )


def _read_teacher_file(folder: Path, kept: dict[str, torch.Tensor] | None = None) -> dict[str, Any]:
    """The metadata of a teacher's file that is whole; its tensors are put into `kept`, or one by one into nothing."""
    path = folder / TEACHER_STATE_NAME
    if not path.is_file():
        raise InputError(
            f"The checkpoint {folder} must contain `{TEACHER_STATE_NAME}`, found none: it was saved by another Trainer "
            "or with `save_only_model=True`, and without its teacher memory the run would silently become another "
            "one. Resume from a checkpoint with teacher memory, or start a new run from the checkpoint's model."
        )
    try:
        with safe_open(path, framework="pt") as file:
            shown = dict(file.metadata() or {})
            version = shown.get("format_version", str(FORMAT_VERSION))
            checksum = shown.pop("checksum", None)
            is_own = version == str(FORMAT_VERSION)
            is_whole = is_own and checksum == _state_checksum(_tensors_in(file, kept), shown)
        metadata = {name: json.loads(value) for name, value in shown.items()} if is_whole else {}
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if not is_own:
        raise InputError(
            f"`format_version` of {path} must be {FORMAT_VERSION}, got {version}: another version of lstsd_hf wrote "
            "it. Resume with that version, or start a new run."
        )
    if not is_whole:
        raise _damaged(path, "its content is not what was written")
    return metadata


def _tensors_in(file: Any, kept: dict[str, torch.Tensor] | None) -> Iterator[tuple[str, torch.Tensor]]:
    for name in sorted(file.keys()):
        # Cloned: in the mapped file they lie unaligned, and some kernels round otherwise then.
        tensor = file.get_tensor(name).clone()
        if kept is not None:
            kept[name] = tensor
        yield name, tensor


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is damaged: {reason}. Resume from another checkpoint; `resume_from_checkpoint=True` picks the newest "
        "one that is whole."
    )


def _state_checksum(tensors: Iterable[tuple[str, torch.Tensor]], metadata: Mapping[str, str]) -> str:
    """The checksum of tensors, in the order of their names, and of metadata."""
    # Tables may be large: this checksum runs at the speed of memory.
    checksum = xxhash.xxh3_128(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        checksum.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        checksum.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return checksum.hexdigest()


# ---- Whole checkpoints ----


class UnfinishedCheckpointError(InputError):
    """A checkpoint that a run was interrupted in writing."""


def newest_whole_checkpoint(folder: Path, needs_teacher: bool) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that was finished last among those that are whole.

    Not the one with the highest number: that may be left from an earlier, longer run in the same folder, or have been
    interrupted while it was written.

    Args:
        folder: Folder with `checkpoint-<step>` folders.
        needs_teacher: Whether a checkpoint must carry a teacher.

    Returns:
        Its path and what `check_whole` returns of it, or `None` if no checkpoint was ever finished.

    Raises:
        InputError: If there are finished checkpoints, but all are damaged.
    """
    found = {path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)}

    skipped: list[InputError] = []
    for path in sorted(found, key=_age, reverse=True):
        try:
            metadata = check_whole(path, needs_teacher)
        except InputError as error:
            skipped.append(error)
        else:
            for error in skipped:
                logger.warning(f"Resuming from {path}, not from a later one. {error}")
            return path, metadata
    for error in skipped:
        logger.warning(str(error))
    damaged = [str(error) for error in skipped if not isinstance(error, UnfinishedCheckpointError)]
    if damaged:
        raise InputError(f"One of the checkpoints in {folder} must be whole, found none. {' '.join(damaged)}")
    return None


def _age(folder: Path) -> tuple[int, int]:
    """When a checkpoint was saved, and its step."""
    state, teacher = folder / TRAINER_STATE_NAME, folder / TEACHER_STATE_NAME
    saved_at = state.stat().st_mtime_ns if state.exists() else 0
    # As it says itself, if it does: a copy may have other times.
    with contextlib.suppress(SafetensorError, OSError, ValueError, KeyError), safe_open(teacher, "pt") as file:
        saved_at = json.loads((file.metadata() or {})["saved_at"])
    return saved_at, int(folder.name.split("-")[1])


def check_whole(folder: Path, needs_teacher: bool) -> dict[str, Any]:
    """Checks that a checkpoint was neither interrupted while it was written nor damaged later.

    Args:
        folder: The checkpoint folder.
        needs_teacher: Whether it must carry a teacher; such a checkpoint knows the checksums of its files.

    Returns:
        The metadata of the teacher's file; nothing without a teacher.

    Raises:
        UnfinishedCheckpointError: If what is written last is not there.
        InputError: If something is missing or damaged.
    """
    state = folder / TRAINER_STATE_NAME
    if not state.is_file() and get_last_checkpoint(str(folder)) is not None:
        raise InputError(
            f"`resume_from_checkpoint` must be a checkpoint folder, got {folder}, which has some within it, such as "
            f"{Path(get_last_checkpoint(str(folder))).name}. Name one of them, or give True for the newest."
        )
    try:
        trainer_state = json.loads(state.read_text())
        step = trainer_state["global_step"]
    except (OSError, ValueError, KeyError) as error:
        raise UnfinishedCheckpointError(
            f"The checkpoint {folder} must contain `{TRAINER_STATE_NAME}`, which is written last, and it cannot be "
            f"read ({error!r}): the run was interrupted while saving it. Resume from an earlier checkpoint."
        ) from error
    if (folder / _UNFINISHED_NAME).exists():
        raise UnfinishedCheckpointError(
            f"The checkpoint {folder} must not contain `{_UNFINISHED_NAME}`: the run was interrupted while saving it. "
            "Resume from an earlier checkpoint."
        )
    for path in sorted([*folder.glob("*.pt"), *folder.glob("*.pth")]):
        _check_archive(path)
    if not needs_teacher:
        return {}
    metadata = _read_teacher_file(folder)
    check_same_run(metadata, {"global_step": step}, folder)
    if _trainer_state_digest(trainer_state) != metadata["trainer_state_sha256"]:
        raise _damaged(state, "its content is not what was written")
    for name, checksum in metadata["files"].items():
        path = folder / name
        if not path.is_file():
            if name == SAFE_WEIGHTS_NAME and _sharded_checksum(folder) == checksum:
                continue
            raise InputError(f"The checkpoint {folder} must contain `{name}`, found none: it was deleted or moved.")
        if file_checksum(path) != checksum:
            raise _damaged(path, "its content is not what was written")
    for name in metadata["random_states"]:
        if not (folder / name).is_file():
            raise UnfinishedCheckpointError(
                f"The checkpoint {folder} must contain `{name}`, the random state of one of its processes, found none: "
                "the run was interrupted while saving it. Resume from an earlier checkpoint."
            )
    return metadata


def _sharded_checksum(folder: Path) -> str | None:
    """The checksum that a model's weights would have as one file, if they were divided into several since.

    They are in memory twice for it.
    """
    try:
        shards = set(json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text())["weight_map"].values())
        tensors = {name: tensor for shard in sorted(shards) for name, tensor in load_file(folder / shard).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None
    return xxhash.xxh3_128(save(tensors, {"format": "pt"})).hexdigest()


def _check_archive(path: Path) -> None:
    """torch's files are zip archives with checksums, which torch itself does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if damaged is not None:
        raise _damaged(path, f"the checksum of {damaged} is wrong")


def _files_saved_before(folder: Path) -> list[Path]:
    """Files that are written before the teacher's; other processes may be writing their random states."""
    later = (TEACHER_STATE_NAME, TRAINER_STATE_NAME, _RNG_PREFIX, _UNFINISHED_NAME, ".")
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(later))


def _trainer_state_digest(state: Mapping[str, Any]) -> str:
    # The states of callbacks are brought up to date after the teacher's file is written.
    lasting = {name: value for name, value in state.items() if name != "stateful_callbacks"}
    # Through JSON, where keys are texts and are sorted as such.
    lasting = json.loads(json.dumps(lasting))
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()
