"""A convolutional text classifier with max-over-time pooling."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class TextCNNConfig(PreTrainedConfig):
    """Configuration of `TextCNNForSequenceClassification`; the defaults are Kim's.

    Args:
        vocab_size: Size of the vocabulary.
        embedding_size: Size of a word vector.
        filter_widths: Widths of the convolutions, in words.
        num_filters: Filters of each width.
        dropout: Probability of dropping a feature before the last layer.
        pad_token_id: Index of the padding word, whose vector is zero.
        **kwargs: Passed on to `PreTrainedConfig`.
    """

    model_type = "lstsd_text_cnn"

    def __init__(
        self,
        vocab_size: int = 30000,
        embedding_size: int = 300,
        filter_widths: Sequence[int] = (3, 4, 5),
        num_filters: int = 100,
        dropout: float = 0.5,
        pad_token_id: int = 0,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.filter_widths = list(filter_widths)
        self.num_filters = num_filters
        self.dropout = dropout
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class TextCNNForSequenceClassification(PreTrainedModel):
    """Kim's convolutional network for sentence classification, with word vectors learned from random ones (CNN-rand).

    Source: Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014, arXiv 1408.5882.

    Differences from the paper:
        No bound on the norm of the last layer's weights. Words beyond the end of a text count as zero vectors, so the
        output does not depend on the padding of the batch.
    """

    config_class = TextCNNConfig
    base_model_prefix = "cnn"
    main_input_name = "input_ids"

    def __init__(self, config: TextCNNConfig):
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.embedding_size, config.num_filters, width) for width in config.filter_widths
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.num_filters * len(config.filter_widths), config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Kim's range for word vectors; torch's own initialisation for the rest.
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -0.25, 0.25)
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, nn.Linear | nn.Conv1d):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embedding = value

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Classifies texts.

        Args:
            input_ids: Word indices `(batch_size, sequence_length)`.
            attention_mask: 1 for words, 0 for padding; by default every padding index is padding.
            labels: Class indices `(batch_size,)`.

        Returns:
            Logits `(batch_size, num_labels)` and, with labels, the loss.
        """
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        if not input_ids.size(1):
            # A batch of empty texts.
            input_ids = input_ids.new_full((len(input_ids), 1), self.config.pad_token_id)
            attention_mask = torch.zeros_like(input_ids)
        is_word = attention_mask.bool()
        # A text without a single known position still has one window.
        is_first = torch.arange(is_word.size(1), device=is_word.device) == 0
        is_word = is_word | (is_first & ~is_word.any(dim=1, keepdim=True))
        widest = max(self.config.filter_widths)
        words = input_ids.masked_fill(~is_word, self.config.pad_token_id)
        # A window for each word, the last ones reaching beyond the end.
        words = nn.functional.pad(words, (0, widest - 1), value=self.config.pad_token_id)
        # A batch has far fewer distinct words than positions: each is multiplied with the filters once.
        distinct, positions = torch.unique(words, return_inverse=True)
        vectors = self.embedding(distinct)
        features = [
            _max_over_time(convolution, vectors, positions, is_word).relu() for convolution in self.convolutions
        ]
        logits = self.classifier(self.dropout(torch.cat(features, dim=-1)))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _max_over_time(convolution: nn.Conv1d, vectors: Tensor, positions: Tensor, is_word: Tensor) -> Tensor:
    """The largest response of each filter over the windows of a text whose words are rows of a table.

    Args:
        convolution: Without padding or stride.
        vectors: Word vectors `(num_words, embedding_size)`.
        positions: Rows of it `(batch_size, padded_length)`.
        is_word: Which windows count, bool `(batch_size, sequence_length)`; at least one of each text.

    Returns:
        Responses `(batch_size, num_filters)`.
    """
    num_filters, _, width = convolution.weight.shape
    # What a word adds to a window in whose first, second, ... place it stands: (num_words * width, num_filters).
    products = nn.functional.linear(vectors, convolution.weight.permute(2, 0, 1).flatten(0, 1))
    products = products.reshape(-1, num_filters)
    windows = positions.unfold(1, width, 1)[:, : is_word.size(1)] * width + torch.arange(width, device=positions.device)
    with torch.no_grad():
        # Out of autocast, so that sums have the precision of the weights.
        rounded = products.to(convolution.bias.dtype)
        maps = nn.functional.embedding_bag(windows.flatten(0, 1), rounded, mode="sum").view(*is_word.shape, num_filters)
        winners = maps.masked_fill_(~is_word.unsqueeze(-1), -math.inf).max(dim=1).indices
    # Only the winning windows have a gradient: it is much cheaper through them than through all the maps.
    rows = windows.gather(1, winners.unsqueeze(-1).expand(-1, -1, width)).permute(2, 0, 1)
    parts = products.gather(0, rows.flatten(0, 1)).view(rows.shape)
    return parts.to(convolution.bias.dtype).sum(dim=0) + convolution.bias
