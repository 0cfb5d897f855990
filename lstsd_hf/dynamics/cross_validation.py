"""Predictions for the training examples by models that did not train on them."""

import hashlib
import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer

from ..content_digest import content_digest
from ..distributed import gather_objects, is_distributed, rank
from ..errors import InputError
from ..fingerprint import digest_of_each, model_settings, rows_digest
from ..label_errors import LABEL_NAMES, example_labels, example_texts, select_rows, without_augmentation
from ..student import Student
from .files import (
    EXAMPLES_NAME,
    EpochTable,
    epoch_path,
    epoch_paths,
    read_epoch,
    read_examples,
    write_epoch,
    write_examples,
)
from .history import History

# Where a training writes, what it says of itself, and how its data are loaded.
_NOT_OF_A_FOLD = (
    "output_dir",
    "run_name",
    "log",
    "report_to",
    "disable_tqdm",
    "save_",
    "hub_",
    "push_to_hub",
    "project",
    "local_rank",
    "eval_",
    "per_device_eval_",
    "dataloader_num_workers",
    "dataloader_p",
)


def cross_validate(
    make_trainer: Callable[[Any], Trainer],
    dataset: Any,
    folder: str | Path,
    num_folds: int = 5,
    seed: int = 0,
    texts: Sequence[str | None] | None = None,
    label_name: str | None = None,
) -> History:
    """Trains a model on all folds but one, has it predict that one, and does so for each fold.

    Use it for a claim about how many labels are wrong. The predictions of a training are in-sample: they rank labels
    at no cost, but what they count may be far off. This costs `num_folds` trainings.

    A finished fold is a file in `folder`; called again with the same data, model and arguments, what is there is kept.
    `folder` is then a history of one epoch for all of `lstsd_hf.dynamics`, its report too.

    Args:
        make_trainer: Gets the examples to train on and returns a trainer of a new model, of any `Trainer` class, with
            an `output_dir` of its own, which each fold overwrites.
        dataset: The training set as the trainer takes it: a `datasets.Dataset`, or a sequence of mappings.
        folder: Where to write.
        num_folds: Parts of the training set, each with the same share of every label.
        seed: Of the split.
        texts: A text for each example; `None` looks for them in the dataset.
        label_name: Name of the label; `None` is the first of `label`, `labels`, `label_ids` that there is.

    Returns:
        A history of one epoch, out of sample.

    Raises:
        InputError: If a number is not allowed, an example has no label that is a class, a trainer has other examples or
            the model of another fold, a model diverged, or the folder holds the folds of other data.

    Examples:
        >>> import copy
        >>> def make_trainer(rows):
        ...     return LSTSDTrainer(model=copy.deepcopy(model), args=args, train_dataset=rows, teacher="vanilla")
        >>> history = cross_validate(make_trainer, data, f"{args.output_dir}/folds", num_folds=2)
        >>> history.log_probs.shape == (1, len(data), 2), history.out_of_sample
        (True, True)
    """
    names = LABEL_NAMES if label_name is None else (label_name,)
    folder, labels = Path(folder), np.array(example_labels(dataset, names))
    if not 2 <= num_folds <= len(labels):
        raise InputError(f"`num_folds` must be from 2 to {len(labels)}, the number of examples, got {num_folds}.")
    texts = list(texts) if texts is not None else example_texts(dataset)
    if len(texts) != len(labels):
        raise InputError(f"`texts` must have one for each of {len(labels)} examples, got {len(texts)}.")
    _check_folder(folder, texts)
    folds = _folds(labels, num_folds, seed)
    first: Trainer | None = _trainer_without(make_trainer, dataset, folds == 0)
    # One name of the files for all processes.
    digest = gather_objects(_digest(dataset, labels, texts, seed, _settings(first)))[0]
    tables, model = [], None
    for fold in range(num_folds):
        path = folder / f"fold-{fold + 1}-of-{num_folds}-{digest}.parquet"
        if not path.is_file():
            held_out = folds == fold
            log_probs, label_names, model = _judged(
                first or _trainer_without(make_trainer, dataset, held_out), dataset, labels, held_out, model
            )
            if rank() == 0:
                folder.mkdir(parents=True, exist_ok=True)
                write_examples(folder / EXAMPLES_NAME, texts, label_names)
                write_epoch(path, EpochTable(log_probs, labels, out_of_sample=True))
            if is_distributed():
                torch.distributed.barrier()
        # No two models are kept at a time.
        first = None
        tables.append(read_epoch(path))
    whole = np.nanmax([table.log_probs for table in tables], axis=0)
    if rank() == 0:
        write_epoch(epoch_path(folder, 0), EpochTable(whole, labels, out_of_sample=True))
    return History(whole[None], labels, texts, read_examples(folder / EXAMPLES_NAME)[1], out_of_sample=True)


def _folds(labels: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """The fold of each example: shuffled, with the same share of every label."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % num_folds
    return folds


def _settings(trainer: Any) -> list[str]:
    """What a fold depends on beside the examples, as far as a trainer tells: classes, model, arguments, teacher."""
    model, teacher = trainer.model, getattr(trainer, "teacher", None)
    arguments = {
        name: content_digest(value)
        for name, value in getattr(trainer.args, "to_dict", dict)().items()
        if not name.startswith(_NOT_OF_A_FOLD)
    }
    return [
        *(type(part).__qualname__ for part in (trainer, model, teacher)),
        str(getattr(getattr(model, "config", None), "_name_or_path", "")),
        model_settings(model),
        str(content_digest(getattr(teacher, "config", None))),
        json.dumps(arguments, sort_keys=True),
    ]


def _digest(dataset: Any, labels: np.ndarray, texts: list[str | None], seed: int, settings: list[str]) -> str:
    """Of what the folds depend on: a fold of others is not taken for one of these."""
    digest = hashlib.sha256(json.dumps([labels.tolist(), texts, seed, settings]).encode())
    if None in texts:
        rows = without_augmentation(dataset)
        digest.update(str(rows_digest(rows) or digest_of_each(rows)).encode())
    return digest.hexdigest()[:10]


def _trainer_without(make_trainer: Callable[[Any], Trainer], dataset: Any, held_out: np.ndarray) -> Trainer:
    """A trainer on all examples but those of a fold."""
    trainer = make_trainer(select_rows(dataset, np.flatnonzero(~held_out)))
    _check_trainer(trainer, int((~held_out).sum()))
    return trainer


def _judged(
    trainer: Trainer, dataset: Any, labels: np.ndarray, held_out: np.ndarray, before: Callable | None
) -> tuple[np.ndarray, list[str] | None, Callable]:
    """What a new model says of the held-out examples.

    Args:
        trainer: Of the new model.
        dataset: The training set.
        labels: Its labels.
        held_out: Which examples are not trained on, bool `(num_examples,)`.
        before: Returns the model of the fold before, for as long as somebody else keeps it.

    Returns:
        Log-probabilities `(num_examples, num_labels)`, NaN for the others; label names; the next fold's `before`.
    """
    rows = np.flatnonzero(held_out)
    if before is not None and trainer.model is before():
        raise InputError(
            "`make_trainer` must return a trainer of a new model each time, got the model of the fold before, which "
            "has learned the labels that are to be judged. Load it anew, or use `copy.deepcopy(model)`."
        )
    trainer.train()
    with _all_rows_in_order(trainer):
        outputs = trainer.predict(select_rows(without_augmentation(dataset), rows)).predictions
    logits = torch.as_tensor(outputs[0] if isinstance(outputs, tuple) else outputs)
    if logits.dim() != 2 or len(logits) != len(rows) or logits.size(1) <= labels.max():
        raise InputError(
            f"`predict` of a fold's trainer must return logits ({len(rows)}, num_labels) for labels up to "
            f"{labels.max()}, got {tuple(logits.shape)}. Leave out `preprocess_logits_for_metrics`, "
            "`prediction_loss_only` and `batch_eval_metrics`."
        )
    # Labels may be excluded with -inf; something must be left.
    largest = logits.float().amax(dim=-1)
    if not (largest - largest == 0).all():
        raise InputError(
            "A fold's outputs must be finite, got NaN or infinity: its training diverged. Lower the learning rate."
        )
    log_probs = np.full((len(labels), logits.size(1)), np.nan, dtype=np.float32)
    log_probs[rows] = logits.float().log_softmax(dim=-1).numpy()
    return log_probs, Student(trainer).class_names, weakref.ref(trainer.model)


def _check_trainer(trainer: Any, num_rows: int) -> None:
    if not hasattr(trainer, "train_dataset"):
        raise TypeError(f"`make_trainer` must return a `Trainer`, got {type(trainer).__name__}.")
    if trainer.train_dataset is None or len(trainer.train_dataset) != num_rows:
        raise InputError(
            f"`make_trainer` must train on the {num_rows} examples that it is given, got a trainer of "
            f"{0 if trainer.train_dataset is None else len(trainer.train_dataset)}: the others are to be judged. Hand "
            "its argument on as `train_dataset`."
        )


@contextmanager
def _all_rows_in_order(trainer: Trainer) -> Iterator[None]:
    """Trainer would sort predictions too where it groups by length, and drop a last batch."""
    args = trainer.args
    before = args.train_sampling_strategy, args.dataloader_drop_last
    args.train_sampling_strategy, args.dataloader_drop_last = "random", False
    try:
        yield
    finally:
        args.train_sampling_strategy, args.dataloader_drop_last = before


def _check_folder(folder: Path, texts: list[str | None]) -> None:
    path = folder / EXAMPLES_NAME
    has_others = path.is_file() and read_examples(path)[0] != texts
    if has_others or any(not read_epoch(epoch).out_of_sample for epoch in epoch_paths(folder)):
        raise InputError(
            f"{folder} must be empty or hold the folds of these examples, found "
            f"{'others' if has_others else 'a recorded training'}. Use another one."
        )
