"""Early stopping without a look at the validation split: by training rows that are kept out of the training."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from ..errors import InputError
from ..files import replacing
from ..model_copy import ModelCopy

BEST_NAME = "held_out_best.safetensors"
SPLIT_SEED = 0


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

    Args:
        folder: The run's folder; the best weights so far lie there for a resumed run.
        held_out: The rows, as the trainer takes them.

    Attributes:
        trainer: The trainer, to be set.
        best: The weights.
        step: Their optimizer step.
        loss: Their loss on the held-out rows.
    """

    def __init__(self, folder: Path, held_out: Any):
        self.trainer: Any = None
        self._path, self._held_out = folder / BEST_NAME, held_out
        self.best: ModelCopy | None = None
        self.step, self.loss = 0, math.inf

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step and self._path.is_file():
            numbers = json.loads(self._path.with_suffix(".json").read_text())
            self.step, self.loss = numbers["step"], numbers["loss"]
            self.best = ModelCopy(load_file(self._path)).to(args.device)

    def on_epoch_end(self, args, state, control, **kwargs):
        loss = self.trainer.predict(self._held_out, metric_key_prefix="held_out").metrics["held_out_loss"]
        if not loss < self.loss:
            return
        self.step, self.loss = state.global_step, loss
        self.best = ModelCopy.of(self.trainer.model)
        if args.should_save and args.save_strategy != "no":
            with replacing(self._path) as temporary:
                save_file({name: value.contiguous() for name, value in self.best.tensors.items()}, temporary)
            with replacing(self._path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps({"step": self.step, "loss": self.loss}))
