"""From a micro-batch of the model to what teachers and observers see of it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .observers import TrainingBatch
from .problem_types import problem_type_of
from .setups import check_token_level
from .tokens import LabelledTokens, TokenIndex, is_token_level, shifts_labels


class TrainingBatchMixin:
    """A trainer that knows what its model's outputs mean, and of which examples they are."""

    def _training_batch(
        self, inputs: Mapping[str, Any], indices: Tensor, labels: Tensor | None, logits: Tensor, base_loss: Tensor
    ) -> TrainingBatch:
        """The micro-batch; in a token-level task its labelled tokens."""
        forward, tokens = self._student.forward, None
        if is_token_level(logits, labels):
            tokens = self._labelled_tokens(indices, labels, logits, base_loss)
            indices, labels, logits = tokens.indices, tokens.labels, tokens.of(logits)

            def forward(inputs: Mapping[str, Any]) -> Tensor:
                return tokens.of(self._student.forward(inputs))

        self._meet(logits, labels)
        kind, progress = self._context.problem_type, self._events.progress
        return TrainingBatch(inputs, indices, labels, logits, kind, progress, forward, tokens)

    def _labelled_tokens(self, indices: Tensor, labels: Tensor, logits: Tensor, base_loss: Tensor) -> LabelledTokens:
        """The labelled tokens of a micro-batch; the first labels of a training tell how they are numbered."""
        if self._context.token_index is None:
            is_shifted = shifts_labels(self._student.model, base_loss, logits, labels)
            if is_shifted is None:
                # Others may have labels, or this raises an error.
                self._new_token_index(is_shifted=False)
                return LabelledTokens.none_in(logits)
            self._number_tokens(is_shifted)
        return self._context.token_index.find(indices, labels)

    def _meet(self, logits: Tensor, labels: Tensor | None) -> None:
        """Tells the context what outputs and labels mean."""
        config, known = getattr(self.model, "config", None), self._context.problem_type
        self._context.problem_type = problem_type_of(config, logits, labels, known)

    def _number_tokens(self, is_shifted: bool) -> None:
        """Tells the context that the examples are labelled tokens."""
        index = self._new_token_index(is_shifted)
        self._context.token_index, self._context.num_examples = index, index.num_tokens

    def _new_token_index(self, is_shifted: bool) -> TokenIndex:
        check_token_level(self, self._group)
        names, device = self.label_names or (), self.args.device
        return TokenIndex.of_dataset(self.train_dataset, names, is_shifted, device, self.data_collator)
