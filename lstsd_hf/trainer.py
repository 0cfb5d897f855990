"""The drop-in: a mixin for `transformers.Trainer` and its subclasses. It knows no method and no divergence."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from .callback import TeacherMemoryCallback
from .checkpoint import describe_run, load_teacher_state, save_teacher_state
from .data import EXAMPLE_INDEX, ExampleIndexCollator, IndexedDataset, check_has_indices
from .teachers import Teacher, TeacherBatch, TeacherConfig, build_teacher


class SelfDistillationMixin:
    """Adds a self-distillation teacher to a `Trainer` class: `class Mine(SelfDistillationMixin, MyTrainer)`.

    The base loss is whatever the parent's `compute_loss` returns; the teacher's terms are added to it. Evaluation and
    prediction are the parent's. The training data set, the collator and `args` stay as they were given.

    Scale of the terms. So that base loss and terms keep the ratio 1 : λ under gradient accumulation and on several
    processes, the terms are divided by what Trainer divides the base loss by. Below, B is the micro-batch, N the number
    of labels in all micro-batches of the optimizer step on all processes (`num_items_in_batch`), W the number of
    processes (1 unless `average_tokens_across_devices`), G the number of micro-batches of the step.

    | base loss | Trainer's factor on it | ours on each term |
    |---|---|---|
    | the model's own, `forward` takes `**kwargs` (BERT and most others) | mean over B, times W | mean over B, times W |
    | the model's own, no `**kwargs` | mean over B, then divided by G | mean over B, then divided by G |
    | label smoothing, `forward` takes `**kwargs` | sum over B / N, times W | sum over B / N, times W |
    | label smoothing, no `**kwargs` | mean over B, then divided by G | mean over B, then divided by G |
    | `compute_loss_func` | opaque; by convention sum over B / N | sum over B / N, times W |
    | an overridden `compute_loss` | opaque; by convention mean over B | mean over B |
    | the same, `loss_is_scaled_for_ga = True` | opaque; by convention sum over B / N | sum over B / N |

    Override `reduce_distillation` if your loss follows another rule. The table only matters with accumulation or
    several processes; otherwise all of its rows are the mean over the batch.

    Logged with each training `loss`: `loss_base` and, while the teacher distils, `loss_<term>` without its weight, on
    the same scale, so that `loss = loss_base + Σ weight · loss_<term>`; and the teacher's own numbers.

    Checkpoints contain the teacher's state, and a run can only be resumed from one that does. The hub strategies
    `checkpoint` and `all_checkpoints` upload it: predictions for the training set, in its order.

    Args:
        *args: Passed on to the parent Trainer.
        teacher: A `TeacherConfig` such as `LSTSDConfig()`, a `Teacher`, or `None` for `LSTSDConfig()`.
        **kwargs: Passed on to the parent Trainer.

    Attributes:
        teacher: The `Teacher`; its memory is `teacher.memory`.
    """

    def __init__(self, *args, teacher: Teacher | TeacherConfig | None = None, **kwargs):
        self.teacher = build_teacher(teacher)
        super().__init__(*args, **kwargs)
        self.add_callback(TeacherMemoryCallback(self.teacher))
        self._loss_sums: dict[str, Tensor] = {}
        self._loss_sums_since_step = 0
        if self.teacher.needs_batches:
            _check_single_label(getattr(self.model, "config", None))
            if self.train_dataset is not None:
                check_has_indices(self.train_dataset)

    @property
    def _parent_compute_loss(self):
        return super().compute_loss.__func__

    # ---- Training data ----

    def get_train_dataloader(self) -> DataLoader:
        """The parent's training data loader, its batches with the key `example_index` added."""
        if not self.teacher.needs_batches or self.train_dataset is None:
            return super().get_train_dataloader()
        dataset, collator = self.train_dataset, self.data_collator
        # The parent would look for unused columns in the indexed view and find none, so they go here.
        if isinstance(dataset, datasets.Dataset):
            bare_dataset, bare_collator = self._remove_unused_columns(dataset, "training"), collator
        else:
            bare_dataset, bare_collator = dataset, self._get_collator_with_removed_columns(collator, "training")
        try:
            self.train_dataset = IndexedDataset(bare_dataset, source=dataset)
            self.data_collator = ExampleIndexCollator(bare_collator, len(dataset))
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = dataset, collator

    def _get_train_sampler(self, train_dataset=None):
        # Length grouping needs the user's own rows, with the length column.
        if isinstance(train_dataset, IndexedDataset):
            train_dataset = train_dataset.source
        return super()._get_train_sampler(train_dataset)

    # ---- Loss ----

    def training_step(self, *args, **kwargs):
        """The parent's; an error if the loss was computed without the teacher."""
        self._met_teacher = not self.teacher.needs_batches
        loss = super().training_step(*args, **kwargs)
        if not self._met_teacher:
            raise TypeError(
                f"`compute_loss` of {type(self).__name__} must reach SelfDistillationMixin.compute_loss, but the "
                "teacher saw no batch: an override ahead of it did not call `super().compute_loss`. Keep your override "
                "in a Trainer subclass and put the mixin first: `class Mine(SelfDistillationMixin, MyTrainer)`."
            )
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The parent's loss plus, on training batches, the teacher's terms."""
        if not (self.teacher.needs_batches and model.training and self.is_in_train):
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        inputs, indices = _split_indices(inputs)
        if indices is None:
            raise ValueError(
                f"A training batch must have the key `{EXAMPLE_INDEX}`, found {sorted(inputs)}. A "
                "`get_train_dataloader` of your own must build its loader from `self.train_dataset` and "
                "`self.data_collator`."
            )
        # Taken first: label smoothing and `compute_loss_func` pop them from the inputs.
        labels = next((inputs[name] for name in self.label_names if name in inputs), None)
        result = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                "`compute_loss` must return (loss, outputs) when called with `return_outputs=True`, got "
                f"{type(result).__name__} from {self._parent_compute_loss.__qualname__}. The outputs hold the "
                "student's logits; end it with `return (loss, outputs) if return_outputs else loss`."
            )
        base_loss, outputs = result
        batch = TeacherBatch(inputs, indices, labels, _student_logits(outputs, labels, indices))
        loss = base_loss
        parts = {"base": base_loss}
        for name, term in self.teacher.loss_terms(batch).items():
            parts[name] = self.reduce_distillation(term.per_example, num_items_in_batch)
            loss = torch.add(loss, parts[name], alpha=term.weight)
        self.teacher.observe(batch)
        self._met_teacher = True
        self._accumulate(parts, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def reduce_distillation(self, per_example: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        """Reduces a term as Trainer reduces the base loss; see the table in the class docstring.

        Args:
            per_example: One value for each example of the micro-batch, `(batch_size,)`.
            num_items_in_batch: Labels in the whole optimizer step (N), or `None` where Trainer does not count them.

        Returns:
            A scalar.
        """
        is_overridden = self._parent_compute_loss is not Trainer.compute_loss
        if is_overridden:
            divides_by_items = bool(getattr(self, "loss_is_scaled_for_ga", None))
        else:
            divides_by_items = self.compute_loss_func is not None or self.label_smoother is not None
        if num_items_in_batch is None:
            return per_example.mean()
        reduced = per_example.sum() / num_items_in_batch if divides_by_items else per_example.mean()
        if is_overridden or not self.args.average_tokens_across_devices:
            return reduced
        return reduced * (self.args.n_gpu if self.args.n_gpu > 1 else self.accelerator.num_processes)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The parent's; the indices are dropped should the batch come from the training loader."""
        inputs, _ = _split_indices(inputs)
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignore_keys)

    # ---- Logs ----

    def _accumulate(self, parts: dict[str, Tensor], num_items_in_batch: Tensor | int | None) -> None:
        """Sums the parts of the loss on the device, on the scale on which Trainer sums the loss."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            is_counted = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = is_counted or self.compute_loss_func is not None
        divisor = 1 if scaled else self.current_gradient_accumulation_steps
        for name, part in parts.items():
            value = part.detach().mean() / divisor
            if name in self._loss_sums:
                self._loss_sums[name] += value
            else:
                self._loss_sums[name] = value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs with the parts of the loss and the teacher's numbers beside each training `loss`."""
        if "loss" in logs and self.is_in_train and self.teacher.needs_batches:
            num_steps = max(1, self.state.global_step - self._loss_sums_since_step)
            for name, total in self._loss_sums.items():
                mean = self.accelerator.gather(total.reshape(1)).mean().item()
                logs[f"loss_{name}"] = mean / num_steps
            self._loss_sums = {}
            self._loss_sums_since_step = self.state.global_step
            logs.update(self.teacher.log_metrics())
        super().log(logs, start_time)

    # ---- Training runs and checkpoints ----

    def _inner_training_loop(self, *args, **kwargs):
        # Entered anew for each `train()`, trial and batch size tried; a checkpoint is loaded further in.
        if self.teacher.needs_batches and self.train_dataset is not None:
            check_has_indices(self.train_dataset)
            self.teacher.reset(len(self.train_dataset))
        self._loss_sums = {}
        self._loss_sums_since_step = 0
        return super()._inner_training_loop(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if not self.teacher.needs_batches:
            return
        state = self.teacher.state_dict()
        if self.args.should_save:
            run = describe_run(self.teacher, self.train_dataset)
            save_teacher_state(state, run, self.state.global_step, output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.teacher.needs_batches:
            return
        if os.path.isdir(checkpoint):
            run = describe_run(self.teacher, self.train_dataset)
            state = load_teacher_state(run, self.state.global_step, checkpoint)
            self.teacher.load_state_dict(state, self.args.device)
            self._loss_sums_since_step = self.state.global_step


class LSTSDTrainer(SelfDistillationMixin, Trainer):
    """`transformers.Trainer` with a self-distillation teacher, by default LSTSD; see `SelfDistillationMixin`."""


def _split_indices(inputs: Mapping[str, Any]) -> tuple[Mapping[str, Any], Tensor | None]:
    """The inputs without the example indices, and these. The caller's mapping is left alone."""
    if EXAMPLE_INDEX not in inputs:
        return inputs, None
    inputs = copy.copy(inputs)
    return inputs, inputs.pop(EXAMPLE_INDEX)


def _student_logits(outputs: Any, labels: Tensor | None, indices: Tensor) -> Tensor:
    """The logits `(batch_size, num_labels)` in a model's outputs, at least fp32: a KL in "
    "bf16 loses its small values."""
    if isinstance(outputs, Mapping):
        logits = outputs.get("logits")
    elif isinstance(outputs, Tensor):
        logits = outputs
    else:
        # A tuple starts with the loss, but not where Trainer computes the loss itself.
        logits = next((output for output in outputs if isinstance(output, Tensor) and output.dim() > 1), None)
    if logits is None:
        raise ValueError(
            "The model's outputs must contain `logits`, or be a tuple with them in the first place after the loss; "
            f"got {sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__}."
        )
    is_single_label = labels is None or (labels.dim() == 1 and not labels.is_floating_point())
    if logits.dim() != 2 or logits.size(1) < 2 or not is_single_label:
        _refuse(
            f"logits of shape {tuple(logits.shape)}"
            + ("" if labels is None else f" and {labels.dtype} labels of shape {tuple(labels.shape)}")
        )
    if len(logits) != len(indices):
        raise ValueError(
            f"The data collator must keep one row for each example: it was given {len(indices)} examples and the "
            f"model returned {len(logits)} rows. Collators that drop, merge or pack examples cannot be used with "
            "sample distillation."
        )
    return logits if logits.dtype == torch.float64 else logits.float()


def _check_single_label(config: Any) -> None:
    problem_type = getattr(config, "problem_type", None)
    if problem_type not in (None, "single_label_classification"):
        _refuse(f"a model with `problem_type={problem_type!r}`")
    if getattr(config, "num_labels", None) == 1:
        _refuse("a model with `num_labels=1`")


def _refuse(got: str) -> None:
    raise ValueError(
        "Sample distillation needs single-label classification (logits of shape (batch_size, num_labels) with at "
        f"least 2 labels, integer labels of shape (batch_size,)), got {got}. Multi-label, regression, token-level and "
        "language models are not supported yet; use `teacher=NoTeacherConfig()` for plain fine-tuning."
    )
