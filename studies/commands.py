"""Commands of the protocol: what a cell is made of."""

import itertools
from dataclasses import dataclass

RATES = (0.2, 0.0, 0.4)
NOISY_RATES = (0.2, 0.4)
TASKS = ("sst2", "mrpc", "cola")
CNN_TASKS = ("mrpc", "rte", "cola", "sst2")
TWO, FIVE, TEN = range(1, 3), range(1, 6), range(1, 11)
MATCHED = "--temporal_ensemble.consistency_weight 6.4"
MLP = "--model_name_or_path minilm --trainable_layers 0 --per_device_train_batch_size 32"
RANDOM = " --train_sampling_strategy random"
CNN = f"--model_name_or_path cnn --bf16 True --use_cpu True{RANDOM}"
SLICES = "runs/slices"
L3 = "--model_name_or_path minilm-l3 --learning_rate 1e-4 --per_device_train_batch_size 16 --bf16 True --use_cpu True"
L3 += " --train_sampling_strategy group_by_length"
SHORT_MINILM = "--model_name_or_path minilm --learning_rate 5e-5 --per_device_train_batch_size 32"
SHORT_MINILM += " --num_train_epochs 3 --bf16 True --use_cpu True --train_sampling_strategy group_by_length"
LSTSD_DEFAULTS = "lstsd --lambda_short 1 --lambda_long 1 --teacher_floor 1e-4"
L3_DEFAULTS = f"{LSTSD_DEFAULTS} --mini_generation_epochs 2"
CNN_RATES, FITTED_LOSS = (0.03, 0.1, 0.3, 1.0), 0.1


# Fashion-MNIST lies in runs/fashion-mnist, or where Debian's package installs it: the same files are the same data.
IMAGES = "--data runs/fashion-mnist --max_train_samples 10000 --model_name_or_path resnet20 --bf16 True --use_cpu True"
IMAGES += " --per_device_eval_batch_size 500"

# What is no plain `--task`. The slices of SST-2 have no more rows; studies/trec.py writes TREC's files.
DATA = {
    "sst2": "--task sst2 --max_train_samples 5000",
    "trec": "--train_file runs/trec/train.csv --validation_file runs/trec/validation.csv",
}


class NotYetError(Exception):
    """A cell starts from what other cells found, and that is not among the records."""


@dataclass(frozen=True)
class Command:
    """A command whose runs go to the folder of a file of records.

    Attributes:
        records: Name of the file.
        task: Task.
        settings: Options of model and training.
        methods: Methods, and their options.
        seeds: Seeds.
        rate: Share of replaced labels.
        script: The command.
    """

    records: str
    task: str
    settings: str
    methods: str
    seeds: range
    rate: float = 0.0
    script: str = "run_glue.py"

    def __str__(self) -> str:
        data = DATA.get(self.task, f"--task {self.task}")
        noise = f" --label_noise {self.rate}" if self.rate else ""
        return (
            f"python {self.script} {data}{noise} {self.settings} --method {self.methods} "
            f"--seeds {' '.join(map(str, self.seeds))} --output_dir runs/{self.records} --cache_dir runs/.cache "
            "--save_strategy no"
        )

    @property
    def runs(self) -> int:
        """How many."""
        names = itertools.takewhile(lambda word: not word.startswith("--"), self.methods.split())
        return len(list(names)) * len(self.seeds)
