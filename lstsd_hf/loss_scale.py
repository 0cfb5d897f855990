"""The factor that puts the mean of a distillation term on the base loss's scale.

Without gradient accumulation and on one process it is 1. With them Trainer computes some base losses on another scale
than a mean over the micro-batch. A term must be on the same one, or base loss and term lose their ratio 1 : λ.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import Trainer

from .compatibility import smoothing_divides_by_items
from .problem_types import ProblemType


@dataclass(frozen=True)
class BaseLoss:
    """Where a base loss comes from, as far as its scale depends on it.

    Attributes:
        is_overridden: `compute_loss` is not Trainer's.
        is_scaled: The Trainer class declares `loss_is_scaled_for_ga`.
        is_function: There is a `compute_loss_func`.
        smoothing: ε of Trainer's label smoothing; 0 where it does not smooth.
        counts_items: The model's `forward` takes `**kwargs`, so that Trainer passes `num_items_in_batch` to it.
        divides_by_items: The model was found to divide its own loss by `num_items_in_batch`.
        processes: W, by how many Trainer multiplies a loss that is divided by the items of all of them; 1 unless
            `average_tokens_across_devices`.
    """

    is_overridden: bool = False
    is_scaled: bool | None = None
    is_function: bool = False
    smoothing: float = 0.0
    counts_items: bool = True
    divides_by_items: bool = False
    processes: int = 1

    @property
    def is_own(self) -> bool:
        """Whether it is the model's, which is given `num_items_in_batch`: what it makes of it can only be measured."""
        return self.counts_items and not (self.is_overridden or self.is_function or self.smoothing)


def base_loss_of(trainer: Any) -> BaseLoss:
    """Where a trainer's base loss comes from.

    Args:
        trainer: A trainer with a teacher, within a training run.
    """
    processes = trainer.args.n_gpu if trainer.args.n_gpu > 1 else trainer.accelerator.num_processes
    return BaseLoss(
        is_overridden=type(trainer).compute_loss is not Trainer.compute_loss,
        is_scaled=getattr(trainer, "loss_is_scaled_for_ga", None),
        is_function=trainer.compute_loss_func is not None,
        # Trainer smooths what is called `labels`.
        smoothing=trainer.label_smoother.epsilon if trainer.label_smoother and "labels" in trainer.label_names else 0.0,
        counts_items=trainer.model_accepts_loss_kwargs,
        divides_by_items=bool(trainer.divides_by_items),
        processes=processes if trainer.args.average_tokens_across_devices else 1,
    )


def term_scale(
    loss: BaseLoss, batch_size: int, num_items_in_batch: Tensor | int | None, labels: Tensor | None = None
) -> Tensor | float:
    """Factor that puts a term's mean on the base loss's scale.

    B is the number of labels in the micro-batch, N that in all micro-batches of the optimizer step on all processes
    (`num_items_in_batch`), W the number of processes, G the number of micro-batches of the step.

    | base loss | Trainer's factor on it | factor on each term |
    |---|---|---|
    | the model's own, `forward` takes `**kwargs` (BERT and most others) | mean over B, times W | mean, times W |
    | the same, found to divide by N itself | sum over B / N, times W | mean, times B / N, times W |
    | the model's own, no `**kwargs` | mean over B, then divided by G | mean, then divided by G |
    | label smoothing, `forward` takes `**kwargs` | sum over B / N, times W | mean, times B / N, times W |
    | the same before transformers 5.15 | mean over B, times W | mean, times W |
    | label smoothing, no `**kwargs` | mean over B, then divided by G | mean, then divided by G |
    | `compute_loss_func` | opaque; by convention sum over B / N | mean, times B / N, times W |
    | an overridden `compute_loss` | opaque; by convention mean over B | mean |
    | the same, `loss_is_scaled_for_ga = True` | opaque; by convention sum over B / N | mean, times B / N |

    Args:
        loss: The base loss.
        batch_size: Examples in the micro-batch.
        num_items_in_batch: N, or `None` where Trainer does not count the labels.
        labels: The micro-batch's labels, `batch_size` of them (B) unless an example has several.

    Examples:
        >>> term_scale(BaseLoss(is_function=True, processes=2), batch_size=4, num_items_in_batch=16)
        0.5
    """
    if num_items_in_batch is None:
        return 1.0
    if loss.is_overridden:
        divides_by_items = bool(loss.is_scaled)
    else:
        smooths_by_items = loss.smoothing > 0 and smoothing_divides_by_items()
        divides_by_items = loss.is_function or smooths_by_items or loss.divides_by_items
    scale = 1.0
    if divides_by_items:
        # As Trainer counts them.
        scale = (batch_size if labels is None else (labels != -100).sum()) / num_items_in_batch
    return scale if loss.is_overridden else scale * loss.processes


def log_divisor(loss: BaseLoss, num_items_in_batch: Tensor | int | None, micro_batches: int) -> int:
    """By what Trainer divides a micro-batch's loss when it sums up for the log."""
    is_scaled = loss.is_scaled
    if is_scaled is None:
        is_scaled = (loss.counts_items and num_items_in_batch is not None) or loss.is_function
    return 1 if is_scaled else micro_batches


def found_to_divide_by_items(
    loss: BaseLoss,
    value: Tensor,
    problem_type: ProblemType,
    logits: Tensor,
    labels: Tensor | None,
    num_items_in_batch: Tensor | int | None,
) -> bool | None:
    """Whether a model divides its own loss by `num_items_in_batch`, told from one micro-batch of several.

    Args:
        loss: The base loss, the model's own.
        value: Its value.
        problem_type: What the logits mean.
        logits: The model's logits, `(batch_size, num_labels)`.
        labels: The micro-batch's labels.
        num_items_in_batch: Labels in the optimizer step.

    Returns:
        `None` if this micro-batch does not tell.
    """
    if labels is None or num_items_in_batch is None or value.dim():
        return None
    share = float((labels != -100).sum() / num_items_in_batch)
    mean = float(problem_type.base_loss(logits.detach(), labels).mean()) * loss.processes
    # Nothing can be seen in a step of one micro-batch, in a loss of zero or in one that is not a number.
    if share in (0.0, 1.0) or not mean or not math.isfinite(mean):
        return None
    return math.isclose(float(value.detach()), mean * share, rel_tol=1e-2)
