"""Maps of where a model's hidden units are active, which temporal supervision predicts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def chosen(states: Sequence[Tensor]) -> list[Tensor]:
    """The first hidden states, and those after a third and two thirds of the layers or stages.

    Args:
        states: Hidden states as `Student.hidden_states` returns them.
    """
    layers = len(states) - 1
    return [states[0], states[layers // 3], states[2 * layers // 3]]


def positions(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Which positions of some hidden states count: all but a text's padding.

    Args:
        states: `(batch_size, length, hidden_size)`, or `(batch_size, num_channels, height, width)`.
        attention_mask: 1 for tokens, 0 for padding, `(batch_size, length)`, if there is one.

    Returns:
        1 or 0, `(batch_size, length)` or `(batch_size, height, width)`.
    """
    if attention_mask is not None:
        return attention_mask.float()
    return torch.ones_like(states.select(_unit_dimension(states), 0), dtype=torch.float32)


def _unit_dimension(states: Tensor) -> int:
    return 1 if states.dim() == 4 else 2


def energy_map(states: Tensor, mask: Tensor) -> Tensor:
    """For each token or pixel the mean of its squared hidden units, each example's of length 1.

    Args:
        states: `(batch_size, length, hidden_size)`, or `(batch_size, num_channels, height, width)`.
        mask: 1 for what counts, 0 for padding, `(batch_size, length)` or `(batch_size, height, width)`.

    Returns:
        As large as the mask, 0 at padding.

    Examples:
        >>> energy_map(torch.tensor([[[2.0, 2.0], [0.0, 0.0], [9.0, 9.0]]]), torch.tensor([[1.0, 1.0, 0.0]])).tolist()
        [[1.0, 0.0, 0.0]]
    """
    energy = states.float().square().mean(dim=_unit_dimension(states)) * mask
    return nn.functional.normalize(energy.flatten(1), dim=-1).view_as(energy)


def resized(maps: Tensor, own_mask: Tensor, mask: Tensor) -> Tensor:
    """Maps over positions of one kind, such as a tokenizer's, as those over another, averaged where they are more.

    Args:
        maps: `(batch_size, *own_size)`.
        own_mask: Which of these count, `(batch_size, *own_size)`.
        mask: Which positions count in the result, `(batch_size, *size)`.

    Returns:
        `(batch_size, *size)`.
    """
    if own_mask.shape == mask.shape and torch.equal(own_mask, mask):
        return maps
    if maps.dim() == 3:
        return nn.functional.adaptive_avg_pool2d(maps, mask.shape[1:])
    result = torch.zeros_like(mask)
    for row, own, is_own, is_token in zip(result, maps, own_mask.bool(), mask.bool(), strict=True):
        if not (is_own.any() and is_token.any()):
            continue  # an empty text
        row[is_token] = nn.functional.adaptive_avg_pool1d(own[is_own][None], int(is_token.sum()))[0]
    return result
