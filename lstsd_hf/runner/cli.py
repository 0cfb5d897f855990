"""The command: plans runs, carries out what is missing, and prints a table for each task."""

import copy
import dataclasses
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import transformers

from ..distributed import batch_factor
from ..errors import InputError
from .arguments import check_arguments
from .grid import PlannedRun, run_if_missing, take_shard
from .options import Domain, Parsed, parse
from .results import format_table, judged_by
from .run import Run, check_can_be_searched, check_plan


def plan(parsed: Parsed, domain: Domain) -> list[PlannedRun]:
    """All runs, seed by seed and method by method, so that a part of them is a comparison too."""
    for teacher in parsed.teachers:
        if teacher.first_stage() is None:
            teacher.check_source()
    loaded, planned = domain.load(parsed), []
    for first in loaded:
        for seed in parsed.seeds:
            for teacher in parsed.teachers:
                args = copy.copy(parsed.args)
                args.seed = seed
                planned.append(dataclasses.replace(first, teacher=teacher, args=args))
    root = Path(parsed.output_dir or "runs")
    is_single = len(planned) == 1 and parsed.run.sweep is None
    own_folder = root if parsed.output_dir is not None and is_single else None
    if parsed.run.sweep is None:
        return take_shard([_placed(item, root, own_folder) for item in planned], parsed.run.shard)
    for item in planned:
        check_can_be_searched(item)
        check_plan(item)
    return [_placed(item, root, own_folder) for item in _searched(take_shard(planned, parsed.run.shard), parsed)]


def _placed(run: Run, root: Path, folder: Path | None) -> PlannedRun:
    """A run and its folder, after the run that must come first; checks both.

    Args:
        run: The run.
        root: The folder of all runs.
        folder: The very folder that the user named for it.
    """
    first, before = run.teacher.first_stage(), None
    if first is not None:
        beside = folder and folder.with_name(f"{folder.name}-teacher")
        # A command goes through the methods seed by seed: all have the same first stage, which is run once.
        before = _placed(dataclasses.replace(run, teacher=first, args=copy.copy(run.args)), root, beside)
        run = dataclasses.replace(run, first_stage=before.folder)
    check_plan(run)
    return PlannedRun(run, folder or run.default_folder(root), folder is None, before)


def _searched(runs: list[Run], parsed: Parsed) -> list[Run]:
    try:
        from ..experiments.sweep import search, with_options
    except ModuleNotFoundError as error:
        raise InputError(f"`sweep` needs the package {error.name}: `pip install -e '.[experiments]'`.") from error

    root = Path(parsed.output_dir or "runs") / "sweeps"
    storage = parsed.run.sweep_storage or f"sqlite:///{root}/studies.sqlite3"
    found: dict[tuple[str, str], dict[str, Any]] = {}
    searched = []
    for item in runs:
        key = item.task.name, item.teacher.name
        if key not in found:
            # One study for all seeds and shards.
            args = copy.copy(item.args)
            args.seed = parsed.seeds[0]
            first = dataclasses.replace(item, args=args)
            found[key] = search(first, parsed.run.sweep, storage, root, Path(parsed.run.cache_dir))
            print(f"{key[0]} · {key[1]}: searched {parsed.run.sweep} trials, best {found[key]}", flush=True)
        searched.append(with_options(item, found[key]))
    return searched


def describe(run: Run) -> str:
    """The settings in one line."""
    args, options = run.args, run.options
    paper = run.paper_settings
    settings = {name: getattr(args, name) for name in paper}
    # AdamW without weight decay is Adam.
    is_adam = args.optim.value.startswith("adamw_torch") and args.weight_decay == 0
    batch = args.train_batch_size * args.gradient_accumulation_steps * batch_factor(args)
    is_paper = (
        (settings, batch, args.max_steps) == (paper, paper["per_device_train_batch_size"], -1)
        and run.teacher == run.paper_teacher
        and options == type(options)()
    )
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    defaults = asdict(type(options)())
    changed = {name: value for name, value in asdict(options).items() if value != defaults[name]}
    details = ", ".join(f"{name}={value}" for name, value in (asdict(run.teacher) | changed).items())
    optimizer = "Adam" if is_adam else f"{args.optim.value} (weight decay {args.weight_decay:g})"
    return (
        f"{run.task.name} · {run.teacher.name} · {run.model_name_or_path}: {run.paper_note if is_paper else ''}"
        f"{length}, batch {batch}, {optimizer} at "
        f"{args.learning_rate:g}, seed {args.seed}" + (f"; {details}" if details else "")
    )


def main(arguments: list[str], domain: Domain) -> None:
    """Runs what is missing and prints a table for each task.

    Args:
        arguments: The command line.
        domain: The kind of data.
    """
    parsed = parse(arguments, domain)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    check_arguments(parsed.args, parsed.seeds, [Path(parsed.output_dir or "runs"), Path(parsed.run.cache_dir)])
    planned = plan(parsed, domain)
    is_main = parsed.args.process_index == 0
    notice = domain.notice([item.run for item in planned])
    if is_main and notice:
        print(notice)
    results: dict[str, list[dict[str, Any]]] = {}
    failed: list[Path] = []
    options = {"resume": parsed.run.resume, "overwrite": parsed.run.overwrite, "cache": Path(parsed.run.cache_dir)}
    for position, item in enumerate(planned):
        if is_main:
            counter = f"[{position + 1}/{len(planned)}] " if len(planned) > 1 else ""
            print(counter + describe(item.run), flush=True)
        try:
            result, was_finished = run_if_missing(item, **options)
        except InputError as error:
            # Other processes may not have met it.
            if len(planned) == 1 or parsed.args.world_size > 1:
                raise
            print(f"Failed: {error}", flush=True)
            failed.append(item.folder)
            continue
        results.setdefault(item.run.task.name, []).append(result)
        if is_main:
            print(f"{'Finished before' if was_finished else 'Saved'} in {item.folder}", flush=True)
    if is_main:
        for task, rows in results.items():
            print(f"\n{domain.table_prefix(rows[0])}{task}, scores of {judged_by(rows[0])}\n\n{format_table(rows)}")
    if failed:
        folders = ", ".join(map(str, failed))
        raise InputError(f"{len(failed)} of {len(planned)} runs failed, for the reasons given above: {folders}.")


def run(domain: Domain) -> None:
    """The command: an error of the user is one line."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lstsd_hf").setLevel(logging.INFO)
    try:
        main(sys.argv[1:], domain)
    except InputError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


class Command:
    """The command of a kind of data.

    Args:
        domain: The kind of data.
    """

    def __init__(self, domain: Domain):
        self._domain = domain

    def parse(self, arguments: list[str]) -> Parsed:
        """Parses the command line; see `lstsd_hf.runner.options.parse`."""
        return parse(arguments, self._domain)

    def plan(self, parsed: Parsed) -> list[PlannedRun]:
        """All runs; see `plan`."""
        return plan(parsed, self._domain)

    def main(self, arguments: list[str]) -> None:
        """Runs what is missing and prints a table for each task."""
        main(arguments, self._domain)

    def run(self) -> None:
        """Does so with the arguments of this process; an error of the user is one line."""
        run(self._domain)
