"""What each method holds in memory and how often it runs the model: `python benchmarks/method_costs.py`.

Trains the MiniLM encoder on generated data with every method and counts, per example and epoch, the forward passes
beyond plain fine-tuning's one, with and without gradient; and the bytes that the teacher holds in memory and on disk.
"""

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from lstsd_hf import METHODS, ConstantMemory, LSTSDTrainer
from lstsd_hf.fixed_teacher import FixedTeacher
from lstsd_hf.glue.models import resolve_model
from lstsd_hf.glue.synthetic import generate_sentences
from lstsd_hf.runner.results import package_versions

EXAMPLES, EPOCHS, BATCH = 64, 4, 16
PERIODS = {"mini_generation_epochs": 1, "cycle_epochs": 1, "rampup_epochs": 0.0, "interval_epochs": 1, "patience": 1}


class Peak(TrainerCallback):
    """The most bytes of tensors that the teacher's state has had after a step."""

    def __init__(self):
        self.trainer, self.bytes = None, 0

    def on_step_end(self, args, state, control, **kwargs):
        tensors = [value for value in self.trainer.teacher.state_dict().values() if torch.is_tensor(value)]
        if isinstance(self.trainer.teacher.memory, ConstantMemory):  # which checkpoints do not hold
            tensors += self.trainer.teacher.memory.tables()
        self.bytes = max(self.bytes, sum(value.numel() * value.element_size() for value in tensors))


def counted(inputs_of: Callable, passes: dict[str, int]) -> Callable:
    """What gives a fixed teacher its inputs, counting the rows that it is run on."""

    def spy(teacher: FixedTeacher, inputs, indices):
        passes["no gradient"] += len(indices)
        return inputs_of(teacher, inputs, indices)

    return spy


def measure(name: str) -> dict:
    config_class = METHODS[name]
    options = {key: value for key, value in PERIODS.items() if key in config_class.__dataclass_fields__}
    checkpoint = resolve_model("minilm")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2)
    data = Dataset.from_list(generate_sentences(EXAMPLES, 1)["train"])
    data = data.map(lambda rows: tokenizer(rows["sentence"]), batched=True, remove_columns="sentence")
    passes = {"gradient": 0, "no gradient": 0}

    def count(module, args, kwargs):
        passes["gradient" if torch.is_grad_enabled() else "no gradient"] += len(kwargs["input_ids"])

    model.register_forward_pre_hook(count, with_kwargs=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        if not config_class().is_self_taught:
            options["teacher_model_name_or_path"] = f"{folder}/teacher"
            model.save_pretrained(f"{folder}/teacher")
            tokenizer.save_pretrained(f"{folder}/teacher")
        args = TrainingArguments(
            output_dir=folder,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            report_to=[],
        )
        peak = Peak()
        trainer = LSTSDTrainer(
            model=model,
            args=args,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[peak],
            teacher=config_class(**options),
        )
        peak.trainer, trainer.cache_dir = trainer, Path(folder, "cache")
        with patch.object(FixedTeacher, "_inputs", counted(FixedTeacher._inputs, passes)):
            trainer.train()
        written = [path for path in Path(folder).rglob("*.safetensors") if path.parent.name != "teacher"]
        on_disk = sum(path.stat().st_size for path in written)
    drawn = EXAMPLES * EPOCHS
    return {
        "passes_with_gradient": passes["gradient"] / drawn - 1,
        "passes_without_gradient": passes["no gradient"] / drawn,
        "bytes_in_memory": peak.bytes,
        "bytes_on_disk": on_disk,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    figures = {name: measure(name) for name in METHODS}
    print(f"MiniLM, {EXAMPLES} examples, {EPOCHS} epochs, batch {BATCH}, 2 labels, periods of one epoch")
    print("| method | extra passes with gradient | without gradient | memory (kB) | disk (kB) |")
    print("|---|---|---|---|---|")
    for name, item in figures.items():
        print(
            f"| {name} | {item['passes_with_gradient']:.2f} | {item['passes_without_gradient']:.2f} "
            f"| {item['bytes_in_memory'] / 1000:,.1f} | {item['bytes_on_disk'] / 1000:,.1f} |"
        )
    if options.json:
        content = {"figures": figures, "versions": package_versions()}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
