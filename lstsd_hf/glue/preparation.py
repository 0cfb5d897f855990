"""From raw splits to what a Trainer takes: label noise, tokens, and hidden states of a frozen encoder."""

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_from_disk
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from ..errors import InputError
from ..files import replacing_folder
from ..models import PooledMLPConfig, PooledMLPForSequenceClassification
from ..position_limit import position_limit
from .frozen import EncoderSplit, FrozenStates, collate_states, compute_states
from .held_out import held_out_rows
from .models import label_settings, load_model
from .noise import flip_labels
from .tasks import GlueTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataOptions:
    """What is done to the data before training.

    Attributes:
        max_seq_length: Tokens beyond it are cut off.
        max_train_samples: Rows of the training split to use, from its beginning; `None` for all.
        label_noise: Share of the training labels that are replaced by another one.
        label_noise_seed: Seed of the replacement, apart from the run's own.
        trainable_layers: Train the head and so many top layers of the encoder; 0 is an MLP on pooled features, `None`
            the whole model.
        dropout: Dropout probability instead of the model's own.
        held_out_share: Share of the training rows that is kept out of the training, to choose the epoch by.
    """

    max_seq_length: int = 128
    max_train_samples: int | None = None
    label_noise: float = 0.0
    label_noise_seed: int = 0
    trainable_layers: int | None = None
    dropout: float | None = None
    held_out_share: float = 0.0

    def __post_init__(self):
        # Shorter inputs would hold little but the separators.
        least_values = {"max_seq_length": 8, "max_train_samples": 1, "trainable_layers": 0, "label_noise_seed": 0}
        for name, least in least_values.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"`{name}` must be at least {least}, got {value}.")
        for name in ("label_noise", "dropout", "held_out_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"`{name}` must be from 0 to below 1, got {value}.")


@dataclass(frozen=True)
class Prepared:
    """A model and data that fit together.

    Attributes:
        model: What is trained.
        tokenizer: The model's tokenizer.
        splits: Datasets by split.
        collator: For their examples.
        train: The training split's raw rows, with the labels that are trained on.
        true_labels: Their labels before any was replaced.
        noisy_rows: Rows of `train` with a replaced label.
        training_form: Context manager that trims the model to its trainable top, then restores it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    splits: dict[str, Any]
    collator: Callable[[list[Any]], dict[str, Any]]
    train: Dataset
    true_labels: list[Any]
    noisy_rows: list[int]
    training_form: Callable[[], AbstractContextManager]


def prepare(
    task: GlueTask, splits: DatasetDict, model_name: str, options: DataOptions, args: TrainingArguments, cache: Path
) -> Prepared:
    """Loads the model and brings the splits into its form; what is slow is kept in `cache`.

    Args:
        task: The task.
        splits: Raw splits.
        model_name: Model as named on the command line.
        options: What is done to the data.
        args: Training arguments; the random state must have been seeded.
        cache: Folder for tokens and hidden states, shared by all runs.

    Raises:
        InputError: If `label_noise` would replace no label, or the model cannot be trained as asked.
    """
    train = splits["train"]
    if options.max_train_samples is not None:
        train = train.select(range(min(options.max_train_samples, len(train))))
    true_labels = labels = train["label"][:]
    noisy_rows = []
    if options.label_noise:
        labels, noisy_rows = flip_labels(labels, task.num_outputs, options.label_noise, options.label_noise_seed)
        if not noisy_rows:
            raise InputError(
                f"`label_noise` must replace at least one label, got {options.label_noise} of {len(labels)} rows. "
                "Use more noise or more rows."
            )
        train = train.remove_columns("label").add_column("label", labels)
    raw = {**splits}
    if options.held_out_share:
        kept, held_out = held_out_rows(len(train), options.held_out_share)
        raw["held_out"], train = train.select(held_out), train.select(kept)
        true_labels, noisy = [true_labels[row] for row in kept], {*noisy_rows}
        noisy_rows = [position for position, row in enumerate(kept) if row in noisy]
    raw["train"] = train
    texts = (text for name in task.text_columns for text in train[name])
    model, tokenizer = load_model(model_name, task, texts, options.dropout)
    if not args.do_predict:
        raw = {name: rows for name, rows in raw.items() if not name.startswith("test")}
    # Once: tokenizing leaves its settings in the tokenizer.
    fingerprint = _fingerprint(tokenizer)
    max_length = min(options.max_seq_length, tokenizer.model_max_length)
    limit = position_limit(model)
    if limit is not None and limit < max_length:
        max_length = limit
        logger.info(f"Inputs are cut off at {limit} tokens: {model_name} has no positions for more.")
    with args.main_process_first(desc="tokens"):
        tokens = {name: _tokenize(rows, task, tokenizer, fingerprint, max_length, cache) for name, rows in raw.items()}
    training_rows = train, true_labels, noisy_rows
    if options.trainable_layers is None:
        data = {name: _with_labels(tokens[name], rows) for name, rows in raw.items()}
        return Prepared(model, tokenizer, data, DataCollatorWithPadding(tokenizer), *training_rows, nullcontext)
    if args.train_sampling_strategy == "group_by_length":
        raise InputError(
            "`train_sampling_strategy` must not be group_by_length with `trainable_layers`: hidden states have no "
            "lengths to sort by. Leave one of them out."
        )
    pooled = options.trainable_layers == 0
    model.to(args.device)
    split = EncoderSplit(model, options.trainable_layers)
    pad = DataCollatorWithPadding(tokenizer)
    data = {}
    with args.main_process_first(desc="hidden states"):
        for name, rows in raw.items():
            inputs = tokens[name].remove_columns("length")
            folder = compute_states(split, inputs, pad, cache, args.device, pooled=pooled)
            data[name] = FrozenStates(folder, rows["label"][:] if "label" in rows.column_names else None, pooled)
    if not pooled:
        first = tokens["train"].remove_columns("length").select(range(min(2, len(train))))
        split.check(model, pad(list(first)).to(args.device))
        split.freeze()
        return Prepared(model, tokenizer, data, collate_states, *training_rows, split.top)
    config = PooledMLPConfig(
        feature_size=model.config.hidden_size,
        **label_settings(task),
        **({} if options.dropout is None else {"dropout": options.dropout}),
    )
    head = PooledMLPForSequenceClassification(config)
    return Prepared(head, tokenizer, data, collate_states, *training_rows, nullcontext)


def _tokenize(
    rows: Dataset,
    task: GlueTask,
    tokenizer: PreTrainedTokenizerBase,
    fingerprint: str,
    max_length: int,
    cache: Path,
) -> Dataset:
    """Token columns and `length`, kept in `cache` by a digest of texts, tokenizer and limit."""
    columns = [rows[name][:] for name in task.text_columns]
    digest = hashlib.sha256(f"{max_length} {fingerprint}".encode())
    for texts in columns:
        digest.update(json.dumps(texts).encode())
    folder = cache / f"tokens-{digest.hexdigest()[:20]}"
    if not folder.exists():
        encoded = dict(tokenizer(*columns, truncation=True, max_length=max_length))
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        with replacing_folder(folder) as temporary:
            Dataset.from_dict(encoded).save_to_disk(temporary)
    return load_from_disk(folder)


def _fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    sides = tokenizer.padding_side, tokenizer.truncation_side
    return f"{type(tokenizer).__name__} {tokenizer.model_input_names} {sides} {rules}"


def _with_labels(tokens: Dataset, rows: Dataset) -> Dataset:
    return tokens.add_column("label", rows["label"][:]) if "label" in rows.column_names else tokens
