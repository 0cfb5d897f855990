"""How long an input a model can take."""

from torch import nn
from transformers import PreTrainedModel

POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")


def position_limit(model: PreTrainedModel) -> int | None:
    """How many tokens a model has learned positions for; `None` if it learned none (T5, rotary positions)."""
    tables = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.endswith(POSITION_TABLES)
    ]
    return min((_usable_rows(table) for table in tables), default=None)


def _usable_rows(table: nn.Embedding) -> int:
    # RoBERTa's kind counts from behind the padding index, BART's from a fixed offset.
    offset = getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
    return table.num_embeddings - offset
