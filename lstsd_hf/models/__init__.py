"""Models of the package, known to the Auto classes once this is imported."""

from transformers import AutoConfig, AutoModelForSequenceClassification

from .pooled_mlp import PooledMLPConfig, PooledMLPForSequenceClassification
from .text_cnn import TextCNNConfig, TextCNNForSequenceClassification

for _config, _model in (
    (TextCNNConfig, TextCNNForSequenceClassification),
    (PooledMLPConfig, PooledMLPForSequenceClassification),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForSequenceClassification.register(_config, _model)
del _config, _model

__all__ = [
    "PooledMLPConfig",
    "PooledMLPForSequenceClassification",
    "TextCNNConfig",
    "TextCNNForSequenceClassification",
]
