"""Shared fixtures: tiny random models and datasets, for mechanics only."""

import copy
import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The models are tiny: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, TrainingArguments

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


def freeze_what_is_there() -> None:
    """Each training ends with a garbage collection, which takes longer than the training if it looks at all modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    freeze_what_is_there()


@pytest.fixture(scope="session")
def _tiny_model():
    return make_model()


@pytest.fixture
def tiny_model(_tiny_model):
    """A tiny BERT classifier, a fresh copy for each test."""
    return copy.deepcopy(_tiny_model)


@pytest.fixture
def make_args(tmp_path):
    """Training arguments with quiet defaults."""

    def make(**options) -> TrainingArguments:
        defaults = {
            "output_dir": str(tmp_path / "run"),
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

    return make


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
