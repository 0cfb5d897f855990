"""A run on texts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..methods import TeacherConfig
from ..runner.preparation import Prepared
from ..runner.run import Run
from .models import CNN
from .preparation import TextOptions, prepare
from .tasks import GlueTask

# Jiang et al., AAAI 2020, for BERT: Adam, 5e-5, batch 64, 50 epochs. Where they are silent: the schedule and the token
# limit.
PAPER_SETTINGS = {
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 64,
    "num_train_epochs": 50.0,
    "weight_decay": 0.0,
    "optim": "adamw_torch_fused",
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
}
# The same for the CNN: SGD, 8e-3, batch 32, 50 epochs.
PAPER_CNN_SETTINGS = PAPER_SETTINGS | {
    "learning_rate": 8e-3,
    "per_device_train_batch_size": 32,
    "optim": "sgd",
}


def paper_settings(model_name: str | None) -> Mapping[str, Any]:
    """The training settings of the paper for a model as named on the command line."""
    return PAPER_CNN_SETTINGS if model_name == CNN else PAPER_SETTINGS


@dataclass(frozen=True)
class GlueRun(Run):
    """A run on one of GLUE's tasks, or on texts of one's own; see `Run`."""

    task: GlueTask
    options: TextOptions = field(default_factory=TextOptions)

    def prepare(self, cache: Path) -> Prepared:
        return prepare(self.task, self.splits, self.model_name_or_path, self.options, self.args, cache)

    def texts(self, train: Dataset) -> list[list[str]]:
        return [train[name][:] for name in self.task.text_columns]

    @property
    def embeds_tokens(self) -> bool:
        # The CNN embeds each word of a batch once; a frozen encoder's layers are run once, before.
        return self.model_name_or_path != CNN and self.options.trainable_layers is None

    @property
    def paper_settings(self) -> Mapping[str, Any]:
        return paper_settings(self.model_name_or_path)

    @property
    def paper_teacher(self) -> TeacherConfig:
        return self.teacher.paper()

    @property
    def paper_note(self) -> str:
        batches = "random batches" if self.args.train_sampling_strategy == "random" else "batches of like lengths"
        return (
            f"the paper's settings; where it is silent on GLUE, linear decay after 10 % warm-up, {batches}, 128 tokens "
            "and the method's options: "
        )

    @property
    def option_search_space(self) -> Mapping[str, tuple]:
        return {"dropout": (0.1, 0.2, 0.3, 0.5)}
