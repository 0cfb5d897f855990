"""Shared fixtures; the functions that tests share are in `helpers.py`."""

import copy
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The models are tiny: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from lstsd_hf.glue.models import resolve_model
from tests.helpers import freeze_what_is_there, make_model, training_arguments


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

    def make(**options):
        return training_arguments(**{"output_dir": str(tmp_path / "run"), **options})

    return make


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A tiny random BERT with a real tokenizer, saved as a user's local model is."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("minilm"))
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLUE_DIR", raising=False)
    return tmp_path


@pytest.fixture
def options(encoder):
    return (
        *("--task", "rte", "--data", "synthetic", "--model_name_or_path", encoder, "--use_cpu", "true"),
        *("--num_train_epochs", "4", "--learning_rate", "1e-2", "--max_train_samples", "48"),
        *("--per_device_train_batch_size", "16"),
    )
