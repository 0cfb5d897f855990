"""A small head on features that a frozen encoder made beforehand."""

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class PooledMLPConfig(PreTrainedConfig):
    """Configuration of `PooledMLPForSequenceClassification`.

    Args:
        feature_size: Size of a feature vector.
        hidden_size: Units of the hidden layer.
        dropout: Probability of dropping a feature before each layer.
        **kwargs: Passed on to `PreTrainedConfig`.
    """

    model_type = "lstsd_pooled_mlp"

    def __init__(self, feature_size: int = 384, hidden_size: int = 256, dropout: float = 0.1, **kwargs):
        self.feature_size = feature_size
        self.hidden_size = hidden_size
        self.dropout = dropout
        super().__init__(**kwargs)


class PooledMLPForSequenceClassification(PreTrainedModel):
    """Dropout, a hidden layer with ReLU, dropout and a last layer, on one feature vector for each text."""

    config_class = PooledMLPConfig
    base_model_prefix = "mlp"
    main_input_name = "features"

    def __init__(self, config: PooledMLPConfig):
        super().__init__(config)
        self.layers = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.feature_size, config.hidden_size),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden_size, config.num_labels),
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(self, features: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        """Classifies feature vectors `(batch_size, feature_size)`; labels are class indices `(batch_size,)`."""
        logits = self.layers(features)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)
