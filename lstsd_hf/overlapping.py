"""Batches of which each shares one half with the batch before it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

from .errors import InputError


@dataclass(frozen=True)
class Batching:
    """How a training run divides its examples.

    Attributes:
        num_examples: Examples in the training set.
        batch_size: Examples of a micro-batch, on one process.
        accumulation_steps: Micro-batches of an optimizer step, on one process.
        num_processes: Processes that train together.
        drop_last: Whether plain training leaves out a last batch that is not full.
        seed: Seed of the order.
    """

    num_examples: int
    batch_size: int
    accumulation_steps: int = 1
    num_processes: int = 1
    drop_last: bool = False
    seed: int = 0

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches of an epoch on each process, as in plain training."""
        whole, rest = divmod(self.num_examples, self.batch_size * self.num_processes)
        return whole + (1 if rest and not self.drop_last else 0)


class OverlappingSampler(Sampler[int]):
    """Example indices such that the first half of each micro-batch is the second half of the one a step before.

    "Before" is the same micro-batch of the last optimizer step on the same process, so that an update lies between. An
    epoch has as many batches as plain training, all of them full, so an example is drawn about twice in every second
    epoch. Each epoch begins with new examples; over the epochs all are drawn, in an order that is shuffled anew each
    time.

    Source: Shen et al., "Self-Distillation from the Last Mini-Batch for Consistency Regularization", CVPR 2022, arXiv
    2203.16172, Sec. 3.

    Args:
        batching: How the run divides its examples.

    Raises:
        InputError: If the batch size is odd.

    Examples:
        >>> sampler = OverlappingSampler(Batching(num_examples=8, batch_size=4))
        >>> first = list(sampler)
        >>> len(first), first[2:4] == first[4:6]
        (8, True)
    """

    def __init__(self, batching: Batching):
        if batching.batch_size % 2:
            raise InputError(
                f"`per_device_train_batch_size` must be even where batches overlap by half, got {batching.batch_size}."
            )
        self._batching = batching
        self._epoch = 0

    def __len__(self) -> int:
        batching = self._batching
        return batching.batches_per_epoch * batching.batch_size * batching.num_processes

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is drawn next, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        batching, half = self._batching, self._batching.batch_size // 2
        # Each micro-batch of a step on each process continues that of the last step.
        chains = min(batching.accumulation_steps, batching.batches_per_epoch) * batching.num_processes
        batches = batching.batches_per_epoch * batching.num_processes
        fresh = self._fresh(self._epoch * (batches + chains) * half)
        last = [[next(fresh) for _ in range(half)] for _ in range(chains)]
        for batch in range(batches):
            chain = batch % chains
            new = [next(fresh) for _ in range(half)]
            yield from last[chain]
            yield from new
            last[chain] = new

    def _fresh(self, position: int) -> Iterator[int]:
        """The examples in one shuffled order after another, from a position on."""
        count = self._batching.num_examples
        while True:
            generator = torch.Generator().manual_seed(self._batching.seed + position // count)
            order = torch.randperm(count, generator=generator).tolist()
            yield from order[position % count :]
            position += count - position % count
