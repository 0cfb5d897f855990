"""Models of the package, known to the Auto classes once this is imported."""

from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from .cifar_densenet import CifarDenseNetConfig, CifarDenseNetForImageClassification
from .cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification
from .pooled_mlp import PooledMLPConfig, PooledMLPForSequenceClassification
from .text_cnn import TextCNNConfig, TextCNNForSequenceClassification

for _auto, _config, _model in (
    (AutoModelForSequenceClassification, TextCNNConfig, TextCNNForSequenceClassification),
    (AutoModelForSequenceClassification, PooledMLPConfig, PooledMLPForSequenceClassification),
    (AutoModelForImageClassification, CifarResNetConfig, CifarResNetForImageClassification),
    (AutoModelForImageClassification, CifarDenseNetConfig, CifarDenseNetForImageClassification),
):
    AutoConfig.register(_config.model_type, _config)
    _auto.register(_config, _model)
del _auto, _config, _model

__all__ = [
    "CifarDenseNetConfig",
    "CifarDenseNetForImageClassification",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "PooledMLPConfig",
    "PooledMLPForSequenceClassification",
    "TextCNNConfig",
    "TextCNNForSequenceClassification",
]
