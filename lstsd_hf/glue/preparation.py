"""From raw splits to what a Trainer takes: label noise, tokens, and hidden states of a frozen encoder."""

import copy
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from datasets import Dataset, DatasetDict, load_from_disk
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, TrainingArguments

from ..errors import InputError
from ..files import replacing_folder
from ..models import PooledMLPConfig, PooledMLPForSequenceClassification
from ..position_limit import position_limit
from ..runner.preparation import DataOptions, Prepared, chosen_rows
from .frozen import EncoderSplit, FrozenStates, collate_states, compute_states
from .models import load_model
from .tasks import GlueTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextOptions(DataOptions):
    """What is done to texts before training.

    Attributes:
        max_seq_length: Tokens beyond it are cut off.
        trainable_layers: Train the head and so many top layers of the encoder; 0 is an MLP on pooled features, `None`
            the whole model.
        dropout: Dropout probability instead of the model's own.
    """

    least_values: ClassVar = DataOptions.least_values | {"max_seq_length": 8, "trainable_layers": 0}
    shares: ClassVar = (*DataOptions.shares, "dropout")
    always_described: ClassVar = (*DataOptions.always_described, "max_seq_length")

    max_seq_length: int = 128
    trainable_layers: int | None = None
    dropout: float | None = None


def prepare(
    task: GlueTask, splits: DatasetDict, model_name: str, options: TextOptions, args: TrainingArguments, cache: Path
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
    rows = chosen_rows(splits, task, options)
    raw, train = rows.splits, rows.splits["train"]
    texts = (text for name in task.text_columns for text in train[name])
    model, tokenizer = load_model(model_name, task, texts, options.dropout)
    if not args.do_predict:
        raw = {name: rows for name, rows in raw.items() if not name.startswith("test")}
    fingerprint = _fingerprint(tokenizer)
    max_length = min(options.max_seq_length, tokenizer.model_max_length)
    limit = position_limit(model)
    if limit is not None and limit < max_length:
        max_length = limit
        logger.info(f"Inputs are cut off at {limit} tokens: {model_name} has no positions for more.")
    with args.main_process_first(desc="tokens"):
        tokens = {name: _tokenize(part, task, tokenizer, fingerprint, max_length, cache) for name, part in raw.items()}
    if options.trainable_layers is None:
        data = {name: _with_labels(tokens[name], split) for name, split in raw.items()}
        return Prepared(model, tokenizer, data, DataCollatorWithPadding(tokenizer), rows)
    if args.train_sampling_strategy == "group_by_length":
        raise InputError(
            "`train_sampling_strategy` must not be group_by_length with `trainable_layers`: hidden states have no "
            "lengths to sort by. Leave one of them out."
        )
    pooled = options.trainable_layers == 0
    model.to(args.device)
    encoder = EncoderSplit(model, options.trainable_layers)
    pad = DataCollatorWithPadding(tokenizer)
    data = {}
    with args.main_process_first(desc="hidden states"):
        for name, part in raw.items():
            inputs = tokens[name].remove_columns("length")
            folder = compute_states(encoder, inputs, pad, cache, args.device, pooled=pooled)
            data[name] = FrozenStates(folder, part["label"][:] if "label" in part.column_names else None, pooled)
    if not pooled:
        first = tokens["train"].remove_columns("length").select(range(min(2, len(train))))
        encoder.check(model, pad(list(first)).to(args.device))
        encoder.freeze()
        return Prepared(model, tokenizer, data, collate_states, rows, encoder.top)
    config = PooledMLPConfig(
        feature_size=model.config.hidden_size,
        **task.label_settings(),
        **({} if options.dropout is None else {"dropout": options.dropout}),
    )
    head = PooledMLPForSequenceClassification(config)
    return Prepared(head, tokenizer, data, collate_states, rows)


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
        # A copy keeps its settings: the tokenizer is saved with the model, the same if these tokens were kept.
        encoded = dict(copy.deepcopy(tokenizer)(*columns, truncation=True, max_length=max_length))
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
