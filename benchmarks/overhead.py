"""Time that a method adds to a training step, measured in one run against the same trainer without it.

    python -m benchmarks.overhead                      # CPU, or the GPU if there is one
    python -m benchmarks.overhead --method anchored    # another method instead of LSTSD
    python -m benchmarks.overhead --dynamics           # what recording each epoch adds
    python -m benchmarks.overhead --shape bert-base    # the step of a 12×768 encoder instead of MiniLM's

Two trainers with a stub model (an embedding row for each example, so that the model costs next to nothing) take turns
in short blocks of distilling steps: stock `Trainer` and `LSTSDTrainer` with both terms. The difference of the block
times is what LSTSD adds: collating the indices, reading two tables, two divergences and their gradient, staging. Beside
it stands the step time of a real encoder. On a GPU
`torch.cuda.set_sync_debug_mode` counts the synchronisations of both.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from lstsd_hf import METHODS, AnchoredConfig, LSTSDConfig, LSTSDTrainer, TeacherConfig
from lstsd_hf.glue.models import resolve_model

from .measuring import ratio_of


class Measured(NamedTuple):
    """A method, and a run so long that most of its steps after the first epoch distil."""

    teacher: TeacherConfig
    epochs: int


MEASURED = {
    "lstsd": Measured(LSTSDConfig(mini_generation_epochs=1), 3),
    "anchored": Measured(AnchoredConfig(patience=1), 9),
}


# They look at hidden states.
NOT_WITH_A_STUB = ("tskd",)


class Stub(nn.Module):
    """A classifier whose forward and backward cost next to nothing."""

    def __init__(self, num_labels: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_labels))

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.logits + input_ids[:, :1] * 1e-3
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Clock(TrainerCallback):
    """Notes the time after each optimizer step and pauses training after the last one of a block."""

    def __init__(self, device: torch.device):
        self.device = device
        self.times: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def rows(count: int, length: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 20000, (count, length), generator=generator)
    return [{"input_ids": row, "labels": index % 2} for index, row in enumerate(tokens)]


def train(trainer_class, model, data, args, *, epochs: int, **options) -> list[float]:
    """Seconds of each step after the first epoch, in which nothing distils yet."""
    trainer = trainer_class(
        model=model,
        args=TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            num_train_epochs=epochs,
            per_device_train_batch_size=args.batch_size,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to=[],
            bf16=args.bf16,
            use_cpu=args.cpu,
            dataloader_pin_memory=False,
        ),
        train_dataset=data,
        **options,
    )
    clock = Clock(trainer.args.device)
    trainer.add_callback(clock)
    trainer.train()
    per_epoch = len(data) // args.batch_size
    steps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    # A step that follows an epoch's end includes the transition, which is part of the price; the first epoch is not.
    return steps[per_epoch - 1 :]


def synchronisations(trainer_class, data, args, **options) -> int | None:
    """Device synchronisations in two epochs of the stub, or `None` on a CPU."""
    if args.cpu:
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(trainer_class, Stub(2), data, args, epochs=2, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(item.message) for item in caught)


def real_model(shape: str):
    if shape == "bert-base":
        return BertForSequenceClassification(BertConfig())
    return BertForSequenceClassification.from_pretrained(resolve_model("minilm"), dtype=torch.float32)


# So short that most steps of a short run distil.
SHORT = {
    **{"mini_generation_epochs": 1, "cycle_epochs": 1, "rampup_epochs": 0.0, "interval_epochs": 1, "patience": 1},
    "start_epoch": 1,
}


def measure(quick: bool) -> list[dict[str, Any]]:
    """A row for each method that needs no other model: what it adds to a step of a model that does next to nothing."""
    args = argparse.Namespace(batch_size=32, bf16=False, cpu=not torch.cuda.is_available())
    blocks, data = (2, rows(20 * 32, 8)) if quick else (7, rows(100 * 32, 8))
    measured = []
    for name, config_class in METHODS.items():
        fields = config_class.__dataclass_fields__
        config = config_class(**{key: value for key, value in SHORT.items() if key in fields})
        if not config.is_self_taught or name in NOT_WITH_A_STUB:
            continue
        pairs = [
            (_median_step(LSTSDTrainer, data, args, teacher=config), _median_step(Trainer, data, args))
            for _ in range(blocks)
        ]
        added = [1e3 * (ours - stock) for ours, stock in pairs]
        low, middle, high = statistics.quantiles(added, n=4)
        measured.append({"method": name, "stub_step": ratio_of(pairs), "added_ms": middle, "quartiles": [low, high]})
    return measured


def _median_step(trainer_class, data, args, **options) -> float:
    return statistics.median(train(trainer_class, Stub(2), data, args, epochs=6, **options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=15, help="turns of each trainer")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps in an epoch of a block")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shape", choices=["minilm", "bert-base"], default="minilm")
    parser.add_argument("--length", type=int, default=128, help="tokens of the real encoder's inputs")
    parser.add_argument("--real-steps", type=int, default=6, help="steps of the real encoder in an epoch")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--method", choices=list(MEASURED), default="lstsd")
    parser.add_argument("--dynamics", action="store_true", help="recording of each epoch instead of a method")
    args = parser.parse_args()
    args.cpu = not torch.cuda.is_available()
    distilled, epochs = {"teacher": MEASURED[args.method].teacher}, MEASURED[args.method].epochs
    if args.dynamics:
        distilled = {"teacher": "vanilla", "record_dynamics": True}
    stub_data = rows(args.steps * args.batch_size, 8)

    differences, stock_steps, our_steps = [], [], []
    for _ in range(args.blocks):
        stock = statistics.median(train(Trainer, Stub(2), stub_data, args, epochs=epochs))
        ours = statistics.median(train(LSTSDTrainer, Stub(2), stub_data, args, epochs=epochs, **distilled))
        stock_steps.append(1e3 * stock)
        our_steps.append(1e3 * ours)
        differences.append(1e3 * (ours - stock))

    real_data = rows(args.real_steps * args.batch_size, args.length)
    real = {
        name: 1e3
        * statistics.median(train(trainer_class, real_model(args.shape), real_data, args, epochs=epochs, **options))
        for name, trainer_class, options in (("stock", Trainer, {}), (args.method, LSTSDTrainer, distilled))
    }
    quartiles = statistics.quantiles(differences, n=4)
    added = statistics.median(differences)
    print(
        json.dumps(
            {
                "added_ms_per_step": {"median": added, "quartile_1": quartiles[0], "quartile_3": quartiles[2]},
                "stub_ms_per_step": {
                    "stock": statistics.median(stock_steps),
                    args.method: statistics.median(our_steps),
                },
                "encoder_ms_per_step": real,
                "added_over_encoder_step": added / real["stock"],
                "synchronisations_in_two_epochs": {
                    "stock": synchronisations(Trainer, stub_data, args),
                    args.method: synchronisations(LSTSDTrainer, stub_data, args, **distilled),
                },
                "shape": args.shape,
                "batch_size": args.batch_size,
                "tokens": args.length,
                "precision": "bf16" if args.bf16 else "fp32",
                "device": platform.processor() or platform.machine() if args.cpu else torch.cuda.get_device_name(),
                "threads": torch.get_num_threads(),
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
