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
        self, inputs: Mapping[str, Any], indices: Tensor, labels: Tensor | None, logits: Tensor, base_loss: Tensor
    ) -> TrainingBatch:
        """The micro-batch; in a token-level task its labelled tokens."""
        forward, tokens = self._student.forward, None
        if is_token_level(logits, labels):
            if self._context.token_index is None:
                self._number_tokens(shifts_labels(self._student.model, base_loss, logits, labels))
            tokens = self._context.token_index.find(indices, labels)
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

    def _number_tokens(self, is_shifted: bool) -> None:
        """Tells the context that the examples are labelled tokens."""
        check_token_level(self, self._group)
        index = TokenIndex.of_dataset(self.train_dataset, self.label_names or (), is_shifted, self.args.device)
        self._context.token_index, self._context.num_examples = index, index.num_tokens
