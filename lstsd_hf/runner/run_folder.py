"""The folder of a run: new, interrupted or finished, and never that of another run."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers.trainer import SCHEDULER_NAME

from ..checkpoint import newest_whole_checkpoint
from ..errors import InputError
from ..files import is_temporary
from .results import RESULTS_NAME, read_result, write_json
from .run import Run

logger = logging.getLogger(__name__)

RUN_NAME = "run.json"
LOCK_NAME = ".lock"
# Differences that a message names.
_SHOWN = 3


def is_finished(run: Run, folder: Path) -> bool:
    """Whether a folder holds the results of this very run."""
    paths = folder / RESULTS_NAME, folder / RUN_NAME
    if not all(path.exists() for path in paths) or json.loads(paths[1].read_text()) != run.state:
        return False
    submitted = read_result(paths[0]).get("submissions", {})
    return all(submitted.get(name) == digest and (folder / name).exists() for name, digest in run.submissions.items())


def take_folder(run: Run, folder: Path, resume: bool, overwrite: bool, lock: FileLock) -> None:
    """Checks a folder, waits until no other process is at work there, and empties it if asked for.

    Args:
        run: What is to run there.
        folder: The folder.
        resume: As in `execute`.
        overwrite: Whether to delete what is there.
        lock: The folder's lock, which is held from now on. The system lets go of it if the process is killed.

    Raises:
        InputError: If the folder holds something that must not be lost, or a run of several processes would have to
            wait, whose barriers run out of time.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`output_dir` must be a folder, got the file {folder}. Choose another.")
    with run.args.main_process_first(desc="the run's folder"):
        if not run.args.should_save:
            return
        if overwrite and folder.exists():
            _check_is_run(folder)
        else:
            check_is_for_runs(folder)
            _check_content(run, folder, resume)
        folder.mkdir(parents=True, exist_ok=True)
        if run.args.process_index == 0:
            _acquire(lock, folder, waits=run.args.world_size == 1)
        if overwrite:
            _empty(folder)


def _acquire(lock: FileLock, folder: Path, *, waits: bool) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not waits:
            raise InputError(
                f"{folder} must not be in use, but another process carries out a run there. Wait until it has ended, "
                "or choose another --output_dir."
            ) from error
        logger.info(f"Waiting for another process, which carries out a run in {folder}.")
        lock.acquire()


def prepare_folder(run: Run, folder: Path, resume: bool) -> str | None:
    """The checkpoint to resume from, if any, after what is in the folder has been checked.

    Raises:
        InputError: If the folder holds something that must not be lost.
    """
    with run.args.main_process_first(desc="what the run's folder holds"):
        if run.args.should_save:
            _check_content(run, folder, resume)
            write_json(run.state, folder / RUN_NAME)
        return _checkpoint_to_resume(run, folder) if resume else None


def _check_content(run: Run, folder: Path, resume: bool) -> None:
    """Raises an `InputError` if what a folder holds is not to be gone on with."""
    if not folder.exists() or (resume and is_finished(run, folder)):
        return
    if is_finished(run, folder):
        raise InputError(
            f"{folder} holds this run, finished. Use --resume to show its scores, --overwrite to run it again, or "
            "another --output_dir."
        )
    if (folder / RESULTS_NAME).exists():
        lacks = " that did not predict this test split" if run.submissions else ""
        raise InputError(
            f"{folder} holds a finished run{_what_differs(run, folder) or lacks}. Use --overwrite to delete it, or "
            "another --output_dir."
        )
    # With nothing else there, the earlier run did not begin to train.
    if (folder / RUN_NAME).exists() and any(path.name != RUN_NAME for path in _content(folder)):
        if not resume:
            raise InputError(f"{folder} holds an interrupted run. Use --resume to go on, or --overwrite.")
        differs = _what_differs(run, folder)
        if differs:
            raise InputError(f"{folder} holds an interrupted run{differs}. Use the same to resume, or --overwrite.")


def check_is_for_runs(folder: Path) -> None:
    """Raises an `InputError` if a folder has files of something else."""
    if folder.exists() and not (folder / RUN_NAME).exists() and _content(folder):
        raise InputError(f"`output_dir` must be new, empty or of an earlier run, got {folder}. Choose another.")


def _check_is_run(folder: Path) -> None:
    others = sorted(path.parent for path in folder.rglob(RUN_NAME) if path.parent != folder)
    if others:
        raise InputError(
            f"{folder} holds other runs, such as {others[0]}, so --overwrite does not delete it. Choose another "
            "--output_dir, or move them."
        )
    if not (folder / RUN_NAME).exists() and _content(folder):
        raise InputError(f"{folder} holds no run of this program, so --overwrite does not delete it. Choose another.")


def _content(folder: Path) -> list[Path]:
    """What is there beside the lock, and what a killed process was about to write."""
    return [path for path in folder.iterdir() if path.name != LOCK_NAME and not is_temporary(path)]


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK_NAME:
            path.unlink()


def _what_differs(run: Run, folder: Path) -> str:
    """How the run in a folder differs from this one, for a sentence; empty if it does not."""
    there = json.loads((folder / RUN_NAME).read_text())
    others = list(_differences(there, run.state))
    if not others:
        return ""
    more = f", and {len(others) - _SHOWN} more (see {RUN_NAME} there)" if len(others) > _SHOWN else ""
    return f" with other settings: {', '.join(others[:_SHOWN])}{more}"


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            yield from _differences(there.get(key), here.get(key), key)
    elif there != here:
        yield f"`{name}` is {there!r} there and {here!r} here"


def _checkpoint_to_resume(run: Run, folder: Path) -> str | None:
    """The newest whole checkpoint; none where a run was interrupted before its first one was whole."""
    found = newest_whole_checkpoint(folder, run.teacher.build().is_stateful or run.record_dynamics)
    if found is None:
        return None
    if not (found[0] / SCHEDULER_NAME).is_file() and run.args.deepspeed is None:
        raise InputError(
            f"{found[0]} must contain `{SCHEDULER_NAME}` to go on from it, found none: it was saved with "
            "`save_only_model`. Use --overwrite to start again."
        )
    return str(found[0])
