"""Token-level tasks: each labelled token of the training set is an example of its own, with an index of its own."""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from transformers import DataCollatorForLanguageModeling
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .distributed import sum_over_processes
from .errors import InputError
from .fingerprint import dataset_column, dataset_labels

logger = logging.getLogger(__name__)

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


def shifts_labels(model: nn.Module, loss: Tensor, logits: Tensor, labels: Tensor) -> bool | None:
    """Whether a loss compares the output at a position with the next label, as most causal language models do.

    The gradient tells it: a loss pulls up the output for the label that it compares with. Where there is none, as in
    a compiled model, the name of the model's class does. All processes must call it.

    Args:
        model: The bare module.
        loss: The base loss of a batch.
        logits: `(batch_size, length, num_labels)`.
        labels: `(batch_size, length)`.

    Returns:
        `None` if no process has a label.
    """
    labels = labels.reshape(logits.shape[:2])
    gradient = _gradient(loss, logits)
    # What is pulled up at the same position, at the one before, and how many labels there are.
    found = torch.zeros(3, device=logits.device)
    for place, own in enumerate((labels, torch.nn.functional.pad(labels[:, 1:], (0, 1), value=NO_LABEL))):
        is_class = (own >= 0) & (own < logits.size(2))
        found[2] += is_class.sum()
        if gradient is not None:
            pulls = gradient.float().gather(2, own.clamp(0, logits.size(2) - 1)[..., None]).squeeze(2)
            found[place] -= pulls[is_class].sum()
    here, before, count = sum_over_processes(found).tolist()
    if not count:
        return None
    if here == before or math.isnan(here + before):
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not type(model).__module__.startswith("transformers."):
            logger.warning(
                f"Whether {type(model).__name__} predicts the next token is told by its class, not by its loss, whose "
                "gradient is not known. Methods that compare outputs with labels need it to be right."
            )
        names = {parent.__name__ for parent in type(model).__mro__}
        return not names.isdisjoint(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return before > here


def _gradient(loss: Tensor, logits: Tensor) -> Tensor | None:
    """The gradient of a loss in the logits of which it was computed, `(batch_size, length, num_labels)`, if known."""
    if not (loss.requires_grad and logits.requires_grad):
        return None
    edge = get_gradient_edge(logits)
    # Mixed precision casts the logits, and DistributedDataParallel passes them on, after the loss was computed of them.
    while edge.node.name() in ("ToCopyBackward0", "_DDPSinkBackward"):
        edge = GradientEdge(*edge.node.next_functions[edge.output_nr])
    try:
        return torch.autograd.grad(loss.sum(), [edge], retain_graph=True, allow_unused=True)[0]
    except RuntimeError:
        # A compiled model has its gradient computed once only.
        return None


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

    @classmethod
    def none_in(cls, logits: Tensor) -> "LabelledTokens":
        """Those of a batch without any."""
        none = torch.zeros(0, dtype=torch.int64, device=logits.device)
        return cls(torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device), none, none)

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
        cls,
        dataset: Any,
        label_names: Sequence[str],
        is_shifted: bool,
        device: torch.device | str,
        collator: Any = None,
    ) -> "TokenIndex":
        """The index of a training set.

        Args:
            dataset: Map-style; its labels are lists of class indices.
            label_names: Names of the label besides the usual ones.
            is_shifted: As above.
            device: As above.
            collator: The collator; transformers' one for language models makes the labels of `input_ids`.

        Raises:
            InputError: If its examples have no such labels.
        """
        if isinstance(collator, DataCollatorForLanguageModeling) and not collator.mlm:
            padding = collator.tokenizer.pad_token_id
            rows = dataset_column(dataset, ["input_ids"])
            labels = rows and [[NO_LABEL if token == padding else token for token in row] for row in rows]
        else:
            labels = dataset_labels(dataset, label_names)
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
        found, wanted = mask.sum(dim=1), self._counts[examples]
        differs = found != wanted
        # Clamped: an example with too many labels would read beyond the end. It is found by their number.
        places = (self._starts[examples, None] + mask.cumsum(dim=1) - 1).clamp(max=self.num_tokens - 1)
        differs |= ((self._labels[places] != labels) & mask).any(dim=1)
        if differs.any():
            row = int(differs.nonzero()[0])
            if self.is_shifted and found[row] == wanted[row] + 1:
                raise InputError(
                    "A causal language model's texts must be padded on the right, or their first token must have the "
                    f"label -100: the padding before example {int(examples[row])} predicts its first token, which has "
                    "nothing before it elsewhere. Set `tokenizer.padding_side = 'right'`."
                )
            raise InputError(
                f"A training example must have the same labels in each batch, those of the training set; example "
                f"{int(examples[row])} has others, or on other tokens. Collators that mask at random, cut or pack "
                "examples cannot be used with sample distillation: make the labels before the training."
            )
        return LabelledTokens(mask, places[mask], labels[mask])

    def texts(self, student: Any) -> list[str | None]:
        """Each labelled token in square brackets, with the tokens around it; `None` for all without a tokenizer.

        Args:
            student: The `Student`; its tokenizer decodes the `input_ids`, or the labels where they are a target.
        """
        tokenizer = student.processing_class
        rows = dataset_column(student.train_dataset, ["input_ids"])
        if student.generates_target:
            rows = dataset_labels(student.train_dataset, student.label_names)
        if rows is None or not hasattr(tokenizer, "batch_decode"):
            return [None] * self.num_tokens
        places = list(zip(self.examples.tolist(), self.positions.tolist(), strict=True))
        parts = []
        for (example, start), (next_example, next_start) in itertools.pairwise([*places, (-1, 0)]):
            ids = rows[example]
            # With the pieces that follow without a label of their own.
            stop = next_start if next_example == example else len(ids)
            parts += [ids[max(0, start - CONTEXT) : start], ids[start:stop], ids[stop : stop + CONTEXT]]
        parts = [[token for token in part if token != NO_LABEL] for part in parts]
        decoded = iter(tokenizer.batch_decode(parts, skip_special_tokens=True))
        return [
            f"{before} [{own}] {after}".strip() for before, own, after in zip(decoded, decoded, decoded, strict=True)
        ]
