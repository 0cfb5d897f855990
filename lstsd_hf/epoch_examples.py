"""What an epoch will draw, known before its first batch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.data_loader import DataLoaderDispatcher
from torch import Tensor
from torch.utils.data import DataLoader

from .errors import InputError


class AnnouncedBatches:
    """A batch sampler that draws a whole epoch at once and tells what it drew, then yields the batches as ever.

    Args:
        batch_sampler: The batch sampler, of this process alone.
        tell: Is told the example indices of an epoch in their order, int64 `(num_drawn,)`.

    Example:
        >>> batches = AnnouncedBatches([[2, 0], [1]], tell=print)
        >>> list(batches)
        tensor([2, 0, 1])
        [[2, 0], [1]]
    """

    def __init__(self, batch_sampler: Any, tell: Callable[[Tensor], None]):
        self._batch_sampler = batch_sampler
        self._tell = tell

    def __len__(self) -> int:
        return len(self._batch_sampler)

    def __iter__(self) -> Iterator[list[int]]:
        # Tensors: lists of numbers take several times as much memory.
        batches = [torch.tensor(batch, dtype=torch.int64) for batch in self._batch_sampler]
        self._tell(torch.cat([torch.empty(0, dtype=torch.int64), *batches]))
        for batch in batches:
            yield batch.tolist()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._batch_sampler, name)


def announce_examples(loader: DataLoader, tell: Callable[[Tensor], None]) -> None:
    """Has a data loader tell what each epoch will draw.

    Args:
        loader: The loader, which is changed.
        tell: Is told, as by `AnnouncedBatches`.

    Raises:
        InputError: If this process does not choose its own batches.
    """
    if isinstance(loader, DataLoaderDispatcher) or loader.batch_sampler is None:
        raise InputError(
            "`memory_storage` 'sharded' needs batches that each process draws itself, got `dispatch_batches` or a "
            "loader without a batch sampler. Leave out one of the two."
        )
    # accelerate's loaders are views of the one that fetches, whose attribute cannot be set the usual way any more.
    fetching = getattr(loader, "base_dataloader", loader)
    vars(fetching)["batch_sampler"] = AnnouncedBatches(fetching.batch_sampler, tell)
