"""What scripts of one's own do around a trainer, found by using it as an outsider would."""

import copy
import dataclasses
import datetime
import decimal
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset
from transformers import Trainer, TrainerCallback, get_cosine_schedule_with_warmup

from lstsd_hf import (
    LSTSDConfig,
    LSTSDTrainer,
    NoTeacherConfig,
    SelfDistillationMixin,
    SnapshotEnsembleConfig,
    TSKDConfig,
)
from lstsd_hf.errors import InputError
from lstsd_hf.example_index import take_rows
from lstsd_hf.fingerprint import rows_digest
from tests.helpers import VOCABULARY, active, assert_same_weights, make_examples, make_model, make_trainer, weights

# ---- Overrides ----


class ReturnsNothing(Trainer):
    """Trainer does not look at what is returned."""

    def create_optimizer(self, *args, **kwargs):
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)


class Distilled(SelfDistillationMixin, ReturnsNothing):
    pass


class MakesOwn(LSTSDTrainer):
    """Calls no `super()`."""

    def create_optimizer(self, *args, **kwargs):
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        self.lr_scheduler = get_cosine_schedule_with_warmup(optimizer or self.optimizer, 0, num_training_steps)
        return self.lr_scheduler


def test_an_optimizer_that_is_set_and_not_returned(make_args):
    plain = make_trainer(make_args, trainer_class=ReturnsNothing)
    plain.train()
    for teacher in (NoTeacherConfig(), LSTSDConfig.neutral()):
        trainer = make_trainer(make_args, teacher, Distilled)
        trainer.train()
        assert_same_weights(plain.model, trainer.model)


class CallsSuper(LSTSDTrainer):
    """Makes an optimizer, and lets the parent have a look."""

    def create_optimizer(self, *args, **kwargs):
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        return super().create_optimizer(*args, **kwargs)


def test_a_methods_own_parameters_reach_the_optimizer_or_the_run_is_refused(make_args):
    config = TSKDConfig(teacher_free=True, interval_epochs=1)
    trainer = make_trainer(make_args, config, CallsSuper)
    trainer.train()
    trained = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    own = trainer.teacher.trainable_parameters()
    assert own
    assert {id(parameter) for parameter in own} <= trained
    with pytest.raises(InputError, match="got a `create_optimizer` of MakesOwn that leaves them out"):
        make_trainer(make_args, config, MakesOwn).train()


def test_another_schedule_than_the_methods_is_refused(make_args):
    trainer = make_trainer(make_args, SnapshotEnsembleConfig(cycle_epochs=2), MakesOwn)
    before = weights(trainer.model)
    with pytest.raises(InputError, match="sets the learning rate itself, got a `create_scheduler` of MakesOwn"):
        trainer.train()
    assert_same_weights(before, trainer.model)
    make_trainer(make_args, LSTSDConfig(mini_generation_epochs=2), MakesOwn).train()
    twice = make_trainer(make_args, SnapshotEnsembleConfig(cycle_epochs=2))
    for _ in range(2):
        twice.train()


def test_a_shallow_copy_makes_a_scheduler_of_its_own(make_args):
    """As transformers' DeepSpeed integration does, in the middle of a training."""
    made = []

    class Copies(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            other = copy.copy(trainer)
            other.lr_scheduler, other.optimizer = None, torch.optim.SGD(trainer.model.parameters(), lr=1.0)
            made.append(other.create_scheduler(num_training_steps=8, optimizer=other.optimizer))

    trainer = make_trainer(make_args, SnapshotEnsembleConfig(cycle_epochs=2), callbacks=[Copies()], num_train_epochs=3)
    trainer.train()
    assert made
    assert all(scheduler.optimizer is not trainer.optimizer for scheduler in made)


def test_a_trainer_that_asks_for_the_type_of_its_dataset_says_why_it_cannot(make_args):
    class Asks(Trainer):
        def get_train_dataloader(self):
            if not isinstance(self.train_dataset, list):
                raise ValueError("Unsupported `train_dataset` type.")
            return super().get_train_dataloader()

    class Both(SelfDistillationMixin, Asks):
        pass

    make_trainer(make_args, NoTeacherConfig(), Both).train()
    with pytest.raises(ValueError, match="Unsupported") as error:
        make_trainer(make_args, LSTSDConfig(), Both).train()
    assert "adds each example's index to the list given" in error.value.__notes__[0]


def test_the_count_of_items_may_come_by_position(make_args):
    class Positional(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            model.train()
            loss = self.compute_loss(model, self._prepare_inputs(inputs), False, num_items_in_batch)
            self.accelerator.backward(loss)
            return loss.detach()

    class Both(SelfDistillationMixin, Positional):
        pass

    plain = make_trainer(make_args, trainer_class=Positional, gradient_accumulation_steps=2)
    plain.train()
    trainer = make_trainer(make_args, LSTSDConfig.neutral(), Both, gradient_accumulation_steps=2)
    trainer.train()
    assert_same_weights(plain.model, trainer.model)


# ---- Batches ----


def test_rows_are_taken_of_everything_that_has_one_for_each_example():
    batch = {
        "input_ids": torch.arange(6).view(3, 2),
        "weights": [0.1, 0.2, 0.3],
        "second": {"input_ids": torch.arange(3), "texts": ["a", "b", "c"]},
        "table": torch.zeros(5, 2),
        "temperature": 2.0,
        "pair": [torch.arange(3), torch.arange(3) + 10],
        "size": (224, 224, 3),
    }
    found = take_rows(batch, torch.tensor([2, 0]), 3)
    assert found["input_ids"].tolist() == [[4, 5], [0, 1]]
    assert found["weights"] == [0.3, 0.1]
    assert found["second"]["input_ids"].tolist() == [2, 0]
    assert found["second"]["texts"] == ["c", "a"]
    assert [part.tolist() for part in found["pair"]] == [[2, 0], [12, 10]]
    assert found["size"] == (224, 224, 3)
    assert found["table"].shape == (5, 2)
    assert found["temperature"] == 2.0


class TwoTexts(nn.Module):
    """Takes a mapping of inputs for each of two texts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.classifier = nn.Embedding(VOCABULARY, 8), nn.Linear(16, 2)

    def forward(self, first, second, labels=None):
        states = [self.embedding(text["input_ids"]).mean(1) for text in (first, second)]
        logits = self.classifier(torch.cat(states, dim=1))
        return {"logits": logits} | ({} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)})


@pytest.mark.parametrize("method", ["lstsd", "dlb", "self_regulated", "r_drop", "mean_teacher"])
def test_nested_inputs(make_args, method):
    def collate(rows):
        tokens = torch.tensor([row["input_ids"] for row in rows])
        labels = torch.tensor([row["labels"] for row in rows])
        return {"first": {"input_ids": tokens}, "second": {"input_ids": tokens.flip(1)}, "labels": labels}

    options = {"data_collator": collate, "remove_unused_columns": False, "save_strategy": "steps", "save_steps": 5}
    trainer = make_trainer(make_args, method, model=TwoTexts(), **options)
    trainer.train()
    if method == "dlb":
        assert trainer.distilled_steps == trainer.state.global_step - 1
        again = make_trainer(make_args, method, model=TwoTexts(), **options)
        again.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-5")
        assert_same_weights(trainer.model, again.model)


# ---- Life with a trainer ----


def test_what_a_search_found_is_trained_with(make_args):
    pytest.importorskip("optuna")
    tried = []

    class Counted(LSTSDTrainer):
        def train(self, *args, **kwargs):
            output = super().train(*args, **kwargs)
            tried.append(self.teacher.config.lambda_short)
            return output

    trainer = Counted(
        model_init=lambda trial=None: make_model(),
        args=make_args(num_train_epochs=2, eval_strategy="epoch"),
        train_dataset=make_examples(8),
        eval_dataset=make_examples(6, seed=1),
        teacher=LSTSDConfig(mini_generation_epochs=1),
    )

    def search():
        return trainer.hyperparameter_search(
            hp_space=lambda trial: {"lambda_short": trial.suggest_float("lambda_short", 0.5, 2.0)},
            compute_objective=lambda metrics: -len(tried),  # the first trial is the best
            n_trials=2,
            direction="maximize",
            backend="optuna",
        )

    trainer.args.temperature = 7.0  # of the user's own, not the method's
    best = search()
    for name, value in best.hyperparameters.items():
        setattr(trainer.args, name, value)
    for _ in range(2):
        trainer.train()
    assert tried[2] == tried[3] == best.hyperparameters["lambda_short"] == tried[0] != tried[1]
    search()
    assert len(set(tried[4:])) == 2
    assert (trainer.args.temperature, trainer.teacher.config.temperature) == (7.0, 1.0)


def test_a_run_that_ends_before_it_distils_says_so(make_args, caplog):
    class Stops(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.epoch >= self.last

    for last, is_said in ((2, True), (3, False)):
        stops = Stops()
        stops.last = last
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="lstsd_hf"):
            trainer = make_trainer(make_args, LSTSDConfig(mini_generation_epochs=2), callbacks=[stops])
            trainer.train()
        assert ("Training ended in epoch 2, and distillation begins in epoch 3" in caplog.text) is is_said
        assert (trainer.distilled_steps == 0) is is_said


def test_two_recorded_runs_in_one_folder_are_told_apart(make_args, tmp_path):
    def recorded(seed):
        trainer = make_trainer(
            make_args,
            "vanilla",
            train_dataset=make_examples(14, seed=seed),
            record_dynamics=True,
            output_dir=str(tmp_path),
        )
        trainer.train()
        return trainer

    first = recorded(0)
    assert len(first.rank_label_errors()) == 14
    second = recorded(1)
    with pytest.raises(
        InputError, match=r"epoch-0001\.parquet is another run's, or damaged\. Give each trainer an `output"
    ):
        first.rank_label_errors()
    assert len(second.rank_label_errors()) == 14


def test_parameters_that_thaw_after_a_snapshot_are_found_in_training(make_args):
    class Thaws(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            model.bert.requires_grad_(False)

        def on_epoch_begin(self, args, state, control, model=None, **kwargs):
            model.bert.requires_grad_(bool(state.epoch and state.epoch >= 2))

    trainer = make_trainer(make_args, SnapshotEnsembleConfig(cycle_epochs=2), callbacks=[Thaws()])
    with pytest.raises(InputError, match="A snapshot must hold all parameters that are trained"):
        trainer.train()
    assert trainer.state.epoch < 4


def test_the_card_has_the_options_as_they_came_out(make_args, tmp_path):
    trainer = make_trainer(make_args, LSTSDConfig(), output_dir=str(tmp_path))
    trainer.train()
    trainer.create_model_card()
    assert "- mini_generation_epochs: 2\n" in (tmp_path / "README.md").read_text()


def test_numbers_of_numpy_are_options(make_args):
    config = LSTSDConfig(mini_generation_epochs=np.int64(2), lambda_short=np.float32(0.5))
    assert config == LSTSDConfig(mini_generation_epochs=2, lambda_short=0.5)
    assert [type(value) for value in (config.mini_generation_epochs, config.lambda_short)] == [int, float]
    make_trainer(make_args, config, save_strategy="epoch").train()


# ---- Resuming ----

TOKENS = torch.tensor([row["input_ids"] for row in make_examples(14)])
LABELS = torch.tensor([row["labels"] for row in make_examples(14)])


def collate_pairs(rows):
    return {"input_ids": torch.stack([row[0] for row in rows]), "labels": torch.stack([row[1] for row in rows])}


def other_texts(rows):
    return [{**row, "input_ids": row["input_ids"][::-1]} for row in rows]


@pytest.mark.parametrize(
    ("data", "other", "options"),
    [
        pytest.param(make_examples(14), other_texts(make_examples(14)), {}, id="list"),
        pytest.param(
            TensorDataset(TOKENS, LABELS),
            TensorDataset(TOKENS, 1 - LABELS),
            {"data_collator": collate_pairs},
            id="tensors",
        ),
        pytest.param(
            list(zip(TOKENS, LABELS, strict=True)),
            list(zip(TOKENS.flip(0), LABELS.flip(0), strict=True)),
            {"data_collator": collate_pairs},
            id="tuples",
        ),
        pytest.param(
            Subset(make_examples(16), range(14)),
            Subset(other_texts(make_examples(16)), range(14)),
            {},
            id="subset",
        ),
        pytest.param(
            Subset(make_examples(16), range(14)), Subset(make_examples(16), [*range(13), 15]), {}, id="other-rows"
        ),
    ],
)
def test_other_rows_are_refused(make_args, tmp_path, data, other, options):
    options |= {"output_dir": str(tmp_path), "save_strategy": "epoch", "num_train_epochs": 4}
    config = LSTSDConfig(mini_generation_epochs=2)
    make_trainer(make_args, config, train_dataset=data, **options).train()
    checkpoint = str(tmp_path / "checkpoint-8")
    make_trainer(make_args, config, train_dataset=data, **options).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(InputError, match=r"`(rows|labels)_sha256` must be what it was"):
        make_trainer(make_args, config, train_dataset=other, **options).train(resume_from_checkpoint=checkpoint)


@dataclasses.dataclass
class Features:
    input_ids: list
    label: int


def test_rows_of_any_content_have_a_digest():
    contents = [torch.ones(2), torch.ones(2).half(), torch.ones(2).bfloat16(), torch.ones(2, 1), torch.ones(1, 2)]
    contents += [
        np.ones(2),
        np.ones((1, 2)),
        np.float32(1),
        np.float64(1),
        np.datetime64("2020-01-01"),
        "1",
        1,
        1.0,
        True,
    ]
    contents += [None, b"1", b"2", {1}, {2}, (1,), [1], [[1]], {1: 2}, {"1": 2}, {(1, 2): 3}, {1: 2, None: 3}]
    contents += [
        Features([1], 0),
        Features([2], 0),
        datetime.date(2020, 1, 1),
        decimal.Decimal(1),
        1j,
        ["1", "1"],
        ["11"],
    ]
    digests = [rows_digest([{"x": content, "nested": {"y": [content]}}]) for content in contents]
    assert None not in digests
    assert len(set(digests)) == len(contents)
    assert rows_digest([{"x": torch.ones(2), "y": 1}]) == rows_digest([{"y": 1, "x": torch.ones(2)}])
    assert rows_digest(Subset(contents, [0])) != rows_digest(Subset(contents, [1]))


def test_rows_that_cannot_be_read_have_none(make_args):
    circular = []
    circular.append(circular)
    unreadable = [object(), SimpleNamespace(a=1), circular, torch.ones(2).to_sparse(), torch.ones(2, device="meta")]
    unreadable += [torch.tensor([1j]).conj(), iter([1])]
    for content in unreadable:
        assert rows_digest([{"x": content}]) is None, content

    class Augments(list):
        pass

    assert rows_digest(Augments([1])) is None
    rows = [{**row, (1, 2): object()} for row in make_examples(14)]

    def collate(batch):
        return {name: torch.tensor([row[name] for row in batch]) for name in ("input_ids", "labels")}

    options = {"data_collator": collate, "save_strategy": "epoch", "remove_unused_columns": False}
    make_trainer(make_args, train_dataset=rows, **options).train()


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("True", "must be a checkpoint folder or True, and not the text 'True'"),
        (None, "must be a checkpoint folder, got .*, which has some within it, such as checkpoint-8. Name one of them"),
    ],
)
def test_what_is_no_checkpoint_is_called_so(make_args, tmp_path, checkpoint, message):
    options = {"output_dir": str(tmp_path), "save_strategy": "epoch", "num_train_epochs": 2}
    trainer = make_trainer(make_args, LSTSDConfig(mini_generation_epochs=1), **options)
    trainer.train()
    with pytest.raises(InputError, match=message):
        trainer.train(resume_from_checkpoint=checkpoint or str(tmp_path))


def test_temporal_supervision_leaves_every_random_state_alone(make_args, monkeypatch):
    """`torch.manual_seed` would seed the GPUs too, whose state is not put back."""
    trainer = make_trainer(make_args, active(TSKDConfig))
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("seeds all devices"))
    before = torch.get_rng_state()
    trainer.teacher.reset()
    assert torch.equal(before, torch.get_rng_state())
