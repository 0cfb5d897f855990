"""Early stopping without a look at the validation split: by training rows that are kept out of the training."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from ..errors import InputError
from ..files import replacing
from ..model_copy import ModelCopy
from ..observers import State, entries_below

BEST_NAME = "held_out_best.safetensors"
SPLIT_SEED = 0
_MODEL, _TEACHER = "model.", "teacher."


def held_out_rows(num_rows: int, share: float) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to keep out, each in the data's order; the same in every run.

    Args:
        num_rows: Rows of the training split.
        share: Share to keep out.

    Raises:
        InputError: If one of the parts would be empty.
    """
    count = round(share * num_rows)
    if not 0 < count < num_rows:
        raise InputError(
            f"`held_out_share` must leave rows on both sides, got {share} of {num_rows} rows. Use another share or "
            "more rows."
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(num_rows)
    return sorted(order[count:].tolist()), sorted(order[:count].tolist())


class KeepsBest(TrainerCallback):
    """Keeps the weights of the epoch with the smallest loss on the held-out rows, whose labels are as given.

    Where a method predicts with copies of the model, these are kept too.

    Args:
        folder: The run's folder; the best weights so far lie there for a resumed run.
        held_out: The rows, as the trainer takes them.

    Attributes:
        trainer: The trainer, to be set.
        step: The optimizer step of the best epoch.
        loss: Its loss on the held-out rows.
    """

    def __init__(self, folder: Path, held_out: Any):
        self.trainer: Any = None
        self._path, self._held_out = folder / BEST_NAME, held_out
        self._best: ModelCopy | None = None
        self._teacher: State = {}
        self.step, self.loss = 0, math.inf

    def on_train_begin(self, args, state, control, **kwargs):
        if not (state.global_step and self._path.is_file()):
            return
        with safe_open(self._path, "pt") as file:
            metadata = file.metadata() or {}
        if "numbers" not in metadata:
            raise InputError(f"{self._path} must have been written by this version of lstsd_hf. Use --overwrite.")
        numbers = json.loads(metadata["numbers"])
        tensors = load_file(self._path)
        self.step, self.loss = numbers["step"], numbers["loss"]
        self._best = ModelCopy(entries_below(tensors, _MODEL)).to(args.device)
        self._teacher = numbers["teacher"] | entries_below(tensors, _TEACHER)

    def on_epoch_end(self, args, state, control, **kwargs):
        loss = self.trainer.predict(self._held_out, metric_key_prefix="held_out").metrics["held_out_loss"]
        if not loss < self.loss:
            return
        self.step, self.loss = state.global_step, loss
        self._best = ModelCopy.of(self.trainer.model)
        if self.trainer.teacher.predicts_with_copies:
            self._teacher = copy.deepcopy(dict(self.trainer.teacher.state_dict()))
        if args.should_save and args.save_strategy != "no":
            tensors = {name: value for name, value in self._teacher.items() if isinstance(value, Tensor)}
            plain = {name: value for name, value in self._teacher.items() if name not in tensors}
            numbers = {"step": self.step, "loss": self.loss, "teacher": plain}
            named = {f"{_MODEL}{name}": value for name, value in self._best.tensors.items()}
            named |= {f"{_TEACHER}{name}": value for name, value in tensors.items()}
            contiguous = {name: value.contiguous() for name, value in named.items()}
            with replacing(self._path) as temporary:
                save_file(contiguous, temporary, {"numbers": json.dumps(numbers)})

    def restore(self) -> None:
        """Makes the model, and the copies that a method predicts with, those of the best epoch."""
        self._best.load_into(self.trainer.model)
        if self._teacher:
            self.trainer.teacher.load_state_dict(self._teacher)
