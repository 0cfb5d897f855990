"""Scripts written for stock `Trainer`, with one word changed."""

import datasets
import pytest
import torch
from torch import nn
from transformers import (
    BatchEncoding,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
)

from lstsd_hf import METHODS, DistillationTerm, LSTSDConfig, LSTSDTrainer, SelfDistillationMixin, Teacher
from lstsd_hf.errors import InputError
from lstsd_hf.losses import kl_student_teacher, teacher_log_probs
from tests.helpers import assert_same_weights, make_examples, make_model, ragged_rows, tokenizer, weights


class TorchDataset(torch.utils.data.Dataset):
    """A dataset as in many scripts: items are dicts of tensors, with a column that the model does not know."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return {"input_ids": torch.tensor(row["input_ids"]), "labels": row["labels"], "text": f"row {index}"}


def collate_strings(features):
    """A custom collator that reads a column of its own."""
    assert all(feature["text"].startswith("row") for feature in features)
    return {
        "input_ids": torch.stack([feature["input_ids"] for feature in features]),
        "labels": torch.tensor([feature["labels"] for feature in features]),
    }


def collate_pairs(features):
    """A custom collator for items that are tuples."""
    return {
        "input_ids": torch.tensor([tokens for tokens, _ in features]),
        "labels": torch.tensor([label for _, label in features]),
    }


def collate_encoding(features):
    """A custom collator that returns a BatchEncoding."""
    return BatchEncoding({name: torch.tensor([row[name] for row in features]) for name in ("input_ids", "labels")})


def hub_rows():
    return datasets.Dataset.from_list([{**row, "text": "unused", "idx": 1} for row in ragged_rows()])


SCRIPTS = {
    "torch-dataset": lambda: {"train_dataset": TorchDataset(make_examples(10))},
    "torch-dataset-all-columns": lambda: {
        "train_dataset": TorchDataset(make_examples(10)),
        "data_collator": collate_strings,
        "args": {"remove_unused_columns": False},
    },
    "datasets-padding": lambda: {
        "train_dataset": hub_rows(),
        "data_collator": DataCollatorWithPadding(tokenizer()),
    },
    "datasets-processing-class": lambda: {"train_dataset": hub_rows(), "processing_class": tokenizer()},
    "datasets-all-columns": lambda: {
        "train_dataset": hub_rows().remove_columns(["text", "idx"]),
        "data_collator": DataCollatorWithPadding(tokenizer()),
        "args": {"remove_unused_columns": False},
    },
    "datasets-length-grouping": lambda: {
        "train_dataset": hub_rows().map(lambda row: {"length": len(row["input_ids"])}),
        "data_collator": DataCollatorWithPadding(tokenizer()),
        "args": {"train_sampling_strategy": "group_by_length"},
    },
    "tuples": lambda: {
        "train_dataset": [(row["input_ids"], row["labels"]) for row in make_examples(10)],
        "data_collator": collate_pairs,
        "args": {"remove_unused_columns": False},
    },
    "batch-encoding": lambda: {"train_dataset": make_examples(10), "data_collator": collate_encoding},
    "batch-of-one": lambda: {"train_dataset": make_examples(10), "args": {"per_device_train_batch_size": 1}},
    "last-batch-of-one": lambda: {"train_dataset": make_examples(9)},
    "workers": lambda: {"train_dataset": make_examples(10), "args": {"dataloader_num_workers": 2}},
    "label-smoothing": lambda: {"train_dataset": make_examples(10), "args": {"label_smoothing_factor": 0.1}},
    "torch-format": lambda: {"train_dataset": datasets.Dataset.from_list(make_examples(10)).with_format("torch")},
    "subset": lambda: {"train_dataset": torch.utils.data.Subset(make_examples(20), range(0, 20, 2))},
}


def run(trainer_class, model, make_args, script):
    options = SCRIPTS[script]()
    arguments = make_args(**{"learning_rate": 1e-2, **options.pop("args", {})})
    assert arguments.num_train_epochs == 3  # Trainer's default
    trainer = trainer_class(model=model, args=arguments, **options)
    trainer.train()
    return trainer


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_word_swap(tiny_model, make_args, script):
    stock = run(Trainer, tiny_model, make_args, script)
    trainer = run(LSTSDTrainer, tiny_model, make_args, script)
    assert trainer.state.global_step == stock.state.global_step
    assert trainer.distilled_steps == trainer.state.global_step * 2 // 3
    assert trainer.teacher.memory.coverage == 1.0
    divergences = [entry["loss_short"] for entry in trainer.state.log_history if "loss_short" in entry]
    assert max(divergences) > 0


def test_the_stored_rows_belong_to_their_examples(tiny_model, make_args):
    """With a frozen model without dropout each row must be the model's own output for that example."""
    for module in tiny_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    data = hub_rows()
    trainer = LSTSDTrainer(
        model=tiny_model,
        args=make_args(learning_rate=0.0),
        train_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer()),
    )
    trainer.train()
    expected = trainer.predict(data).predictions
    torch.testing.assert_close(trainer.teacher.memory.short_term_logits, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_ones_own_trainer_subclass(tiny_model, make_args):
    class Mine(Trainer):
        seen = 0

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            assert "example_index" not in inputs
            self.seen += 1
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            return (2 * loss, outputs) if return_outputs else 2 * loss

    class MineDistilled(SelfDistillationMixin, Mine):
        pass

    trainer = MineDistilled(model=tiny_model, args=make_args(), train_dataset=make_examples(8))
    trainer.train()
    assert trainer.seen == 6
    assert trainer.distilled_steps == 4


def test_ones_own_sampler_reads_the_training_set(tiny_model, make_args):
    class Balanced(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            labels = torch.tensor(self.train_dataset["labels"][:])
            weights = 1.0 / torch.bincount(labels)[labels]
            return torch.utils.data.WeightedRandomSampler(weights, len(self.train_dataset))

    class BalancedDistilled(SelfDistillationMixin, Balanced):
        pass

    data = datasets.Dataset.from_list(make_examples(12))
    trainer = BalancedDistilled(
        model=tiny_model, args=make_args(num_train_epochs=4, dataloader_num_workers=1), train_dataset=data
    )
    trainer.train()
    assert trainer.distilled_steps == 9
    assert 0.5 < trainer.teacher.memory.coverage <= 1.0


def test_a_model_that_returns_bare_logits(tiny_model, make_args):
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tiny_model

        def forward(self, input_ids):
            return self.model(input_ids=input_ids).logits

    trainer = LSTSDTrainer(
        model=Bare(),
        args=make_args(label_names=["labels"]),
        train_dataset=make_examples(8),
        compute_loss_func=lambda outputs, labels, num_items_in_batch=None: (
            torch.nn.functional.cross_entropy(outputs, labels, reduction="sum") / num_items_in_batch
        ),
    )
    trainer.args.remove_unused_columns = False
    trainer.train()
    assert trainer.distilled_steps == 4


def test_ones_own_teacher(tiny_model, make_args):
    class LastSeen(Teacher):
        """Distils what the model said when it last saw the example."""

        def __init__(self, weight):
            self.weight = weight

        def reset(self):
            self.logits = None

        def loss_terms(self, batch):
            if self.logits is None:
                return {}
            targets = teacher_log_probs(self.logits[batch.indices])
            return {"last_seen": DistillationTerm(kl_student_teacher(batch.student_logits, targets), self.weight)}

        def observe(self, batch):
            if self.logits is None:
                self.logits = batch.student_logits.new_zeros(self.context.num_examples, batch.student_logits.size(1))
            self.logits[batch.indices] = batch.student_logits.detach()

    trainer = LSTSDTrainer(
        model=tiny_model, args=make_args(), train_dataset=make_examples(8), teacher=LastSeen(weight=0.5)
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss_last_seen" in entry]
    assert len(logs) == 5
    assert logs[-1]["loss"] == pytest.approx(logs[-1]["loss_base"] + 0.5 * logs[-1]["loss_last_seen"])


def test_events_reach_the_teacher_in_order(tiny_model, make_args):
    class Diary(Teacher):
        def __init__(self):
            self.events = []

        def reset(self):
            self.events.append(("reset", self.context.num_examples))

        def on_train_begin(self):
            plan = self.context.plan
            self.events.append(("train_begin", plan.num_epochs, plan.steps_per_epoch, plan.max_steps))

        def on_epoch_begin(self, progress):
            self.events.append(("epoch_begin", progress.epoch))

        def loss_terms(self, batch):
            self.events.append("loss_terms")
            return {}

        def observe(self, batch):
            self.events.append("observe")

        def on_step_end(self, progress):
            self.events.append(("step_end", progress.epoch, progress.global_step))

        def on_train_end(self, progress):
            self.events.append(("train_end", progress.epoch))

    trainer = LSTSDTrainer(
        model=tiny_model,
        args=make_args(num_train_epochs=2, gradient_accumulation_steps=2, eval_strategy="epoch"),
        train_dataset=make_examples(12),
        eval_dataset=make_examples(4),
        teacher=Diary(),
    )
    trainer.train()
    micro_batch = ["loss_terms", "observe"]
    assert trainer.teacher.events == [
        ("reset", 12),
        ("train_begin", 2, 2, 4),
        ("epoch_begin", 0),
        *micro_batch * 2,
        ("step_end", 0, 1),
        *micro_batch,
        ("step_end", 0, 2),
        ("epoch_begin", 1),
        *micro_batch * 2,
        ("step_end", 1, 3),
        *micro_batch,
        ("step_end", 1, 4),
        ("train_end", 2),
    ]


def test_early_stopping_within_an_epoch_commits_what_was_seen(tiny_model, make_args):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 5

    trainer = LSTSDTrainer(model=tiny_model, args=make_args(), train_dataset=make_examples(12), callbacks=[Stop()])
    trainer.train()
    assert trainer.teacher.memory.epoch == 2
    assert trainer.teacher.memory.coverage == 1.0


def test_auto_find_batch_size_starts_with_an_empty_memory(tiny_model, make_args):
    class OutOfMemoryOnce(Trainer):
        failed = False

        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            if not self.failed and self.state.global_step == 2:
                self.failed = True
                raise RuntimeError("CUDA out of memory.")
            return loss

    class Mixed(SelfDistillationMixin, OutOfMemoryOnce):
        pass

    trainer = Mixed(model=tiny_model, args=make_args(auto_find_batch_size=True), train_dataset=make_examples(12))
    trainer.train()
    assert trainer.failed
    assert trainer.teacher.memory.epoch == 3
    assert trainer.distilled_steps == trainer.state.global_step * 2 // 3


# ---- The scripts that people have ----

WEIGHTS = torch.tensor([1.0, 3.0])


def weighted_loss(outputs, labels, num_items_in_batch=None):
    return nn.functional.cross_entropy(outputs["logits"], labels, weight=WEIGHTS)


def weighing(base):
    """The subclass of many a script: class weights, without a call of `super()`."""

    class Weighing(base):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = weighted_loss(outputs, labels)
            return (loss, outputs) if return_outputs else loss

    return Weighing


class TwoLayers(nn.Module):
    """A model without a config, whose output has a name of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(60, 8), nn.Flatten(), nn.Linear(64, 2))

    def forward(self, input_ids, labels=None):
        scores = self.layers(input_ids)
        if labels is None:
            return {"scores": scores}
        return {"loss": nn.functional.cross_entropy(scores, labels), "scores": scores}


class OneNumber(nn.Module):
    """A regression whose outputs are one-dimensional."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(60, 8), nn.Flatten(), nn.Linear(64, 1))

    def forward(self, input_ids, labels=None):
        numbers = self.layers(input_ids).squeeze(-1)
        return (numbers,) if labels is None else (nn.functional.mse_loss(numbers, labels), numbers)


class MixedIn(SelfDistillationMixin, weighing(Trainer)):
    pass


CANONICAL = {
    "class weights by subclass": (weighing(Trainer), weighing(LSTSDTrainer), make_model, {}),
    "class weights by the mixin": (weighing(Trainer), MixedIn, make_model, {}),
    "class weights by compute_loss_func": (Trainer, LSTSDTrainer, make_model, {"compute_loss_func": weighted_loss}),
    "two layers without a config": (Trainer, LSTSDTrainer, TwoLayers, {}),
    "regression in one dimension": (Trainer, LSTSDTrainer, OneNumber, {}),
}


@pytest.mark.parametrize("script", CANONICAL)
def test_canonical_scripts(make_args, script):
    """Without weight they are stock `Trainer`, bit for bit; with it they differ, and log both terms."""
    stock_class, distilling_class, make, options = CANONICAL[script]
    rows = make_examples(14)
    if make is OneNumber:
        rows = [{**row, "labels": row["input_ids"][0] / 10} for row in rows]

    def train(trainer_class, **own):
        torch.manual_seed(0)
        trainer = trainer_class(
            model=make(),
            args=make_args(eval_strategy="epoch", learning_rate=1e-2),
            train_dataset=rows,
            eval_dataset=rows,
            **options,
            **own,
        )
        trainer.train()
        return trainer

    stock = train(stock_class)
    neutral = train(distilling_class, teacher=LSTSDConfig.neutral())
    assert_same_weights(stock.model, neutral.model)
    for name in ("loss", "eval_loss"):
        logs = [[entry[name] for entry in trainer.state.log_history if name in entry] for trainer in (stock, neutral)]
        assert logs[0] == logs[1]
    distilled = train(distilling_class)
    pairs = zip(weights(stock.model).values(), weights(distilled.model).values(), strict=True)
    assert not all(torch.equal(own, other) for own, other in pairs)
    logged = {name for entry in distilled.state.log_history for name in entry}
    assert {"loss_short", "loss_long", "loss_base"} <= logged
    assert distilled.predict(rows).predictions.shape == stock.predict(rows).predictions.shape


@pytest.mark.parametrize("name", METHODS)
def test_a_method_by_its_name(tiny_model, make_args, name):
    trainer = LSTSDTrainer(model=tiny_model, args=make_args(), train_dataset=make_examples(8), teacher=name)
    assert trainer.teacher.config == METHODS[name]()


def test_a_name_that_no_method_has(tiny_model, make_args):
    with pytest.raises(InputError, match=r"`teacher` must be one of vanilla, lstsd, .*, got 'mean-teacher'\."):
        LSTSDTrainer(model=tiny_model, args=make_args(), train_dataset=make_examples(8), teacher="mean-teacher")
