"""From a micro-batch of the model to what teachers and observers see of it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .observers import TrainingBatch
from .problem_types import problem_type_of
from .setups import check_token_level
from .tokens import TokenIndex, is_token_level, shifts_labels


class TrainingBatchMixin:
    """A trainer that knows what its model's outputs mean, and of which examples they are."""

    def _training_batch(
        self, inputs: Mapping[str, Any], indices: Tensor, labels: Tensor | None, logits: Tensor
    ) -> TrainingBatch:
        """The micro-batch; in a token-level task its labelled tokens."""
        forward, tokens = self._student.forward, None
        if is_token_level(logits, labels):
            tokens = self._token_index().find(indices, labels)
            indices, labels, logits = tokens.indices, tokens.labels, tokens.of(logits)

            def forward(inputs: Mapping[str, Any]) -> Tensor:
                return tokens.of(self._student.forward(inputs))

        self._meet(logits, labels)
        kind, progress = self._context.problem_type, self._events.progress
        return TrainingBatch(inputs, indices, labels, logits, kind, progress, forward, tokens)

    def _meet(self, logits: Tensor, labels: Tensor | None) -> None:
        """Tells the context what outputs and labels mean."""
        config, known = getattr(self.model, "config", None), self._context.problem_type
        self._context.problem_type = problem_type_of(config, logits, labels, known)

    def _token_index(self) -> TokenIndex:
        """Which examples the labelled tokens are in; the context is told that they are what is counted."""
        context = self._context
        if context.token_index is None:
            check_token_level(self, self._group)
            context.token_index = TokenIndex.of_dataset(
                self.train_dataset, self.label_names or (), shifts_labels(self._student.model), self.args.device
            )
            context.num_examples = context.token_index.num_tokens
        return context.token_index
