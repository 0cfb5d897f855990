#!/usr/bin/env python
"""Time of a training step of every method against stock `Trainer`, at the shape of BERT-base.

    python benchmarks/gpu/step_overhead.py --json overhead.json

All methods take turns in every round, so that a change of the machine's speed meets all of them. A block is three
epochs, of which the last two are timed, transitions included: in the first one nothing distils. The weights are random,
which changes no time. A profiler then counts what makes the host wait for the device.
"""

import argparse
import collections
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lstsd_hf import METHODS, LSTSDTrainer
from lstsd_hf.runner.results import device_name, package_versions

STOCK = "stock Trainer"
EPOCHS, LENGTH = 3, 128
PERIODS = {"mini_generation_epochs": 1, "cycle_epochs": 1, "rampup_epochs": 0.0}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")


class Stopwatch(TrainerCallback):
    """Times the epochs after the first one."""

    def on_epoch_end(self, args, state, control, **kwargs):
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        if round(state.epoch) == 1:
            self.start = time.perf_counter()
        self.end = time.perf_counter()


def train(name: str, model, data: list[dict], options: argparse.Namespace) -> float:
    """Milliseconds of a step."""
    teacher = {}
    if name != STOCK:
        config_class = METHODS[name]
        teacher["teacher"] = config_class(
            **{k: v for k, v in PERIODS.items() if k in config_class.__dataclass_fields__}
        )
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=options.batch_size,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to=[],
        )
        trainer_class = Trainer if name == STOCK else LSTSDTrainer
        trainer = trainer_class(model=model, args=args, train_dataset=data, callbacks=[stopwatch], **teacher)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return 1e3 * (stopwatch.end - stopwatch.start) / ((EPOCHS - 1) * options.steps)


def waits(name: str, model, data: list[dict], options: argparse.Namespace) -> dict[str, float]:
    """What makes the host wait, for each step."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        train(name, model, data, options)
    counts = collections.Counter(event.name for event in profiler.events())
    return {event: counts[event] / (EPOCHS * options.steps) for event in WAITS}


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each method")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps in an epoch")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=options.layers))
    tokens = torch.randint(1000, 20000, (options.steps * options.batch_size, LENGTH))
    data = [{"input_ids": row, "labels": index % 2} for index, row in enumerate(tokens)]
    names = [STOCK, *(name for name, config in METHODS.items() if config().is_self_taught)]
    train(STOCK, model, data, options)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            times[name].append(train(name, model, data, options))
    figures = {}
    print("| method | ms a step | × stock, median of rounds | range |\n|---|---|---|---|")
    for name in names:
        ratios = [own / stock for own, stock in zip(times[name], times[STOCK], strict=True)]
        figures[name] = {"ms": times[name], "ratio": statistics.median(ratios), "range": [min(ratios), max(ratios)]}
        median, (low, high) = statistics.median(times[name]), figures[name]["range"]
        print(f"| {name} | {median:.2f} | {figures[name]['ratio']:.3f} | {low:.3f}–{high:.3f} |", flush=True)
    # It does not depend on the number of layers.
    shallow = BertForSequenceClassification(BertConfig(num_hidden_layers=1))
    for name in (STOCK, "lstsd"):
        figures[name]["waits_per_step"] = waits(name, shallow, data, options)
        print(name, figures[name]["waits_per_step"], flush=True)
    settings = {"layers": options.layers, "batch_size": options.batch_size, "tokens": LENGTH, "steps": options.steps}
    content = {"figures": figures, "settings": settings | {"precision": "bf16 autocast", "epochs": EPOCHS}}
    content |= {"device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))}
    options.json.write_text(json.dumps(content | {"versions": package_versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
