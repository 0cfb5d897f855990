"""What an epoch will draw, known before its first batch."""

import itertools
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.data_loader import DataLoaderDispatcher
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from transformers.trainer_utils import has_length

from .errors import InputError
from .example_index import IndexedDataset, fetching_loader, split_indices


class AnnouncedBatches:
    """A batch sampler that draws a whole epoch at once and tells what it drew, then yields the batches as ever.

    Args:
        batch_sampler: The batch sampler, of this process alone.
        tell: Is told what was drawn in an epoch, in its order, int64 `(num_drawn,)`.

    Attributes:
        wrapped: The batch sampler.
        is_quiet: Whether an epoch that begins is told to nobody.

    Examples:
        >>> batches = AnnouncedBatches([[2, 0], [1]], tell=print)
        >>> list(batches)
        tensor([2, 0, 1])
        [[2, 0], [1]]
    """

    def __init__(self, batch_sampler: Any, tell: Callable[[Tensor], None]):
        self.wrapped = batch_sampler
        self.is_quiet = False
        self._tell = tell

    def __len__(self) -> int:
        return len(self.wrapped)

    def __iter__(self) -> Iterator[list[int]]:
        if self.is_quiet:
            yield from self.wrapped
            return
        # Bare numbers: objects take several times as much memory.
        drawn, sizes = array("q"), array("q")
        for batch in self.wrapped:
            drawn.extend(batch)
            sizes.append(len(batch))
        self._tell(torch.tensor(drawn, dtype=torch.int64))
        start = 0
        for size in sizes:
            yield drawn[start : start + size].tolist()
            start += size

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":
            raise AttributeError(name)
        return getattr(self.wrapped, name)


def announce_examples(loader: DataLoader, tell: Callable[[Tensor], None]) -> None:
    """Has a data loader over an `IndexedDataset` tell which examples each epoch will draw.

    Args:
        loader: The loader, which is changed.
        tell: Is told their indices in the training set, int64 `(num_drawn,)`, in their order.

    Raises:
        InputError: If it is not known what this process will draw.
    """
    fetching = fetching_loader(loader)
    batches = getattr(fetching, "batch_sampler", None)
    if isinstance(loader, DataLoaderDispatcher) or batches is None or not has_length(loader):
        raise InputError(
            "`memory_storage` 'sharded' needs a data loader that draws batches of its own on each process, and has a "
            "length; got `dispatch_batches`, or a loader without a batch sampler or a length. Leave out one of the two."
        )
    rows = _rows(fetching.dataset)
    if isinstance(batches, AnnouncedBatches):
        batches = batches.wrapped
    announced = AnnouncedBatches(batches, lambda drawn: tell(drawn if rows is None else rows[drawn]))
    # A loader's attribute cannot be set the usual way any more.
    vars(fetching)["batch_sampler"] = announced


@contextmanager
def quiet(loader: Any) -> Iterator[None]:
    """An epoch of the loader that begins within is told to nobody."""
    batches = getattr(fetching_loader(loader), "batch_sampler", None)
    if not isinstance(batches, AnnouncedBatches):
        yield
        return
    batches.is_quiet = True
    try:
        yield
    finally:
        batches.is_quiet = False


def _rows(dataset: Dataset) -> Tensor | None:
    """Which examples the rows of a loader's dataset are; `None` if it is the training set itself."""
    if isinstance(dataset, IndexedDataset):
        return None
    if isinstance(dataset, Subset):
        own, inner = torch.as_tensor(dataset.indices, dtype=torch.int64), _rows(dataset.dataset)
        return own if inner is None else inner[own]
    raise InputError(
        "`memory_storage` 'sharded' needs a data loader over `self.train_dataset`, or a `torch.utils.data.Subset` of "
        f"it, got {type(dataset).__name__}. Leave out `sharded`, or choose rows by a sampler."
    )


class LoaderWithoutIndices:
    """A view of a training data loader for callbacks: its batches have no example indices, and nobody is told of them.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: Any):
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        with quiet(self._loader):
            batches = iter(self._loader)
            first = next(batches, None)
        if first is None:
            return
        for batch in itertools.chain([first], batches):
            yield split_indices(batch)[0]

    def __getattr__(self, name: str) -> Any:
        # Dunders stay, for copies of the trainer.
        if name.startswith("__") or name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)
