"""Trains with LSTSD on 10⁸ examples: `python -m benchmarks.many_examples`. A few minutes; prints JSON.

The examples are numbers, of which the collator makes eight features and a label: synthetic data. A linear model is
trained on them for two epochs of 200 steps each, the second of which distils, in processes of their own: with
stock `Trainer`, and with `LSTSDTrainer` for each storage. Peak memory is that of the whole process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from lstsd_hf import LSTSDConfig, LSTSDTrainer

from .measuring import hardware

STORAGES = ("fp32", "bf16", "disk", "disk,bf16")
STEPS_IN_AN_EPOCH = 200


class Numbers(Dataset):
    """Examples that are their own index."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices


def collate(numbers: list[int]) -> dict[str, torch.Tensor]:
    """Eight bits of each number as features, and a label that mostly follows from them."""
    index = torch.tensor(numbers)
    hashed = index * 2654435761 % 2**32
    bits = (hashed[:, None] >> torch.arange(8)) & 1
    is_noisy = (hashed >> 20) % 10 == 0
    return {"features": bits.float(), "labels": (bits.sum(dim=1) > 4).long() ^ is_noisy.long()}


class Linear(nn.Module):
    """A linear classifier."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, features, labels=None):
        logits = self.layer(features)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def run(count: int, storage: str | None) -> dict:
    """One training in this process."""
    torch.manual_seed(0)
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=2,
        per_device_train_batch_size=count // STEPS_IN_AN_EPOCH,
        learning_rate=1e-2,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_strategy="epoch",
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
    )
    options = {"model": Linear(), "args": args, "train_dataset": Numbers(count), "data_collator": collate}
    if storage is None:
        trainer = Trainer(**options)
    else:
        config = LSTSDConfig(mini_generation_epochs=1)
        trainer = LSTSDTrainer(**options, teacher=config, memory_storage=storage)
    started = time.perf_counter()
    trainer.train()
    result = {"seconds": time.perf_counter() - started, "loss": trainer.state.log_history[-2]["loss"]}
    if storage is not None:
        result |= {"distilled_steps": trainer.distilled_steps, "coverage": trainer.teacher.memory.coverage}
    return result | {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=10**8)
    parser.add_argument("--storages", nargs="*", default=STORAGES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print("\n" + json.dumps(run(options.examples, None if options.one == "stock" else options.one)))
        return
    figures = {}
    for name in ("stock", *options.storages):
        command = [sys.executable, "-m", "benchmarks.many_examples", "--examples", str(options.examples), "--one", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures[name] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps({"examples": options.examples, "figures": figures, "hardware": hardware()}, indent=2))


if __name__ == "__main__":
    main()
