"""The options of a command: what they are, and how several methods share a command line."""

import argparse
import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..errors import InputError
from ..methods import METHODS, TeacherConfig
from .entry import HELP_ALL
from .noise import NOISE_KINDS
from .parsing import HelpFormatter, parsed, wide
from .preparation import DataOptions
from .run import Run

RUN_SETTINGS = {
    "per_device_eval_batch_size": 64,
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
ALL = "all"
# Beside every loss, which transformers knows.
_SMALLER_IS_BETTER = ("nll", "ece")
_IN_FRONT = " With several methods, an option has its method in front: --lstsd.lambda_short."


@dataclass
class RunArguments:
    """What to train on what."""

    options_class: ClassVar[type[DataOptions]] = DataOptions

    method: list[str] = field(
        metadata={"help": f"One or several of: {', '.join(METHODS)}; or all, without those whose teacher is not named."}
    )
    task: list[str] | None = field(default=None, metadata={"help": "One or several tasks; or all."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Several seeds, instead of --seed."})
    data: str | None = field(default=None, metadata={"help": "Where the data are."})
    model_name_or_path: str = field(default="", metadata={"help": "A name on the hub, or a folder."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first N training rows."})
    label_noise: float = field(default=0.0, metadata={"help": "Share of the training labels to replace at random."})
    label_noise_seed: int = field(default=0, metadata={"help": "Seed of the label noise, separate from `--seed`."})
    label_noise_kind: str = field(
        default=NOISE_KINDS[0],
        metadata={"help": "By which label: symmetric (any other) or asymmetric (each class is taken for the next)."},
    )
    record_dynamics: bool = field(
        default=False, metadata={"help": "Keep what each epoch says of each training example, in <run>/dynamics."}
    )
    memory_storage: str | None = field(
        default=None,
        metadata={
            "help": "Where and how precisely to keep tables: cpu, disk, bf16, top-16, sharded, or several with commas"
        },
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
        metadata={"help": "First search each method's options with N trials, on a part of the training split."},
    )
    sweep_storage: str | None = field(
        default=None, metadata={"help": "URL of an Optuna storage to share. Default: a file in the runs' folder."}
    )
    cache_dir: str = field(default="runs/.cache", metadata={"help": "What is slow to make, shared by all runs."})
    demo: bool = field(default=False, metadata={"help": "Everything local and small."})
    overwrite: bool = field(default=False, metadata={"help": "Delete earlier runs and start again."})
    resume: bool = field(default=False, metadata={"help": "Continue an interrupted run in a folder of one's own."})

    def __post_init__(self):
        if self.overwrite and self.resume:
            raise InputError("`overwrite` deletes what `resume` would continue. Give one of them.")
        self.data_options()

    def data_options(self) -> DataOptions:
        """What is done to the data before training."""
        kind = self.options_class
        return kind(**{option.name: getattr(self, option.name) for option in dataclasses.fields(kind)})


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

    @property
    def of_every_run(self) -> dict[str, Any]:
        """What the runs of all tasks have in common, with the first method."""
        return {
            "model_name_or_path": self.run.model_name_or_path,
            "teacher": self.teachers[0],
            "args": self.args,
            "options": self.run.data_options(),
            "record_dynamics": self.run.record_dynamics,
            "memory_storage": self.run.memory_storage,
            "cross_validate": self.run.cross_validate,
        }


class Domain(ABC):
    """A kind of data, with a command of its own.

    Attributes:
        description: What the command's help begins with.
        arguments: What to train on what.
        demo_method_settings: Defaults of the methods' options with `--demo`.
    """

    description: str
    arguments: type[RunArguments]
    demo_method_settings: Mapping[str, Any] = {}

    @abstractmethod
    def training_defaults(self, model_name: str | None, is_demo: bool) -> Mapping[str, Any]:
        """Training arguments that a model has by default.

        Args:
            model_name: The model as named on the command line, if it is.
            is_demo: Whether everything is to be local and small.
        """

    def has_lengths(self, run: RunArguments, teachers: Sequence[TeacherConfig]) -> bool:
        """Whether batches can be grouped by length by default, for all methods of a command alike.

        Args:
            run: What to train on what.
            teachers: The methods' options.
        """
        return False

    @abstractmethod
    def paper_teacher(self, config_class: type[TeacherConfig]) -> TeacherConfig:
        """A method's options in the paper, for such data."""

    @abstractmethod
    def load(self, parsed: Parsed) -> Sequence[Run]:
        """A run for each task, with the first method and seed.

        Raises:
            InputError: If the options do not name data, or they cannot be had.
        """

    def notice(self, runs: Sequence[Run]) -> str | None:
        """What must be said before such runs."""
        return None

    def table_prefix(self, result: Mapping[str, Any]) -> str:
        """What must be said above a table."""
        return ""


def parse(arguments: list[str], domain: Domain) -> Parsed:
    """Parses the command line; the methods and the model named on it decide options and defaults.

    The options of a single method have their plain names, `--lambda_short`; with several methods, or if one likes, they
    have the method's name in front, `--lstsd.lambda_short`.

    Args:
        arguments: The command line.
        domain: The kind of data.

    Raises:
        InputError: If an option is unknown or has a value that is not allowed.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", nargs="+", default=[])
    first.add_argument("--model_name_or_path", "--model-name-or-path")
    first.add_argument("--demo", nargs="?", const=True, default=False, type=string_to_bool)
    first.add_argument("--output_dir", "--output-dir")
    first.add_argument("--seed")
    first.add_argument("--train_sampling_strategy", "--train-sampling-strategy")
    first.add_argument("--greater_is_better", "--greater-is-better")
    first.add_argument("--sweep")
    first.add_argument("--cross_validate", "--cross-validate")
    known, _ = first.parse_known_args(arguments)
    holds_labels_out = any(value not in (None, "0") for value in (known.sweep, known.cross_validate))
    methods = _all_methods(arguments, holds_labels_out) if known.method == [ALL] else known.method
    for name in methods:
        if name not in METHODS:
            raise InputError(f"`method` must be one of {', '.join(METHODS)}, got {name!r}.")
    check_unique("method", methods)
    plain, prefixed = _split_prefixed(arguments, methods)
    config_classes = [METHODS[name] for name in methods]
    is_single = len(config_classes) == 1
    if is_single:
        plain, prefixed = plain + prefixed[methods[0]], {}
    parser = HfArgumentParser(
        [domain.arguments, TrainingArguments, *(config_classes if is_single else [])],
        # An error is not buried under all options.
        usage="%(prog)s --method METHOD [METHOD ...] [options]; --help lists them",
        description=domain.description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(**RUN_SETTINGS)
    parser.set_defaults(**domain.training_defaults(known.model_name_or_path, known.demo))
    if is_single:
        parser.set_defaults(**_method_defaults(config_classes[0], domain, known.demo))
    try:
        run, args, *configs = parsed(parser, plain, "" if is_single else _IN_FRONT)
        for config_class in [] if is_single else config_classes:
            own = HfArgumentParser(config_class, prog=f"--{config_class.name}.…", allow_abbrev=False)
            own.set_defaults(**_method_defaults(config_class, domain, known.demo))
            configs += parsed(own, prefixed[config_class.name], f" It is for {config_class.name}.")
    # What the dataclasses say of their fields, and of files and packages that are missing.
    except (ValueError, OSError, ImportError) as error:
        raise InputError(str(error)) from error
    if known.greater_is_better is None and (args.metric_for_best_model or "").endswith(_SMALLER_IS_BETTER):
        args.greater_is_better = False
    if known.train_sampling_strategy is None and not domain.has_lengths(run, configs):
        args.train_sampling_strategy = "random"
    if args.resume_from_checkpoint is not None:
        raise InputError("`resume_from_checkpoint` is not used here. Give --resume, and --output_dir if it was given.")
    if run.seeds is not None and known.seed is not None:
        raise InputError("`seed` and `seeds` were both given. Give one of them.")
    seeds = run.seeds if run.seeds is not None else [args.seed]
    check_unique("seeds", seeds)
    return Parsed(run, args, configs, seeds, known.output_dir)


def short_help(domain: Domain, prog: str) -> str:
    """The help of a command without what every Trainer takes: the command's own options, and those of each method.

    Args:
        domain: The kind of data.
        prog: The command.
    """
    parser = HfArgumentParser(
        domain.arguments,
        prog=prog,
        usage=f"{prog} --method METHOD [METHOD ...] [options]",
        description=domain.description,
        formatter_class=wide,
    )
    parts = [
        parser.format_help(),
        "All options of transformers' TrainingArguments are taken too, such as --num_train_epochs, --learning_rate\n"
        f"and --output_dir: {HELP_ALL} lists them.\n",
        "Options of each method, by default those of the paper. With several methods they have the method's name in\n"
        "front: --lstsd.lambda_short 2.\n",
    ]
    for name, config_class in METHODS.items():
        own = HfArgumentParser(config_class, prog="", usage=argparse.SUPPRESS, add_help=False, formatter_class=wide)
        own.set_defaults(**_method_defaults(config_class, domain, is_demo=False))
        options = own.format_help().partition("\n")[2].strip("\n")
        parts.append(f"{name}:\n{options}\n" if options else f"{name}: none\n")
    return "\n".join(parts)


def _all_methods(arguments: list[str], holds_labels_out: bool) -> list[str]:
    """All that need nothing more, and those whose options are given; where labels are held out, the self-taught."""
    return [
        name
        for name, config in METHODS.items()
        if config.paper().is_self_taught
        or (config.paper().first_stage() is not None and not holds_labels_out)
        or any(argument.startswith(f"--{name}.") for argument in arguments)
    ]


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


def _method_defaults(config_class: type[TeacherConfig], domain: Domain, is_demo: bool) -> dict[str, Any]:
    names = {option.name for option in dataclasses.fields(config_class) if option.init}
    defaults = {name: value for name, value in asdict(domain.paper_teacher(config_class)).items() if name in names}
    small = domain.demo_method_settings if is_demo else {}
    return defaults | {name: value for name, value in small.items() if name in names}
