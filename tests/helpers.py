"""What several test modules share: tiny random models and datasets, a trainer of them, and what is asked of it."""

import atexit
import copy
import dataclasses
import functools
import gc
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lstsd_hf import METHODS, DistillationTerm, LSTSDTrainer, SelfDistillationMixin, Teacher
from lstsd_hf.dynamics import History
from lstsd_hf.errors import InputError
from lstsd_hf.files import replacing_folder
from lstsd_hf.glue import cli

ROOT = Path(__file__).parents[1]


class InterruptedRunError(Exception):
    """A power cut."""


@contextmanager
def interrupted_after(monkeypatch, step: int) -> Iterator[None]:
    """A run of a command within the block ends after an optimizer step."""

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise InterruptedRunError

    with monkeypatch.context() as patch:
        patch.setattr("lstsd_hf.runner.trainer.DurationEstimate.on_step_end", interrupt)
        with pytest.raises(InterruptedRunError):
            yield


def training_arguments(**options) -> TrainingArguments:
    """Training arguments with quiet defaults."""
    defaults = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": [],
        "dataloader_pin_memory": False,
        "use_cpu": True,
    }
    return TrainingArguments(**(defaults | options))


OF_THE_TRAINER = {name for kind in (Trainer, LSTSDTrainer) for name in inspect.signature(kind.__init__).parameters}


def make_trainer(make_args, teacher=None, trainer_class=LSTSDTrainer, **options):
    """A trainer of the tiny model on 14 examples in batches of 4, the last of 2, unless the options say otherwise.

    Options go to the trainer or to its arguments, wherever the name belongs; stock trainers are given no teacher.
    """
    options = {"num_train_epochs": 6, "learning_rate": 1e-2} | options
    own = {"model": make_model, "train_dataset": lambda: make_examples(14)}
    own = {name: options.pop(name) if options.get(name) is not None else make() for name, make in own.items()}
    own |= {name: options.pop(name) for name in OF_THE_TRAINER & options.keys()}
    if issubclass(trainer_class, SelfDistillationMixin):
        own["teacher"] = teacher
    torch.manual_seed(5)
    return trainer_class(args=make_args(**options), **own)


VOCABULARY = 60


def make_examples(count: int, num_labels: int = 2, seed: int = 0) -> list[dict]:
    """Rows of equal length with a learnable label (the first token decides it)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (count, 8), generator=generator)
    return [{"input_ids": row.tolist(), "labels": int(row[0]) % num_labels} for row in tokens]


def make_model(
    num_labels: int = 2, dropout: float = 0.1, seed: int = 0, initializer_range: float = 0.3
) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            num_labels=num_labels,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=initializer_range,
        )
    )


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_weights(model, other, **tolerance) -> None:
    """Compares two models or state dicts, bit for bit unless a tolerance is given."""
    first, second = (item if isinstance(item, dict) else weights(item) for item in (model, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if tolerance:
            torch.testing.assert_close(value, second[name], **tolerance, msg=lambda text, n=name: f"{n}: {text}")
        else:
            assert torch.equal(value, second[name]), name


class SavesAt(TrainerCallback):
    """Saves a checkpoint after certain steps only."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps


CONFIGS = sorted(METHODS.values(), key=lambda config: config.name)


# A method that takes no batches declares that it adds nothing to the loss.
DISTILLING = [config for config in CONFIGS if config().build().needs_batches]


every_method = pytest.mark.parametrize("config_class", CONFIGS, ids=lambda config: config.name)


every_distilling_method = pytest.mark.parametrize("config_class", DISTILLING, ids=lambda config: config.name)


def _shared_folder() -> Path:
    """A folder that the processes which a test starts share with it."""
    if "LSTSD_HF_TESTS" not in os.environ:
        os.environ["LSTSD_HF_TESTS"] = tempfile.mkdtemp(prefix="lstsd_hf-tests-")
        atexit.register(shutil.rmtree, os.environ["LSTSD_HF_TESTS"], ignore_errors=True)
    return Path(os.environ["LSTSD_HF_TESTS"])


SHARED = _shared_folder()
SelfDistillationMixin.cache_dir = SHARED / "cache"


@functools.cache
def teacher_folder(num_labels=2, problem_type=None) -> str:
    """A saved classifier, other than that of `make_model`, for methods with a teacher from outside."""
    folder = SHARED / f"teacher-{num_labels}-{problem_type}"
    if not folder.exists():
        model = make_model(num_labels, seed=7)
        model.config.problem_type = problem_type
        with replacing_folder(folder) as temporary:
            model.save_pretrained(temporary)
    return str(folder)


def active(config_class, num_labels=2, problem_type=None):
    """Options under which a method acts early: periods of one or two epochs, no ramp-up; a teacher, if it needs one."""
    fields = {field.name for field in dataclasses.fields(config_class) if field.init}
    early = {"mini_generation_epochs": 2, "cycle_epochs": 2, "rampup_epochs": 0.0, "warmup_epochs": 1}
    early |= {"interval_epochs": 1, "pull": 1.0, "patience": 1, "kept_out_share": 0.3}
    if "teacher_model_name_or_path" in fields:
        early["teacher_model_name_or_path"] = teacher_folder(num_labels, problem_type)
    if "distillation" in fields:
        early["distillation"] = "regulated"
    return config_class(**{name: value for name, value in early.items() if name in fields})


def weighted_cross_entropy(outputs, labels, num_items_in_batch=None):
    losses = nn.functional.cross_entropy(outputs["logits"], labels, weight=torch.tensor([1.0, 3.0]), reduction="sum")
    return losses / num_items_in_batch


class NoKwargsModel(nn.Module):
    """A model whose forward takes no `**kwargs`, so Trainer divides its loss by the accumulation steps."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(self, input_ids, labels=None):
        return self.model(input_ids=input_ids, labels=labels)


class CrossEntropyTeacher(Teacher):
    """Distils the base loss itself, so that with weight 1 every gradient must double."""

    def __init__(self, weight, smoothing=0.0, class_weights=None):
        self.weight, self.smoothing, self.class_weights = weight, smoothing, class_weights

    def loss_terms(self, batch):
        per_example = nn.functional.cross_entropy(
            batch.student_logits,
            batch.labels,
            reduction="none",
            label_smoothing=self.smoothing,
            weight=self.class_weights,
        )
        return {"same": DistillationTerm(per_example, self.weight)}


class Gradients(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


class DividesByItems(nn.Module):
    """A model whose own loss follows `num_items_in_batch`, as many do that take it."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, input_ids, labels=None, num_items_in_batch=None, **kwargs):
        logits = self.inner(input_ids).logits
        if labels is None:
            return {"logits": logits}
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss = nn.functional.cross_entropy(logits, labels, reduction=reduction)
        return {"loss": loss / (num_items_in_batch or 1), "logits": logits}


class OverridesComputeLoss(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


class OverridesComputeLossPerItem(Trainer):
    loss_is_scaled_for_ga = True

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class Overridden(SelfDistillationMixin, OverridesComputeLoss):
    pass


class OverriddenPerItem(SelfDistillationMixin, OverridesComputeLossPerItem):
    pass


class PassesOn(LSTSDTrainer):
    """Looks at a loss, and returns it as it is."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)


class InOrder(LSTSDTrainer):
    """Draws the examples in their order in each epoch."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


def gradients(trainer_class, model, args, teacher, examples=22, **options):
    recorder = Gradients()
    trainer = trainer_class(
        model=copy.deepcopy(model), args=args, train_dataset=make_examples(examples), teacher=teacher, **options
    )
    trainer.add_callback(recorder)
    trainer.train()
    return recorder.steps


MULTI, NUMBERS = "multi_label_classification", "regression"


def make_data(problem, count=14, num_labels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = make_examples(count, seed=seed)
    for row in rows:
        if problem == MULTI:
            row["labels"] = torch.randint(0, 2, (num_labels,), generator=generator).float().tolist()
        elif num_labels == 1:
            row["labels"] = float(torch.randn((), generator=generator))
        else:
            row["labels"] = torch.randn(num_labels, generator=generator).tolist()
    return rows


def tokenizer():
    vocabulary = {"[PAD]": 0, **{f"w{index}": index for index in range(1, 60)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")


def ragged_rows(num_examples=10):
    rows = make_examples(num_examples)
    return [{**row, "input_ids": row["input_ids"][: 3 + index % 5]} for index, row in enumerate(rows)]


def grouped_by_length(num_examples=10):
    """Options of a trainer whose batches have examples of like lengths."""
    rows = [{**row, "length": len(row["input_ids"])} for row in ragged_rows(num_examples)]
    return {
        "train_dataset": datasets.Dataset.from_list(rows),
        "data_collator": DataCollatorWithPadding(tokenizer()),
        "train_sampling_strategy": "group_by_length",
    }


def error_of(arguments):
    with pytest.raises(InputError) as error:
        cli.main(list(arguments))
    return str(error.value)


def write_rows(path, rows):
    if path.suffix == ".csv":
        names = list(rows[0])
        lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def history_of(rows, labels, num_labels=2):
    """A history of two labels from the probabilities of label 1: a list for each example, `None` where not seen."""
    ones = np.array([[np.nan if value is None else value for value in row] for row in rows]).T
    return History(np.log(np.stack([1 - ones, ones], axis=-1)).astype(np.float64), np.array(labels))


def freeze_what_is_there() -> None:
    """Each training ends with a garbage collection, which takes longer than the training if it looks at all modules."""
    gc.collect()
    gc.freeze()


HAND = history_of(
    [
        [0.2, 0.6, 0.3, 0.8, 0.9],  # label 1: learned, forgotten, learned again
        [0.9, 0.9, 0.9, 0.9, 0.9],  # label 0: never learned
        [0.1, 0.1, 0.1, 0.1, 0.1],  # label 0: always right
        [None, 0.6, None, 0.3, 0.7],  # label 1: not seen in every epoch
        [0.5, 0.6, 0.7, 0.8, 0.9],  # no label
        [None] * 5,  # never seen
    ],
    [1, 0, 0, 1, -1, 1],
)
