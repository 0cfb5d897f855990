"""What the self-regulated methods share: which examples still need training, and how often each took part."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..distributed import gather_objects, rank, sum_over_processes
from ..observers import State, TrainingBatch, entries_below
from .base import ConfiguredTeacher
from .one_label import has_class


def needs_training(probabilities: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Whether an example is misclassified, or its label has less probability than a threshold.

    Source: Mishra & Sundaram, "Self Regulated Learning Mechanism for Data Efficient Knowledge Distillation", arXiv
    2102.07125, abstract.

    Args:
        probabilities: `(batch_size, num_labels)`.
        labels: Class indices, int64 `(batch_size,)`; an example without one (-100) needs no training.
        threshold: δ.

    Returns:
        bool `(batch_size,)`.

    Examples:
        >>> sure, unsure = [0.95, 0.05], [0.6, 0.4]
        >>> needs_training(torch.tensor([sure, unsure, sure]), torch.tensor([0, 0, 1]), threshold=0.9).tolist()
        [False, True, True]
    """
    given = probabilities.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)
    return ((probabilities.argmax(dim=1) != labels) | (given < threshold)) & (labels >= 0)


class Participation:
    """How often each example took part in the training, over all processes.

    Args:
        num_examples: Examples in the training set.
        device: Device of the training.

    Attributes:
        used: Rows that this process trained on.
        seen: Rows that it drew.

    Examples:
        >>> participation = Participation(num_examples=3, device="cpu")
        >>> participation.add(torch.tensor([2, 0]))
        >>> participation.counts().tolist()
        [1.0, 0.0, 1.0]
    """

    def __init__(self, num_examples: int, device: torch.device | str):
        self._counts = torch.zeros(num_examples, device=device)
        self.used = self.seen = 0

    def add(self, indices: Tensor) -> None:
        """Counts the examples of a batch that take part, int64 `(num_rows,)`."""
        self._counts.index_add_(0, indices, torch.ones_like(indices, dtype=self._counts.dtype))

    def counts(self) -> Tensor:
        """s, `(num_examples,)`. Every process must call it."""
        return sum_over_processes(self._counts.clone())

    def log_metrics(self) -> dict[str, float]:
        """Rows trained on and drawn so far, on all processes. Every process must call it."""
        used, seen = (sum(numbers) for numbers in zip(*gather_objects((self.used, self.seen)), strict=True))
        return {"samples_used": used, "samples_seen": seen}

    def state_dict(self) -> State:
        """The counts of all processes. Every process must call it."""
        return {"participations": self.counts(), **self.log_metrics()}

    def load_state_dict(self, state: State) -> None:
        """Takes over what `state_dict` returned; of several processes the first counts on."""
        if rank() == 0:
            self._counts.copy_(state["participations"])
            self.used, self.seen = state["samples_used"], state["samples_seen"]


def significance(counts: Tensor, limit: float) -> Tensor:
    """w = s / mean(s), bounded: examples with wrong labels take part most often.

    Args:
        counts: s, `(num_examples,)`.
        limit: Upper bound of w.

    Examples:
        >>> significance(torch.tensor([1.0, 1.0, 0.0, 14.0]), limit=3.0).tolist()
        [0.25, 0.25, 0.0, 3.0]
    """
    return (counts / counts.mean().clamp(min=1e-12)).clamp(max=limit)


class Gate(ConfiguredTeacher):
    """A teacher that leaves known examples out of the training batches, and counts the others.

    Attributes:
        participation: The counts.
        is_gated: Whether examples may be left out in this epoch.
        is_empty: Whether nobody takes part in the micro-batch that runs, which then has the loss 0.

    Examples:
        >>> from lstsd_hf import NoTeacherConfig
        >>> class KnowsAll(Gate):
        ...     config_class = NoTeacherConfig
        ...     def on_epoch_begin(self, progress):
        ...         self.is_gated = progress.epoch > 0
        ...     def known(self, inputs, indices, labels, forward):
        ...         return torch.ones_like(indices, dtype=torch.bool)
        ...     def base_loss_weight(self, batch):
        ...         return 0.0 if self.is_empty else 1.0
        ...     def observe(self, batch):
        ...         self.count(batch)
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher=KnowsAll())
        >>> _ = trainer.train()
        >>> trainer.teacher.participation.counts().tolist() == [1.0] * len(data)
        True
    """

    def reset(self) -> None:
        self.participation = Participation(self.context.num_examples, self.context.device)
        self.is_gated = self.is_empty = False
        self._drawn = 0
        # Where nobody is left out, who would have been.
        self.needs: Tensor | None = None

    def known(self, inputs: Mapping[str, Any], indices: Tensor, labels: Tensor, forward: Callable) -> Tensor:
        """Which examples of a batch need no training, bool `(batch_size,)`; arguments are those of `select_rows`."""
        raise TypeError(f"{type(self).__name__} does not define `known`.")

    def select_rows(
        self, inputs: Mapping[str, Any], indices: Tensor, labels: Tensor | None, forward: Callable
    ) -> Tensor | None:
        self._drawn, self.is_empty, self.needs = len(indices), False, None
        if not self.is_gated:
            return None
        takes_part = ~self.known(inputs, indices, labels, forward)
        rows = takes_part.nonzero()[:, 0]
        # The mean loss of rows without a label is NaN.
        has_label = has_class(labels, indices)
        self.is_empty = not (takes_part & has_label).any()
        # A step all the same: other processes may have rows.
        return has_label.int().argmax()[None] if self.is_empty else rows

    def count(self, batch: TrainingBatch) -> None:
        """Counts a batch's examples that take part."""
        self.participation.seen += self._drawn
        if self.is_empty:
            return
        self.participation.used += len(batch.indices)
        self.participation.add(batch.indices if self.needs is None else batch.indices[self.needs])

    def log_metrics(self) -> dict[str, float]:
        return self.participation.log_metrics()

    def participation_state(self) -> State:
        """Its part of a checkpoint. Every process must ask."""
        return {f"{_PREFIX}{name}": value for name, value in self.participation.state_dict().items()}

    def load_participation(self, state: State) -> dict[str, Any]:
        """Takes over its part of a checkpoint, and returns the rest."""
        own = entries_below(state, _PREFIX)
        if own:
            self.participation.load_state_dict(own)
        return {name: value for name, value in state.items() if not name.startswith(_PREFIX)}


_PREFIX = "participation."
