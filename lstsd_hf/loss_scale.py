"""The factor that puts the mean of a distillation term on the base loss's scale.

Without gradient accumulation and on one process it is 1. With them Trainer computes some base losses on another scale
than a mean over the micro-batch. A term must be on the same one, or base loss and term lose their ratio 1 : λ.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import Trainer

from .compatibility import smoothing_divides_by_items


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
        accumulates: Several micro-batches make a step.
        is_measured: Whether nothing of it is left to be told from its value.
        processes: W, by how many Trainer multiplies a loss that is divided by the items of all of them; 1 unless
            `average_tokens_across_devices`.
    """

    is_overridden: bool = False
    is_scaled: bool | None = None
    is_function: bool = False
    smoothing: float = 0.0
    counts_items: bool = True
    divides_by_items: bool = False
    accumulates: bool = False
    is_measured: bool = False
    processes: int = 1


def base_loss_of(trainer: Any) -> BaseLoss:
    """Where a trainer's base loss comes from.

    Args:
        trainer: A trainer with a teacher, within a training run.
    """
    processes = trainer.args.n_gpu if trainer.args.n_gpu > 1 else trainer.accelerator.num_processes
    is_overridden = type(trainer).compute_loss is not Trainer.compute_loss
    is_scaled, is_function = getattr(trainer, "loss_is_scaled_for_ga", None), trainer.compute_loss_func is not None
    # Trainer smooths what is called `labels`, and not for a function of one's own.
    smooths = trainer.label_smoother and "labels" in trainer.label_names and not is_function
    smoothing = trainer.label_smoother.epsilon if smooths else 0.0
    counts_items = trainer.model_accepts_loss_kwargs
    is_models_own = counts_items and not (is_function or smoothing)
    accumulates = trainer.args.gradient_accumulation_steps > 1
    processes = processes if trainer.args.average_tokens_across_devices else 1
    # Otherwise all scales are 1.
    is_visible = accumulates or processes > 1 or _counts_other_labels(trainer)
    return BaseLoss(
        is_overridden=is_overridden,
        is_scaled=is_scaled,
        is_function=is_function,
        smoothing=smoothing,
        counts_items=counts_items,
        is_measured=not (is_visible and (is_scaled is None if is_overridden else is_models_own)),
        accumulates=accumulates,
        processes=processes,
    )


def _counts_other_labels(trainer: Any) -> bool:
    """Whether Trainer counts labels that the loss leaves out: the first ones of a causal language model it may miss."""
    index = trainer._context.token_index
    return index is not None and index.is_shifted and not getattr(trainer, "_loss_shifts_labels", False)


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
    | an overridden `compute_loss` that returns the usual loss as Trainer scales it | as above | as above |

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
