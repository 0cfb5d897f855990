"""The command: plans runs, carries out what is missing, and prints a table for each task."""

import copy
import dataclasses
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import transformers
from datasets import DatasetDict
from transformers import TrainingArguments

from ..errors import InputError
from ..experiments.grid import PlannedRun, run_if_missing, take_shard
from .arguments import check_arguments
from .data import load_task
from .models import CNN
from .options import ALL, PAPER_CNN_SETTINGS, PAPER_SETTINGS, Parsed, RunArguments, check_unique, parse
from .own_files import load_files
from .preparation import DataOptions
from .results import format_table, judged_by
from .run import GlueRun, check_can_be_searched, check_plan
from .tasks import TASKS, GlueTask, get_task


def load(run: RunArguments, args: TrainingArguments) -> list[tuple[GlueTask, DatasetDict, str]]:
    """The tasks, their splits, and what kind of source they came from.

    Raises:
        InputError: If the options do not name data, or a split that is asked for is missing.
    """
    if run.train_file or run.validation_file:
        if run.task or not (run.train_file and run.validation_file):
            raise InputError("`train_file` and `validation_file` go together and without `task`.")
        task, splits = load_files(run.train_file, run.validation_file, run.test_file, run.text_columns)
        loaded = [(task, splits, f"{run.train_file}, {run.validation_file}")]
    else:
        if run.task is None:
            raise InputError("`task` is missing. Give --task, or --train_file and --validation_file.")
        names = list(TASKS) if run.task == [ALL] else run.task
        check_unique("task", names)
        tasks = [get_task(name) for name in names]
        data = run.data or os.environ.get("GLUE_DIR") or "hub"
        # The same files in another place are the same data.
        source = data if data in ("hub", "synthetic") else "tsv"
        loaded = [(task, load_task(task, data), source) for task in tasks]
    if run.test_file and not args.do_predict:
        raise InputError("`test_file` is for predictions: give --do_predict too.")
    for task, splits, _ in loaded:
        if args.do_predict and "test" not in splits:
            raise InputError(
                f"`do_predict` needs a test split of {task.name}, found {sorted(splits)}. Add one, or leave it out."
            )
    return loaded


def plan(parsed: Parsed) -> list[PlannedRun]:
    """All runs, seed by seed and method by method, so that a part of them is a comparison too."""
    run, planned = parsed.run, []
    loaded = load(run, parsed.args)
    for task, splits, source in loaded:
        for seed in parsed.seeds:
            for teacher in parsed.teachers:
                args = copy.copy(parsed.args)
                args.seed = seed
                planned.append(
                    GlueRun(
                        task,
                        splits,
                        source,
                        run.model_name_or_path,
                        teacher,
                        args,
                        run.data_options(),
                        record_dynamics=run.record_dynamics,
                        cross_validate=run.cross_validate,
                    )
                )
    root = Path(parsed.output_dir or "runs")
    is_single = len(loaded) * len(parsed.seeds) * len(parsed.teachers) == 1 and run.sweep is None
    own_folder = root if parsed.output_dir is not None and is_single else None
    if run.sweep is None:
        return take_shard([_placed(item, root, own_folder) for item in planned], run.shard)
    for item in planned:
        check_can_be_searched(item)
        check_plan(item)
    return [_placed(item, root, own_folder) for item in _searched(take_shard(planned, run.shard), parsed)]


def _placed(run: GlueRun, root: Path, folder: Path | None) -> PlannedRun:
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


def _searched(runs: list[GlueRun], parsed: Parsed) -> list[GlueRun]:
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


def describe(run: GlueRun) -> str:
    """The settings in one line."""
    args, options = run.args, run.options
    paper = PAPER_CNN_SETTINGS if run.model_name_or_path == CNN else PAPER_SETTINGS
    settings = {name: getattr(args, name) for name in paper}
    # AdamW without weight decay is Adam.
    is_adam = args.optim.value.startswith("adamw_torch") and args.weight_decay == 0
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    is_paper = (
        (settings, batch, args.max_steps) == (paper, paper["per_device_train_batch_size"], -1)
        and run.teacher == run.teacher.paper()
        and options == DataOptions()
    )
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    origin = (
        "the paper's settings; where it is silent on GLUE, linear decay after 10 % warm-up, 128 tokens and the "
        "method's options: "
    )
    changed = {name: value for name, value in asdict(options).items() if value != asdict(DataOptions())[name]}
    details = ", ".join(f"{name}={value}" for name, value in (asdict(run.teacher) | changed).items())
    optimizer = "Adam" if is_adam else f"{args.optim.value} (weight decay {args.weight_decay:g})"
    return (
        f"{run.task.name} · {run.teacher.name} · {run.model_name_or_path}: {origin if is_paper else ''}"
        f"{length}, batch {batch}, {optimizer} at "
        f"{args.learning_rate:g}, seed {args.seed}" + (f"; {details}" if details else "")
    )


def main(arguments: list[str]) -> None:
    """Runs what is missing and prints a table for each task."""
    parsed = parse(arguments)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    check_arguments(parsed.args, parsed.seeds, [Path(parsed.output_dir or "runs"), Path(parsed.run.cache_dir)])
    planned = plan(parsed)
    is_main = parsed.args.process_index == 0
    if is_main and any(item.run.data_source == "synthetic" for item in planned):
        print("GENERATED DATA: sentences from a template grammar, not GLUE. The scores say nothing about GLUE.")
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
            generated = "Generated data, not GLUE: " if rows[0]["data"]["generated"] else ""
            print(f"\n{generated}{task}, scores of {judged_by(rows[0])}\n\n{format_table(rows)}")
    if failed:
        folders = ", ".join(map(str, failed))
        raise InputError(f"{len(failed)} of {len(planned)} runs failed, for the reasons given above: {folders}.")


def run() -> None:
    """The command: an error of the user is one line."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lstsd_hf").setLevel(logging.INFO)
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
