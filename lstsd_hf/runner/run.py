"""What determines a run, and whether it can be carried out."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import TrainingArguments

from ..distributed import batch_factor
from ..errors import InputError
from ..files import saved_model_digest
from ..memory import TableStorage
from ..methods import TeacherConfig
from ..overlapping import Batching
from ..schedules import TrainingPlan
from .metrics import metrics_of
from .preparation import DataOptions, Prepared
from .tasks import Task

# Training arguments without influence on the result; the seed names the run beside the hash.
_IRRELEVANT = ("output_dir", "run_name", "seed", "report_to", "disable_tqdm", "do_", "logging_", "save_", "hub_")
_IRRELEVANT += ("push_to_hub", "log_", "dataloader_num", "dataloader_pin", "dataloader_pers", "dataloader_pref")
_IRRELEVANT += ("project", "trackio_", "per_device_eval_batch_size", "resume_from_checkpoint")


@dataclass(frozen=True)
class Run(ABC):
    """Everything that determines a run.

    Attributes:
        task: The task.
        splits: Raw splits `train`, `validation` and, for predictions, `test`.
        data_source: Where they came from, such as "hub", "tsv" (GLUE's release), or one's own files.
        model_name_or_path: Model as named on the command line.
        teacher: The method's options.
        args: Training arguments; `output_dir` is set by `folder`.
        options: What is done to the data before training.
        untuned: Where the settings were searched: what the searched training settings were before.
        record_dynamics: Whether to keep what each epoch says of each training example.
        cross_validate: Folds whose labels are judged by models that did not train on them, beside the run; 0 for none.
        first_stage: The folder of the run that makes its teacher, if one must come first. It is not part of the
            settings, which are the same for every seed.
        memory_storage: Where tables of predictions are kept, and how precisely, as `LSTSDTrainer` takes it.
    """

    task: Task
    splits: DatasetDict
    data_source: str
    model_name_or_path: str
    teacher: TeacherConfig
    args: TrainingArguments
    options: DataOptions = field(default_factory=DataOptions)
    untuned: Mapping[str, Any] = field(default_factory=dict)
    record_dynamics: bool = False
    cross_validate: int = 0
    first_stage: Path | None = None
    memory_storage: str | None = None

    @abstractmethod
    def prepare(self, cache: Path) -> Prepared:
        """A model and data that fit together; what is slow to make is kept in `cache`.

        The random state must have been seeded.

        Raises:
            InputError: If the model cannot be had, or cannot be trained as asked.
        """

    def texts(self, train: Dataset) -> list[list[str]] | None:
        """The columns of text of a training split, for a teacher with a tokenizer of its own."""
        return None

    @property
    def embeds_tokens(self) -> bool:
        """Whether the model that is trained embeds the tokens of each batch."""
        return False

    @property
    @abstractmethod
    def paper_settings(self) -> Mapping[str, Any]:
        """The training settings of the paper for such a model."""

    @property
    @abstractmethod
    def paper_teacher(self) -> TeacherConfig:
        """The method's options of the paper for such data."""

    @property
    def paper_note(self) -> str:
        """What is said of a run with the paper's settings."""
        return "the paper's settings: "

    @property
    def option_search_space(self) -> Mapping[str, tuple]:
        """What a search tunes of `options`, beside the learning rate, for a method without options of its own."""
        return {}

    @property
    def taught(self) -> TeacherConfig:
        """The method's options, with the teacher named."""
        return self.teacher if self.first_stage is None else self.teacher.taught_by(self.first_stage)

    @property
    def config(self) -> dict[str, Any]:
        """What the result depends on, apart from the seed; JSON."""
        training = {name: value for name, value in self.args.to_dict().items() if not name.startswith(_IRRELEVANT)}
        if self.args.world_size > 1:  # several processes make larger batches
            training["world_size"] = self.args.world_size
        if self.args.n_gpu > 1:  # and so does one that sees several GPUs
            training["n_gpu"] = self.args.n_gpu
        if not training["eval_on_start"]:  # which draws random numbers
            del training["eval_on_start"]
        defaults = asdict(type(self.options)())
        # What was added later is left out where it does nothing, so that the digests of older runs stay.
        options = {
            name: value
            for name, value in asdict(self.options).items()
            if value != defaults[name] or name in self.options.always_described
        }
        config = {
            "method": self.teacher.description(),
            "task": self.task.name,
            **self.task.settings,
            "data": self.data_source,
            "model": self.model_name_or_path,
            **options,
            **({"untuned": dict(self.untuned)} if self.untuned else {}),
            # So that a run that is finished without it is not taken for one with it.
            **({"record_dynamics": True} if self.record_dynamics else {}),
            **({"cross_validate": self.cross_validate} if self.cross_validate else {}),
            **({"memory_form": self.memory_form} if self.memory_form != "fp32" else {}),
            "training": training,
        }
        return json.loads(json.dumps(config, default=str))

    @property
    def memory_form(self) -> str:
        """That of tables of predictions. Where they are kept makes no difference to the result."""
        return TableStorage.parse(self.memory_storage).form if self.memory_storage else "fp32"

    @property
    def num_examples(self) -> int:
        """Examples that are trained on."""
        limit, examples = self.options.max_train_samples, len(self.splits["train"])
        examples = examples if limit is None else min(limit, examples)
        return examples - round(self.options.held_out_share * examples)

    @property
    def plan(self) -> TrainingPlan:
        """Its length."""
        args = self.args
        batching = Batching(
            self.num_examples,
            args.train_batch_size,
            num_processes=batch_factor(args),
            drop_last=args.dataloader_drop_last,
        )
        batches = batching.batches_per_epoch
        steps = max(1, math.ceil(batches / args.gradient_accumulation_steps))
        max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps)
        return TrainingPlan(math.ceil(max_steps / steps), steps, max_steps)

    @property
    def config_hash(self) -> str:
        """Short digest of `config`."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def state(self) -> dict[str, Any]:
        """What tells this run from others in the same folder; JSON."""
        digests = {"teacher_digest": self.taught.source_digest(), "model_digest": self.model_digest}
        return {
            "config": self.config,
            "seed": self.args.seed,
            "data_digest": self.data_digest,
            "label_names": list(self.task.label_names),
            **{name: digest for name, digest in digests.items() if digest is not None},
        }

    @cached_property
    def model_digest(self) -> str | None:
        return saved_model_digest(Path(self.model_name_or_path))

    @cached_property
    def data_digest(self) -> str:
        """Short digest of the labelled splits' rows."""
        return self._digest("train", "validation")

    @cached_property
    def submissions(self) -> dict[str, str]:
        """The submissions that are asked for, each with a short digest of the texts that it answers."""
        tests = [name for name in self.splits if name.startswith("test")] if self.args.do_predict else []
        return {self.task.submission_name(name): self._digest(name) for name in tests}

    def _digest(self, *splits: str) -> str:
        digest = hashlib.sha256()
        for name in splits:
            labels = [] if name.startswith("test") else ["label"]
            columns = self.splits[name].select_columns([*self.task.input_columns, *labels])[:]
            digest.update(json.dumps(columns, sort_keys=True).encode())
        return digest.hexdigest()[:10]

    def default_folder(self, root: Path) -> Path:
        """`<root>/<task>/<model>/<method>/<config hash>-seed<seed>`."""
        model = self.model_name_or_path.rstrip("/").split("/")[-1]
        return root / self.task.name / model / self.teacher.name / f"{self.config_hash}-seed{self.args.seed}"


# What the runner needs as it is.
_FIXED = {
    "remove_unused_columns": True,
    "label_names": None,
    "prediction_loss_only": False,
    "batch_eval_metrics": False,
    "eval_do_concat_batches": True,
}
_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": 1,
    "dataloader_num_workers": 0,
}


def check_plan(run: Run) -> None:
    """Raises an `InputError` if method, data and length of the run do not fit, before anything is loaded."""
    for name, value in _FIXED.items():
        if getattr(run.args, name) != value:
            raise InputError(
                f"`{name}` must be {value} here, got {getattr(run.args, name)}: scores and submissions are made of all "
                "predictions. Leave it out, or use `LSTSDTrainer` in a script of your own."
            )
    _check_sizes(run)
    if run.args.neftune_noise_alpha and not run.embeds_tokens:
        raise InputError(
            f"`neftune_noise_alpha` must be left out here, got {run.args.neftune_noise_alpha:g}: it is noise for a "
            "trained encoder's embeddings of tokens."
        )
    _check_best_metric(run)
    for name, value in (("label_noise", run.options.label_noise), ("cross_validate", run.cross_validate)):
        if run.task.is_regression and value:
            raise InputError(f"`{name}` is about labels that are classes and must be 0 for a regression, got {value}.")
    if run.cross_validate and not 2 <= run.cross_validate <= run.num_examples:
        raise InputError(
            f"`cross_validate` must be 0 or from 2 to {run.num_examples}, the number of training examples, got "
            f"{run.cross_validate}."
        )
    if run.options.held_out_share and run.args.load_best_model_at_end:
        raise InputError(
            "`load_best_model_at_end` must be False with `held_out_share`, got True: one chooses the epoch by the "
            "validation split, the other by training rows. Leave one out."
        )
    if run.cross_validate and not run.teacher.is_self_taught:
        raise InputError(
            f"`cross_validate` must be 0 with {run.teacher.name}, got {run.cross_validate}: its teacher may have "
            "learned the labels that are to be judged. Leave it out, or use a method of self-distillation."
        )
    run.taught.check_source()
    run.teacher.check_plan(run.plan)


def check_can_be_searched(run: Run) -> None:
    """Raises an `InputError` if a search of the method's options would be told by a teacher what it holds out."""
    if not run.teacher.is_self_taught:
        raise InputError(
            f"`sweep` cannot search the options of {run.teacher.name}: it holds out a part of the training split, "
            "which the teacher may have learned. Leave it out, and choose the options on data that the teacher never "
            "saw."
        )


def _check_sizes(run: Run) -> None:
    for name, least in _LEAST.items():
        value = getattr(run.args, name)
        if value is not None and value < least:
            raise InputError(f"`{name}` must be at least {least}, got {value}.")
    if run.args.num_train_epochs <= 0 and run.args.max_steps < 1:
        raise InputError(
            f"`num_train_epochs` must be above 0 where `max_steps` is not given, got {run.args.num_train_epochs:g}."
        )
    if run.args.max_steps == 0:
        raise InputError("`max_steps` must be at least 1, or -1 for what `num_train_epochs` says, got 0.")
    batch = run.args.train_batch_size * run.args.world_size
    if run.args.dataloader_drop_last and run.num_examples < batch:
        raise InputError(
            f"`dataloader_drop_last` must leave a batch, got {run.num_examples} training examples and batches of "
            f"{batch}. Leave it out, or make batches smaller."
        )


def _check_best_metric(run: Run) -> None:
    name = run.args.metric_for_best_model
    known = ["loss", *metrics_of(run.task).names]
    if name is None:
        return
    name = name.removeprefix("eval_")
    # Copies and ensembles put a name in front.
    ending = name.partition("_")[2] if run.teacher.build().predicts_with_copies else name
    if not {name, ending} & {*known}:
        raise InputError(
            f"`metric_for_best_model` must be one of {', '.join(known)} for {run.task.name}, got {name!r}."
        )
