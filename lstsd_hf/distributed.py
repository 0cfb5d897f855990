"""The processes that train together, if several do."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if is_distributed() else 0


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if is_distributed() else 1


def batch_factor(args: Any) -> int:
    """How many times `train_batch_size` a micro-batch of all processes is: once where `split_batches` divides it.

    Args:
        args: Training arguments.
    """
    return 1 if args.accelerator_config.split_batches else args.world_size


def gather_objects(mine: Any) -> list[Any]:
    """Every process's object, in the order of their ranks. All processes must call it."""
    if not is_distributed():
        return [mine]
    everyone: list[Any] = [None] * num_processes()
    dist.all_gather_object(everyone, mine)
    return everyone


def sum_over_processes(mine: Tensor) -> Tensor:
    """The sum of every process's tensor, in place and on the device of the training. All processes must call it."""
    if is_distributed():
        dist.all_reduce(mine)
    return mine


def with_mean_one(weights: Tensor) -> Tensor:
    """Weights of a micro-batch, `(batch_size,)`, scaled to a mean of 1 over all processes; zeros where all are.

    All processes must call it.
    """
    count = torch.tensor(len(weights), dtype=weights.dtype, device=weights.device)
    total, count = sum_over_processes(torch.stack([weights.sum(), count]))
    # A least value instead of 0 would overflow in the division.
    return torch.where(total > 0, weights * (count / total.where(total > 0, 1.0)), 0.0)


def max_over_processes(mine: Tensor, device: torch.device | str) -> Tensor:
    """The element-wise maximum of every process's tensor. All processes must call it.

    Args:
        mine: A tensor, of the same shape on all.
        device: The device of the training, on which processes can talk to each other.
    """
    if not is_distributed():
        return mine
    everyones = mine.to(device, copy=True)
    dist.all_reduce(everyones, op=dist.ReduceOp.MAX)
    return everyones.to(mine.device)
