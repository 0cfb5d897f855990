"""Token-level tasks: each labelled token of the training set is an example of its own, with an index of its own."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .distributed import sum_over_processes
from .errors import InputError
from .fingerprint import dataset_column, dataset_labels

NO_LABEL = -100
# Tokens to show on either side.
CONTEXT = 10


def is_token_level(logits: Tensor, labels: Tensor | None) -> bool:
    """Whether a model's outputs are for each token: logits `(batch_size, length, num_labels)` and a class for each."""
    return (
        logits.dim() == 3
        and logits.size(2) > 1
        and labels is not None
        and not labels.is_floating_point()
        and labels.numel() == logits.size(0) * logits.size(1)
    )


def shifts_labels(model: nn.Module, loss: Tensor, logits: Tensor, labels: Tensor) -> bool:
    """Whether a loss compares the output at a position with the next label, as most causal language models do.

    It is told by the positions on whose outputs the loss depends, and where these are not known, as in a compiled
    model, by the name of the model's class. All processes must call it.

    Args:
        model: The bare module.
        loss: The base loss of a batch.
        logits: `(batch_size, length, num_labels)`.
        labels: `(batch_size, length)`.
    """
    is_labelled = labels.reshape(logits.shape[:2]) != NO_LABEL
    # At the last position nothing is predicted.
    shifted = torch.nn.functional.pad(is_labelled[:, 1:], (0, 1))
    found = _positions_in_loss(loss, logits)
    misses = torch.zeros(2, device=logits.device)
    if found is not None:
        misses += torch.stack([(found != mask).sum() for mask in (is_labelled, shifted)])
    misses = sum_over_processes(misses).tolist()
    return _is_causal(model) if misses[0] == misses[1] else misses[1] < misses[0]


def _positions_in_loss(loss: Tensor, logits: Tensor) -> Tensor | None:
    """On which positions a loss depends, bool `(batch_size, length)`; `None` if it is not computed from the logits."""
    edge = get_gradient_edge(logits) if loss.requires_grad and logits.requires_grad else None
    while edge is not None:
        (gradient,) = torch.autograd.grad(loss.sum(), [edge], retain_graph=True, allow_unused=True)
        if gradient is not None:
            return (gradient != 0).any(dim=-1)
        # In mixed precision the logits were cast after the loss had been computed of them.
        is_cast = edge.node.name() == "ToCopyBackward0"
        edge = GradientEdge(*edge.node.next_functions[0]) if is_cast else None
    return None


def _is_causal(model: nn.Module) -> bool:
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = {parent.__name__ for parent in type(model).__mro__}
    return not names.isdisjoint(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


@dataclass(frozen=True)
class LabelledTokens:
    """Where the labelled tokens of a batch are.

    Attributes:
        mask: Which positions count, bool `(batch_size, length)`; of a causal language model those that predict.
        indices: Their positions among the labelled tokens of the training set, int64 `(num_tokens,)`.
        labels: Their labels, `(num_tokens,)`.
    """

    mask: Tensor
    indices: Tensor
    labels: Tensor

    def of(self, logits: Tensor) -> Tensor:
        """The rows of logits `(batch_size, length, num_labels)` that belong to them, `(num_tokens, num_labels)`.

        Raises:
            InputError: If they are of another length.
        """
        if logits.shape[:2] != self.mask.shape:
            raise InputError(
                f"The model must give logits of the same length with and without labels, {tuple(self.mask.shape)}, got "
                f"{tuple(logits.shape[:2])}. Use a method that does not run it again, such as `LSTSDConfig()`."
            )
        return logits[self.mask]


class TokenIndex:
    """Numbers the labelled tokens of a training set, those of an example one after the other.

    A token is known by its place among the labelled tokens of its example, so that padding, on either side, does not
    matter. Tokens with the label -100 do not count.

    Args:
        labels: The labels of each example, a list with one for each token.
        is_shifted: Whether position t predicts the label of position t + 1, as in causal language models.
        device: Where batches are.

    Attributes:
        num_tokens: Labelled tokens in the training set.
        is_shifted: As given.
        examples: The example of each labelled token, int64 `(num_tokens,)`, on the CPU.
        positions: Its position in the example, likewise.
        labels: Its label, likewise.

    Examples:
        >>> index = TokenIndex([[3, 4], [-100, 5]])
        >>> tokens = index.find(torch.tensor([1, 0]), torch.tensor([[-100, 5], [3, 4]]))
        >>> tokens.indices.tolist(), tokens.labels.tolist()
        ([2, 0, 1], [5, 3, 4])
    """

    def __init__(self, labels: Sequence[Sequence[int]], is_shifted: bool = False, device: torch.device | str = "cpu"):
        first = int(is_shifted)
        lengths = np.array([len(label) for label in labels], dtype=np.int64)
        flat = np.fromiter(itertools.chain.from_iterable(labels), dtype=np.int64, count=int(lengths.sum()))
        examples = np.repeat(np.arange(len(labels)), lengths)
        positions = np.arange(len(flat)) - np.repeat(lengths.cumsum() - lengths, lengths)
        is_labelled = (flat != NO_LABEL) & (positions >= first)
        counts = torch.from_numpy(np.bincount(examples[is_labelled], minlength=len(labels)))
        self.examples, self.positions, self.labels = (
            torch.from_numpy(column[is_labelled]) for column in (examples, positions, flat)
        )
        self.num_tokens = len(self.labels)
        self.is_shifted = is_shifted
        self._counts = counts.to(device)
        self._starts = (counts.cumsum(0) - counts).to(device)
        self._labels = self.labels.to(device)

    @classmethod
    def of_dataset(
        cls, dataset: Any, label_names: Sequence[str], is_shifted: bool, device: torch.device | str
    ) -> "TokenIndex":
        """The index of a training set.

        Args:
            dataset: Map-style; its labels are lists of class indices. Those of a causal language model may be left to a
                collator that takes `input_ids` for them.
            label_names: Names of the label besides the usual ones.
            is_shifted: As above.
            device: As above.

        Raises:
            InputError: If its examples have no such labels.
        """
        labels = dataset_labels(dataset, label_names)
        if labels is None and is_shifted:
            labels = dataset_column(dataset, ["input_ids"])
        others = [label for label in labels or () if isinstance(label, str) or not isinstance(label, Sequence)]
        if labels is None or others:
            raise InputError(
                "The training set must have the labels of its tokens, a list for each example, with -100 where a token "
                f"has none; got {repr(others[0]) if others else 'no labels'}. Labels that a collator or a transform "
                "makes may be others in each epoch: make them before the training, or use `teacher=NoTeacherConfig()`."
            )
        index = cls(labels, is_shifted, device)
        if index.num_tokens == 0:
            raise InputError("The training set must have labelled tokens, got none: all labels are -100.")
        return index

    def find(self, examples: Tensor, labels: Tensor) -> LabelledTokens:
        """The labelled tokens of a batch.

        Args:
            examples: Example indices, int64 `(batch_size,)`.
            labels: `(batch_size, length)`.

        Raises:
            InputError: If an example has other labels than in the training set.
        """
        labels = labels.reshape(len(examples), -1)
        if self.is_shifted:
            labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=NO_LABEL)
        mask = labels != NO_LABEL
        differs = mask.sum(dim=1) != self._counts[examples]
        # Of an example with too many they are not its own.
        places = (self._starts[examples, None] + mask.cumsum(dim=1) - 1).clamp(max=self.num_tokens - 1)
        differs |= ((self._labels[places] != labels) & mask).any(dim=1)
        if differs.any():
            row = int(differs.nonzero()[0])
            raise InputError(
                f"A training example must have the same labels in each batch, those of the training set; example "
                f"{int(examples[row])} has others, or on other tokens. Collators that mask at random, cut or pack "
                "examples cannot be used with sample distillation: make the labels before the training."
            )
        return LabelledTokens(mask, places[mask], labels[mask])

    def texts(self, dataset: Any, tokenizer: Any) -> list[str | None]:
        """Each labelled token in square brackets, with the tokens around it; `None` for all without a tokenizer.

        Args:
            dataset: The training set.
            tokenizer: Decodes its `input_ids`.
        """
        rows = dataset_column(dataset, ["input_ids"]) if hasattr(tokenizer, "decode") else None
        if rows is None:
            return [None] * self.num_tokens
        decode = functools.partial(tokenizer.decode, skip_special_tokens=True)
        places = list(zip(self.examples.tolist(), self.positions.tolist(), strict=True))
        texts = []
        for (example, start), (next_example, next_start) in itertools.pairwise([*places, (-1, 0)]):
            ids = rows[example]
            # With the pieces that follow without a label of their own.
            stop = next_start if next_example == example else len(ids)
            before, after = ids[max(0, start - CONTEXT) : start], ids[stop : stop + CONTEXT]
            texts.append(f"{decode(before)} [{decode(ids[start:stop])}] {decode(after)}".strip())
        return texts
