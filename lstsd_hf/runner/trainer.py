"""The trainer of a run, and its callbacks."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from ..trainer import LSTSDTrainer

logger = logging.getLogger(__name__)


class RunTrainer(LSTSDTrainer):
    """Evaluates all rows in the data's order, though with length grouping Trainer would reorder them and with
    `dataloader_drop_last` leave some out; and keeps the logits and labels of the last evaluation in `last_evaluation`.

    Args:
        texts: The training set's columns of text.
        cache_dir: Folder for what all runs share.
        lr_milestones: Shares of the run at which the learning rate is divided by 10, unless the method sets it.
        decays_all: Whether weight decay is for all parameters.
        **kwargs: Passed on to the parent.
    """

    seeds_length_groups = True
    last_evaluation: tuple[np.ndarray, np.ndarray] | None = None
    _keeps_predictions = False

    def __init__(
        self,
        *,
        texts: list[list[str]] | None = None,
        cache_dir: Path | None = None,
        lr_milestones: Sequence[float] = (),
        decays_all: bool = False,
        **kwargs: Any,
    ):
        self._texts, self._milestones, self._decays_all = texts, lr_milestones, decays_all
        if cache_dir is not None:
            self.cache_dir = cache_dir
        super().__init__(**kwargs)

    def training_texts(self) -> list[list[str]] | None:
        return self._texts

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        if self._decays_all:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The parent's; with milestones and a method that does not set the learning rate, one with steps at them."""
        if not self._milestones or self.teacher.learning_rate_factor is not None:
            return super().create_scheduler(num_training_steps=num_training_steps, optimizer=optimizer)
        steps = [round(share * num_training_steps) for share in self._milestones]
        self.lr_scheduler = MultiStepLR(optimizer or self.optimizer, steps, gamma=0.1)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def get_eval_dataloader(self, *args, **kwargs):
        with self._all_rows():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args, **kwargs):
        with self._all_rows():
            return super().get_test_dataloader(*args, **kwargs)

    @contextmanager
    def _all_rows(self) -> Iterator[None]:
        drops_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drops_last

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        # The scores are made of the logits alone; other outputs, such as BART's encoder states, may be large.
        ignored = [*(ignore_keys or ()), *self.outputs_beside_logits(model, inputs)]
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignored)

    def evaluate(self, *args, **kwargs):
        self._keeps_predictions = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._keeps_predictions = False

    def evaluation_loop(self, *args, **kwargs):
        output = super().evaluation_loop(*args, **kwargs)
        if self._keeps_predictions:
            self.last_evaluation = output.predictions, output.label_ids
        return output


class DurationEstimate(TrainerCallback):
    """Says once, after the first steps, how long training will take."""

    WARM_UP_STEPS = 2
    MEASURED_STEPS = 8

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step - self._first_step
        if step == self.WARM_UP_STEPS:
            self._start = time.perf_counter()
        elif step == self.WARM_UP_STEPS + self.MEASURED_STEPS and state.is_world_process_zero:
            seconds = (time.perf_counter() - self._start) / self.MEASURED_STEPS * (state.max_steps - state.global_step)
            logger.info(f"About {seconds / 60:.1f} more minutes of training ({state.max_steps} steps), and evaluation.")

    def on_train_begin(self, args, state, control, **kwargs):
        self._first_step = state.global_step


class EpochTimer(TrainerCallback):
    """Measures the training part of each epoch, the teacher's passes included."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Resumed half-way, an epoch is not measured.
        self._is_whole = float(state.epoch or 0).is_integer()
        self._start = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._is_whole:
            self.seconds.append(time.perf_counter() - self._start)
