"""What only the value of a base loss tells of it."""

import math
from dataclasses import replace

from torch import Tensor

from .example_losses import mean_of_usual, tolerance
from .loss_scale import BaseLoss, term_scale
from .observers import TrainingBatch


def measured(loss: BaseLoss, value: Tensor, batch: TrainingBatch, num_items_in_batch: Tensor | int | None) -> BaseLoss:
    """A base loss with the scale that it is found to have, told from one micro-batch of several.

    A model may divide its loss by `num_items_in_batch` or not. A `compute_loss` of one's own may return what Trainer's
    returned, which may be on another scale than the mean that it is taken for.

    Args:
        loss: Where it comes from.
        value: Its value.
        batch: The micro-batch.
        num_items_in_batch: Labels in the optimizer step.

    Returns:
        The same loss, if it was measured before or this micro-batch does not tell.
    """
    if loss.is_measured or batch.labels is None or num_items_in_batch is None or value.dim():
        return loss
    mean, found = float(mean_of_usual(loss, value, batch)), float(value.detach())
    # Nothing can be seen in a loss of zero or in one that is not a number.
    if not mean or not math.isfinite(mean):
        return loss
    own = replace(loss, is_overridden=False)
    kinds = dict.fromkeys([loss, own, replace(own, divides_by_items=True)])
    scales = {kind: float(term_scale(kind, len(batch.indices), num_items_in_batch, batch.labels)) for kind in kinds}
    rtol, _ = tolerance(value.dtype)
    fitting = [kind for kind, scale in scales.items() if math.isclose(found, mean * scale, rel_tol=rtol)]
    if len(fitting) > 1 and not loss.is_overridden:
        # A step of one micro-batch.
        return loss
    return replace((fitting or [loss])[0], is_measured=True)
