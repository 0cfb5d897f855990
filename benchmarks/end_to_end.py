"""`run_glue.py` against the defaults of Hugging Face's text-classification example: fp32, padding to 128 tokens.

Both train MiniLM on a GLUE task at batch 32, for the same few steps of an epoch, in turns. The ratio is of examples a
second. `run_glue.py` trains plainly: a method that distils begins to do so in a later epoch (`overhead` has its price).
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from lstsd_hf.glue.cli import COMMAND
from lstsd_hf.glue.data import load_task
from lstsd_hf.glue.models import resolve_model
from lstsd_hf.glue.tasks import get_task
from lstsd_hf.runner.trainer import RunTrainer

from .measuring import ratio_of

TASKS = ("rte", "mrpc", "cola")
MODEL, BATCH_SIZE, LENGTH = "minilm", 32, 128
# How `run_glue.py` is asked to run.
WAYS = {
    "random batches": ["--train_sampling_strategy", "random"],
    "defaults": [],
    "bf16": ["--bf16", "True"],
}


class Clock(TrainerCallback):
    """Seconds from the end of the first step to that of the last."""

    def on_step_end(self, args, state, control, **kwargs):
        self.last = time.perf_counter()
        if state.global_step == 1:
            self.first = self.last

    @property
    def seconds(self) -> float:
        return self.last - self.first


def measure(quick: bool) -> list[dict[str, Any]]:
    """A row for each task and way; nothing without GLUE's files in `GLUE_DIR`."""
    if "GLUE_DIR" not in os.environ:
        return []
    transformers.logging.set_verbosity_error()
    steps, rounds = (3, 2) if quick else (10, 3)
    rows = []
    for task in TASKS[:1] if quick else TASKS:
        pairs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            example = _example_seconds(task, steps)
            for way, options in WAYS.items():
                # How many times as many examples a second.
                pairs[way].append((example, _our_seconds(task, options, steps)))
        rows += [{"task": task, "way": way, "examples_a_second": ratio_of(found)} for way, found in pairs.items()]
    return rows


def _our_seconds(task: str, options: list[str], steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("--task", task, "--method", "vanilla", "--model_name_or_path", MODEL, "--max_steps", str(steps)),
            *("--per_device_train_batch_size", str(BATCH_SIZE), "--output_dir", folder, "--save_strategy", "no"),
            *("--eval_strategy", "no", "--use_cpu", str(not torch.cuda.is_available()), *options),
        ]
        clock = Clock()
        as_run_glue(command, Path(folder), clock).train()
        return clock.seconds


def as_run_glue(command: list[str], folder: Path, callback: TrainerCallback) -> RunTrainer:
    """The trainer of a command of `run_glue.py`, without scores and files of the run.

    Args:
        command: The command line.
        folder: For everything that training leaves.
        callback: One more callback.
    """
    run = COMMAND.plan(COMMAND.parse(command))[0].run
    run.args.output_dir = str(folder)
    transformers.set_seed(run.args.seed)
    prepared = run.prepare(folder / "cache")
    return RunTrainer(
        model=prepared.model,
        args=run.args,
        train_dataset=prepared.splits["train"],
        callbacks=[callback],
        teacher=run.taught,
        texts=None,
        **prepared.trainer_options,
    )


def _example_seconds(task: str, steps: int) -> float:
    checkpoint, columns = resolve_model(MODEL), get_task(task).text_columns
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    train = load_task(get_task(task), os.environ["GLUE_DIR"])["train"]
    encoded = tokenizer(
        *(list(train[name]) for name in columns), padding="max_length", max_length=LENGTH, truncation=True
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2),
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=BATCH_SIZE,
                save_strategy="no",
                disable_tqdm=True,
                report_to=[],
            ),
            train_dataset=Dataset.from_dict({**encoded, "labels": train["label"]}),
            callbacks=[clock],
        ).train()
    return clock.seconds
