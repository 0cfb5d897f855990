"""Batches of examples of like lengths, in an order that follows from a seed."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices


class SeededLengthGroups(Sampler[int]):
    """Trainer's length grouping, drawn from a seed and the epoch instead of the global random state.

    Dropout moves that state on, on each process by what its own batches need: Trainer's processes then draw different
    orders, of which their shares overlap. Nor is the state of an epoch's beginning known to a run that is resumed later
    in the epoch.

    Args:
        sampler: Trainer's.
        seed: The seed.
        epoch: Index of the epoch that begins or runs, from 0.

    Examples:
        >>> groups = SeededLengthGroups(LengthGroupedSampler(2, lengths=[3, 9, 3, 9]), seed=0, epoch=lambda: 0)
        >>> list(groups) == list(groups), sorted(groups)
        (True, [0, 1, 2, 3])
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: int, epoch: Callable[[], int]):
        self._lengths, self._batch_size = sampler.lengths, sampler.batch_size
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch())
        return iter(get_length_grouped_indices(self._lengths, self._batch_size, generator=generator))
