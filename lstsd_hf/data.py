"""Carrying each training example's index from the data set through sampler and collator into the batch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset, IterableDataset

from .memory import index_out_of_range

EXAMPLE_INDEX = "example_index"
"""Key of the example indices in a training batch."""


class IndexedExample(NamedTuple):
    """An example beside its position in the training set. A pair, not an extra key: items need not be mappings."""

    index: int
    example: Any


class IndexedDataset(Dataset):
    """A view of a training set whose items are `IndexedExample`s.

    Args:
        dataset: A map-style data set.
        source: The data set as the user gave it, if `dataset` had columns removed; samplers get to see this one.

    Raises:
        TypeError: If the data set has no length or is iterable-style: its examples have no stable index.
    """

    def __init__(self, dataset: Any, source: Any = None):
        check_has_indices(dataset)
        self.dataset = dataset
        self.source = source if source is not None else dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # A sampler of the user's own may read columns or attributes. Dunders stay, for pickling to workers.
        if name.startswith("__") or name in ("dataset", "source"):
            raise AttributeError(name)
        return getattr(self.source, name)

    def __getitem__(self, index: int | str) -> Any:
        if isinstance(index, str):
            return self.source[index]
        return IndexedExample(index, self.dataset[index])

    def __getitems__(self, indices: list[int]) -> list[IndexedExample]:
        # Batched reads are several times faster on `datasets.Dataset`.
        if hasattr(self.dataset, "__getitems__"):
            examples = self.dataset.__getitems__(indices)
        else:
            examples = [self.dataset[index] for index in indices]
        return [IndexedExample(index, example) for index, example in zip(indices, examples, strict=True)]

    def set_epoch(self, epoch: int) -> None:
        """Passed on to data sets that change with the epoch."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


class ExampleIndexCollator:
    """Collates `IndexedExample`s with another collator and puts their indices into the batch.

    Args:
        collator: The collator for the bare examples; it must return a mapping with one row for each example.
        num_examples: Size of the training set, which bounds the indices.
    """

    def __init__(self, collator: Callable[[list[Any]], Mapping[str, Any]], num_examples: int):
        self.collator = collator
        self.num_examples = num_examples

    def __call__(self, features: list[IndexedExample]) -> Mapping[str, Any]:
        """Returns the inner collator's batch with `example_index`, int64 `(batch_size,)`, added.

        Raises:
            IndexError: If an index is outside the training set.
            TypeError: If the inner collator does not return a mapping.
            ValueError: If the inner collator's batch has that key already.
        """
        indices = [feature.index for feature in features]
        low, high = min(indices), max(indices)
        if low < 0 or high >= self.num_examples:
            raise index_out_of_range(low if low < 0 else high, self.num_examples)
        batch = self.collator([feature.example for feature in features])
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"The data collator must return a mapping such as a dict, got {type(batch).__name__}: the example "
                "indices travel in it as one more key."
            )
        if EXAMPLE_INDEX in batch:
            raise ValueError(
                f"The batch must not have a key `{EXAMPLE_INDEX}` of its own: it is where the example indices travel. "
                "Rename that column of the training set."
            )
        batch[EXAMPLE_INDEX] = torch.tensor(indices, dtype=torch.int64)
        return batch


def check_has_indices(dataset: Any) -> None:
    """Raises a `TypeError` unless `dataset` is map-style with a length."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            "`train_dataset` must be a map-style data set with a length, so that every example keeps its index; got "
            f"{type(dataset).__name__}. Load it into memory (datasets: `Dataset.from_list(list(dataset))`), or use "
            "`teacher=NoTeacherConfig()`."
        )
