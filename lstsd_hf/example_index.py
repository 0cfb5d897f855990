"""Carrying each training example's index from the dataset through sampler and collator into the batch."""

import copy
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from .datasets_library import is_hugging_face_dataset
from .errors import InputError
from .memory import index_out_of_range

EXAMPLE_INDEX = "example_index"
"""Key of the example indices in a training batch."""


# Methods of a `datasets.Dataset` that return one with the same rows in the same order: a loader of the user's own may
# drop columns.
_KEEPS_ROWS = {"add_column", "cast", "cast_column", "remove_columns", "rename_column", "rename_columns"}
_KEEPS_ROWS |= {"select_columns", "with_format", "with_transform"}


class IndexedExamples(list):
    """Examples with their positions in the training set beside them, not in them: items need not be mappings.

    Args:
        examples: The examples.
        indices: Their positions.
    """

    def __init__(self, examples: Iterable[Any], indices: Sequence[int]):
        super().__init__(examples)
        self.indices = indices


class IndexedDataset(Dataset):
    """A view of a training set that gives a data loader `IndexedExamples`, and everybody else the user's own rows.

    Data loaders fetch whole batches by `__getitems__`, also through a `torch.utils.data.Subset`.

    Args:
        dataset: A map-style dataset.
        source: The dataset as the user gave it, if `dataset` had columns removed; samplers get to see this one.

    Raises:
        TypeError: If the dataset has no length or is iterable-style: its examples have no stable index.
    """

    def __init__(self, dataset: Any, source: Any = None):
        check_has_indices(dataset)
        self.dataset = dataset
        # Several times faster on `datasets.Dataset`.
        self._reads_batches = hasattr(dataset, "__getitems__")
        self.source = source if source is not None else dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # A sampler of the user's own may read columns or attributes. Dunders stay, for pickling to workers.
        if name.startswith("__") or name in ("dataset", "source"):
            raise AttributeError(name)
        found = getattr(self.source, name)
        if name in _KEEPS_ROWS and is_hugging_face_dataset(self.source):
            return lambda *args, **kwargs: IndexedDataset(found(*args, **kwargs))
        return found

    def __getitem__(self, index: int | str) -> Any:
        return self.source[index]

    def __getitems__(self, indices: list[int]) -> IndexedExamples:
        dataset = self.dataset
        examples = dataset.__getitems__(indices) if self._reads_batches else [dataset[index] for index in indices]
        return IndexedExamples(examples, indices)

    def set_epoch(self, epoch: int) -> None:
        """Passed on to datasets that change with the epoch."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def has_indices(dataset: Any) -> bool:
    """Whether a dataset is an `IndexedDataset`, or some rows of one."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return isinstance(dataset, IndexedDataset)


class ExampleIndexCollator:
    """Collates `IndexedExamples` with another collator and puts their indices into the batch.

    Args:
        collator: The collator for the bare examples; it must return a mapping with one row for each example.
        num_examples: Size of the training set, which bounds the indices.

    Examples:
        >>> from transformers import default_data_collator
        >>> collate = ExampleIndexCollator(default_data_collator, num_examples=10)
        >>> collate(IndexedExamples([{"labels": 1}, {"labels": 0}], indices=[7, 2]))["example_index"].tolist()
        [7, 2]
    """

    def __init__(self, collator: Callable[[list[Any]], Mapping[str, Any]], num_examples: int):
        self.collator = collator
        self.num_examples = num_examples

    def __call__(self, features: IndexedExamples) -> Mapping[str, Any]:
        """Returns the inner collator's batch with `example_index`, int64 `(batch_size,)`, added.

        Raises:
            IndexError: If an index is outside the training set.
            InputError: If the examples come from another dataset.
            TypeError: If the inner collator does not return a mapping.
            ValueError: If the inner collator's batch has that key already.
        """
        if not isinstance(features, IndexedExamples):
            strangers = sorted({type(feature).__name__ for feature in features})
            raise InputError(
                "A `get_train_dataloader` of your own must load from `self.train_dataset`, so that every example keeps "
                f"its index, got rows ({', '.join(strangers)}) of another dataset, or a list of your own of its rows. "
                "Choose or repeat rows by a sampler or by `torch.utils.data.Subset(self.train_dataset, rows)`; hand a "
                "dataset of your own to the trainer as `train_dataset`."
            )
        indices = features.indices
        low, high = min(indices), max(indices)
        if low < 0 or high >= self.num_examples:
            raise index_out_of_range(low if low < 0 else high, self.num_examples)
        if len(features) != len(indices):
            raise InputError(
                f"The training set must return one example for each index, got {len(features)} for {len(indices)} "
                "indices. Look at its `__getitems__`."
            )
        batch = self.collator(list(features))
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
        # Three times as fast as `torch.tensor` for a list.
        batch[EXAMPLE_INDEX] = torch.frombuffer(array("q", indices), dtype=torch.int64)
        return batch


def collate_indices(loader: Any, num_examples: int) -> Any:
    """A data loader over an `IndexedDataset`, its batches with the key `example_index` added.

    Args:
        loader: A `DataLoader` or accelerate's view of one; anything else is left as it is, for it may join loaders
            whose batches have the key.
        num_examples: Size of the training set.
    """
    fetching = fetching_loader(loader)
    if isinstance(fetching, DataLoader) and not isinstance(fetching.collate_fn, ExampleIndexCollator):
        fetching.collate_fn = ExampleIndexCollator(fetching.collate_fn, num_examples)
    return loader


def fetching_loader(loader: Any) -> Any:
    """The loader that fetches: accelerate's loaders are views of it."""
    return getattr(loader, "base_dataloader", loader)


def check_can_be_resumed(loader: Any) -> None:
    """Raises an `InputError` if a training loader joins others, so that an epoch's order and place are unknown."""
    if not isinstance(fetching_loader(loader), DataLoader):
        raise InputError(
            f"A run can only be resumed with a `torch.utils.data.DataLoader`, got {type(loader).__name__} from "
            "`get_train_dataloader`: Trainer does not bring back where it was. For several loaders in one, hand the "
            "trainer a `torch.utils.data.ConcatDataset`, or start a new run."
        )


def split_indices(batch: Mapping[str, Any]) -> tuple[Mapping[str, Any], Tensor | None]:
    """A batch without its example indices, and these, if any. The caller's mapping is left alone."""
    if EXAMPLE_INDEX not in batch:
        return batch, None
    # The fast way for what collators usually return.
    batch = dict(batch) if type(batch) is dict else copy.copy(batch)
    return batch, batch.pop(EXAMPLE_INDEX)


def split_training_batch(batch: Mapping[str, Any]) -> tuple[Mapping[str, Any], Tensor]:
    """As `split_indices`; an `InputError` if there are none."""
    inputs, indices = split_indices(batch)
    if indices is None:
        raise InputError(
            f"A training batch must have the key `{EXAMPLE_INDEX}`, found {sorted(batch)}. A `get_train_dataloader` of "
            "your own must return a `torch.utils.data.DataLoader` over `self.train_dataset`, or join loaders from "
            "`super().get_train_dataloader()`; for plain fine-tuning use `teacher=NoTeacherConfig()`."
        )
    return inputs, indices


def take_rows(inputs: Mapping[str, Any], rows: Tensor, batch_size: int) -> dict[str, Any]:
    """Some rows of a batch: of everything in it that has one for each example, in nested mappings too.

    Args:
        inputs: The model's inputs.
        rows: Positions in the batch, int64 `(num_rows,)`.
        batch_size: Examples in the batch.
    """
    return {name: _rows_of(value, rows, batch_size) for name, value in inputs.items()}


def _rows_of(value: Any, rows: Tensor, batch_size: int) -> Any:
    if isinstance(value, Mapping):
        return take_rows(value, rows, batch_size)
    if isinstance(value, Tensor):
        return value[rows] if value.dim() and len(value) == batch_size else value
    if isinstance(value, list | tuple) and value and all(_has_rows(part, batch_size) for part in value):
        return [_rows_of(part, rows, batch_size) for part in value]
    # A tuple may be a size.
    if isinstance(value, list) and len(value) == batch_size:
        return [value[row] for row in rows.tolist()]
    return value


def _has_rows(value: Any, batch_size: int) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch_size)


def check_has_indices(dataset: Any) -> None:
    """Raises a `TypeError` unless `dataset` is map-style with a length."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            "`train_dataset` must be a map-style dataset with a length, so that every example keeps its index; got "
            f"{type(dataset).__name__}. Load it into memory (datasets: `Dataset.from_list(list(dataset))`), or use "
            "`teacher=NoTeacherConfig()` without observers and `record_dynamics`."
        )


def check_rows(logits: Tensor, indices: Tensor) -> None:
    """Raises a `ValueError` unless there is a row of logits for each example."""
    if len(logits) != len(indices):
        raise ValueError(
            f"The data collator must keep one row for each example: it was given {len(indices)} examples and the "
            f"model returned {len(logits)} rows. Collators that drop, merge or pack examples cannot be used with "
            "sample distillation."
        )
