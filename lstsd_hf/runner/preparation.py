"""What is done to the rows of a training split, and what a prepared run consists of."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, TrainerCallback

from ..errors import InputError
from .held_out import held_out_rows
from .noise import NOISE_KINDS, replace_labels
from .tasks import Task


@dataclass(frozen=True)
class DataOptions:
    """What is done to the data before training.

    Attributes:
        max_train_samples: Rows of the training split to use, from its beginning; `None` for all.
        label_noise: Share of the training labels that are replaced by another one.
        label_noise_seed: Seed of the replacement, apart from the run's own.
        label_noise_kind: By which label: see `replace_labels`.
        held_out_share: Share of the training rows that is kept out of the training, to choose the epoch by.
    """

    least_values: ClassVar = {"max_train_samples": 1, "label_noise_seed": 0}
    shares: ClassVar = ("label_noise", "held_out_share")
    always_described: ClassVar = ("max_train_samples",)

    max_train_samples: int | None = None
    label_noise: float = 0.0
    label_noise_seed: int = 0
    label_noise_kind: str = NOISE_KINDS[0]
    held_out_share: float = 0.0

    def __post_init__(self):
        for name, least in self.least_values.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"`{name}` must be at least {least}, got {value}.")
        for name in self.shares:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"`{name}` must be from 0 to below 1, got {value}.")
        if self.label_noise_kind != NOISE_KINDS[0] and not self.label_noise:
            raise InputError(f"`label_noise_kind` goes with `label_noise`, got {self.label_noise_kind!r} and no noise.")
        if self.label_noise_kind not in NOISE_KINDS:
            raise InputError(f"`label_noise_kind` must be {' or '.join(NOISE_KINDS)}, got {self.label_noise_kind!r}.")


@dataclass(frozen=True)
class Rows:
    """The rows of a run.

    Attributes:
        splits: Raw splits; `train` has the rows and labels that are trained on, `held_out` those kept out.
        true_labels: The labels of `train` before any was replaced.
        noisy_rows: Rows of `train` with a replaced label.
        positions: Where the rows of `train` stand in the split that it was made from.
    """

    splits: dict[str, Dataset]
    true_labels: list[Any]
    noisy_rows: list[int]
    positions: Sequence[int]


@dataclass(frozen=True)
class Prepared:
    """A model and data that fit together.

    Attributes:
        model: What is trained.
        processor: Its tokenizer or image processor, to be saved with it; `None` if it has none.
        splits: Datasets by split, as the model takes them.
        collator: For their examples.
        rows: The rows that they were made from.
        training_form: Context manager that trims the model to its trainable top, then restores it.
        training_set: What is trained on where that is not `splits["train"]`, such as one that is augmented.
        callbacks: For the trainer.
        lr_milestones: Shares of the run at which the learning rate is divided by 10.
        decays_all: Whether weight decay is for all parameters; by default Trainer leaves out biases and some norms.
    """

    model: PreTrainedModel
    processor: Any
    splits: dict[str, Any]
    collator: Callable[[list[Any]], dict[str, Any]]
    rows: Rows
    training_form: Callable[[], AbstractContextManager] = nullcontext
    training_set: Any = None
    callbacks: Sequence[TrainerCallback] = ()
    lr_milestones: tuple[float, ...] = ()
    decays_all: bool = False

    @property
    def trainer_options(self) -> dict[str, Any]:
        """What `RunTrainer` is told beside data and teacher."""
        return {
            "data_collator": self.collator,
            "processing_class": self.processor,
            "lr_milestones": self.lr_milestones,
            "decays_all": self.decays_all,
        }

    @property
    def train(self) -> Dataset:
        """The training split's raw rows, with the labels that are trained on."""
        return self.rows.splits["train"]


def with_noise(train: Dataset, task: Task, options: DataOptions) -> tuple[Dataset, list[int]]:
    """A training split as long as the options say, with some labels replaced, and the rows of these.

    Raises:
        InputError: If labels should be replaced and none would be.
    """
    if options.max_train_samples is not None:
        train = train.select(range(min(options.max_train_samples, len(train))))
    if not options.label_noise:
        return train, []
    labels, noisy_rows = replace_labels(
        train["label"][:], task.num_outputs, options.label_noise, options.label_noise_seed, options.label_noise_kind
    )
    if not noisy_rows:
        raise InputError(
            f"`label_noise` must replace at least one label, got {options.label_noise} of {len(labels)} rows. "
            "Use more noise or more rows."
        )
    return train.remove_columns("label").add_column("label", labels), noisy_rows


def chosen_rows(splits: DatasetDict, task: Task, options: DataOptions) -> Rows:
    """The rows of a run: so many, some with a replaced label, some held out.

    Raises:
        InputError: If `label_noise` would replace no label.
    """
    train, noisy_rows = with_noise(splits["train"], task, options)
    true_labels = splits["train"]["label"][: len(train)]
    raw, positions = {**splits}, range(len(train))
    if options.held_out_share:
        positions, held_out = held_out_rows(len(train), options.held_out_share)
        raw["held_out"], train = train.select(held_out), train.select(positions)
        true_labels, noisy = [true_labels[row] for row in positions], {*noisy_rows}
        noisy_rows = [index for index, row in enumerate(positions) if row in noisy]
    return Rows({**raw, "train": train}, true_labels, noisy_rows, positions)
