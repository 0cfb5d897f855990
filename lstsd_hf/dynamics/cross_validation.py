"""Predictions for the training examples by models that did not train on them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer

from ..distributed import rank
from ..errors import InputError
from ..label_errors import example_labels, example_texts, select_rows
from .files import EXAMPLES_NAME, EpochTable, epoch_path, read_epoch, read_examples, write_epoch, write_examples
from .history import History


def cross_validate(
    make_trainer: Callable[[Any], Trainer],
    dataset: Any,
    folder: str | Path,
    num_folds: int = 5,
    seed: int = 0,
    texts: Sequence[str | None] | None = None,
) -> History:
    """Trains a model on all folds but one, has it predict that one, and does so for each fold.

    Use it for a claim about how many labels are wrong. The predictions of a training are in-sample: they rank labels
    at no cost, but believe too many of them. This costs `num_folds` trainings.

    A finished fold is a file in `folder`; called again, what is there is kept. `folder` is then a history of one epoch
    for all of `lstsd_hf.dynamics`, its report too.

    Args:
        make_trainer: Gets the examples to train on and returns a trainer of a new model, of any `Trainer` class.
        dataset: The training set as the trainer takes it: a `datasets.Dataset`, or a sequence of mappings.
        folder: Where to write.
        num_folds: Parts of the training set, each with the same share of every label.
        seed: Of the split.
        texts: A text for each example; `None` looks for them in the dataset.

    Returns:
        A history of one epoch, out of sample.

    Raises:
        InputError: If a number is not allowed, an example has no label that is a class, a model diverged, or the folder
            holds the folds of other data.

    Example:
        >>> import copy
        >>> def make_trainer(rows):
        ...     return LSTSDTrainer(model=copy.deepcopy(model), args=args, train_dataset=rows, teacher="vanilla")
        >>> history = cross_validate(make_trainer, data, f"{args.output_dir}/folds", num_folds=2)
        >>> history.log_probs.shape == (1, len(data), 2), history.out_of_sample
        (True, True)
    """
    folder = Path(folder)
    labels = np.array(example_labels(dataset))
    if not 2 <= num_folds <= len(labels):
        raise InputError(f"`num_folds` must be from 2 to {len(labels)}, the number of examples, got {num_folds}.")
    texts = list(texts) if texts is not None else example_texts(dataset)
    _check_folder(folder, texts)
    folds = _folds(labels, num_folds, seed)
    tables = []
    for fold in range(num_folds):
        path = folder / f"fold-{fold + 1}-of-{num_folds}-seed-{seed}.parquet"
        if not path.is_file():
            trainer = make_trainer(select_rows(dataset, np.flatnonzero(folds != fold)))
            trainer.train()
            log_probs = _predicted(trainer, dataset, np.flatnonzero(folds == fold))
            if rank() == 0:
                folder.mkdir(parents=True, exist_ok=True)
                write_examples(folder / EXAMPLES_NAME, texts, _label_names(trainer))
                write_epoch(path, EpochTable(log_probs, labels, out_of_sample=True))
            trainer.accelerator.wait_for_everyone()
        tables.append(_checked(path, labels))
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


def _predicted(trainer: Trainer, dataset: Any, rows: np.ndarray) -> np.ndarray:
    """Log-probabilities `(num_examples, num_labels)` of some examples, NaN for the others."""
    outputs = trainer.predict(select_rows(dataset, rows)).predictions
    logits = torch.as_tensor(outputs[0] if isinstance(outputs, tuple) else outputs)
    if not logits.isfinite().all():
        raise InputError(
            "A fold's outputs must be finite, got NaN or infinity: its training diverged. Lower the learning rate."
        )
    log_probs = np.full((len(dataset), logits.size(-1)), np.nan, dtype=np.float32)
    log_probs[rows] = logits.float().log_softmax(dim=-1).numpy()
    return log_probs


def _label_names(trainer: Trainer) -> list[str] | None:
    names = getattr(getattr(trainer.model, "config", None), "id2label", None)
    return [str(names[index]) for index in sorted(names)] if names else None


def _check_folder(folder: Path, texts: list[str | None]) -> None:
    path = folder / EXAMPLES_NAME
    if path.is_file() and read_examples(path)[0] != texts:
        raise InputError(f"{folder} must be empty or hold the folds of these examples, found others. Use another one.")


def _checked(path: Path, labels: np.ndarray) -> EpochTable:
    table = read_epoch(path)
    own = ~np.isnan(table.log_probs[:, 0])
    if len(table.given) != len(labels) or (table.given[own] != labels[own]).any():
        raise InputError(f"{path} must be a fold of these examples, found other labels. Use another folder.")
    return table
