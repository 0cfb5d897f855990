"""What only the value of a base loss tells of it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from .example_losses import TOLERANCE, usual_losses
from .loss_scale import BaseLoss, term_scale
from .observers import TrainingBatch


def measured(
    loss: BaseLoss, value: Tensor, outputs: Any, batch: TrainingBatch, num_items_in_batch: Tensor | int | None
) -> BaseLoss:
    """A base loss with the scale that it is found to have, told from one micro-batch of several.

    A model may divide its loss by `num_items_in_batch` or not. A `compute_loss` of one's own that returns the model's
    loss, or Trainer's smoothed one, may have it on another scale than the mean that a loss of one's own is taken for.

    Args:
        loss: Where it comes from.
        value: Its value.
        outputs: What the model returned.
        batch: The micro-batch.
        num_items_in_batch: Labels in the optimizer step.

    Returns:
        The same loss, if it was measured before or this micro-batch does not tell.
    """
    if loss.is_measured or batch.labels is None or num_items_in_batch is None:
        return loss
    if loss.is_overridden and not (loss.smoothing or value is _loss_in(outputs)):
        return loss
    # Under DataParallel there is a number for each device.
    if value.dim() or (isinstance(num_items_in_batch, Tensor) and num_items_in_batch.numel() > 1):
        return loss
    mean, found = float(usual_losses(loss, value, batch).mean()), float(value.detach())
    # Nothing can be seen in a loss of zero or in one that is not a number.
    if not mean or not math.isfinite(mean):
        return loss
    own = replace(loss, is_overridden=False)
    kinds = dict.fromkeys([loss, own, replace(own, divides_by_items=True)])

    def scales(num_items: Tensor | int) -> dict[BaseLoss, float]:
        return {kind: float(term_scale(kind, len(batch.indices), num_items, batch.labels)) for kind in kinds}

    here = scales(num_items_in_batch)
    fitting = [kind for kind, scale in here.items() if math.isclose(found, mean * scale, rel_tol=TOLERANCE)]
    if not loss.is_overridden and not loss.accumulates and loss.processes == 1:
        # Apart by the few labels that Trainer counts and the loss leaves out.
        fitting.sort(key=lambda kind: abs(found - mean * here[kind]))
        return replace((fitting or [loss])[0], is_measured=True)
    # In a step of one micro-batch all fit, though they are not alike in others. Without accumulation each step is one.
    in_others = scales(2 * num_items_in_batch)
    if len({in_others[kind] for kind in fitting}) > 1 and (loss.accumulates or not loss.is_overridden):
        return loss
    return replace((fitting or [loss])[0], is_measured=True)


def _loss_in(outputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get("loss")
    return outputs[0] if isinstance(outputs, tuple) else None
