"""Many runs: what is missing is run, what is finished is left alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError
from .run import Run
from .run_folder import check_is_for_runs, is_finished
from .training import execute

T = TypeVar("T")


@dataclass(frozen=True)
class PlannedRun:
    """A run and where it goes.

    Attributes:
        run: The run.
        folder: Its folder.
        is_own_folder: Whether the folder is named by the run's settings, so that it can hold no other run and an
            interrupted one is continued without asking.
        before: The run whose folder is its teacher, if that is to be run first.
    """

    run: Run
    folder: Path
    is_own_folder: bool
    before: "PlannedRun | None" = None


def take_shard(items: Sequence[T], shard: str | None) -> list[T]:
    """Every n-th item from the i-th on, for the shard `i/n` (i from 1); all of them without one.

    Raises:
        InputError: If the shard is not of that form.
    """
    if shard is None:
        return list(items)
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"`shard` must be i/n with i from 1 to n, such as 1/4, got {shard!r}.")
    index, count = int(match[1]), int(match[2])
    return list(items[index - 1 :: count])


def run_if_missing(item: PlannedRun, *, resume: bool, overwrite: bool, cache: Path) -> tuple[dict[str, Any], bool]:
    """Executes a run unless it is finished.

    Args:
        item: The run.
        resume: Continue an interrupted run in a folder that the user named.
        overwrite: Delete an earlier run.
        cache: Folder for tokens and hidden states.

    Returns:
        The content of its `results.json`, and whether it had been finished before.
    """
    if item.before is not None:
        if item.run.args.should_save and not overwrite:
            # Before the time of another run is spent.
            check_is_for_runs(item.folder)
        run_if_missing(item.before, resume=resume, overwrite=overwrite, cache=cache)
    resumes = (resume or item.is_own_folder) and not overwrite
    was_finished = resumes and is_finished(item.run, item.folder)
    return execute(item.run, item.folder, resume=resumes, overwrite=overwrite, cache=cache), was_finished
