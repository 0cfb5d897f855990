"""Anchored sample distillation: resumed around its anchor, said where it cannot work, and where labels are wrong."""

import logging

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from lstsd_hf import AnchoredConfig, Observer
from lstsd_hf.distributed import with_mean_one
from lstsd_hf.errors import InputError
from tests.helpers import (
    Overridden,
    SavesAt,
    assert_same_weights,
    make_examples,
    make_model,
    make_trainer,
    weighted_cross_entropy,
    weights,
)

OPTIONS = {"kept_out_share": 0.3, "patience": 1}


class StopsAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def trained(make_args, config=None, **options):
    options = {"num_train_epochs": 10, "learning_rate": 3e-2} | options
    checkpoint = options.pop("resume", None)
    trainer = make_trainer(make_args, config or AnchoredConfig(**OPTIONS), **options)
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


@pytest.mark.parametrize("rule", ["flip", "cl"])
def test_interrupted_equals_uninterrupted_around_the_anchor(make_args, rule):
    config = AnchoredConfig(**OPTIONS, rule=rule, pull=1.0)
    # 4 steps an epoch, 10 epochs: each step before, at and after the anchor.
    steps = range(1, 40)
    whole = trained(make_args, config, callbacks=[SavesAt(steps)], save_strategy="steps", save_steps=1000)
    anchor = whole.teacher.anchor_epoch
    assert anchor is not None
    assert anchor < 6
    for step in steps:
        resumed = trained(make_args, config, resume=f"{whole.args.output_dir}/checkpoint-{step}")
        assert_same_weights(whole.model, resumed.model)
        assert resumed.teacher.anchor_epoch == anchor
        assert torch.equal(resumed.teacher._is_doubted, whole.teacher._is_doubted)


def test_what_is_kept_out_changes_nothing_before_the_anchor(make_args):
    """Other labels for the examples kept out: the same weights as long as there is no anchor."""
    models = []
    for flips in (False, True):
        config = AnchoredConfig(kept_out_share=0.3, patience=8)
        rows = make_examples(14)
        trainer = make_trainer(make_args, config, train_dataset=rows, num_train_epochs=11, optim="sgd")
        trainer.teacher.begin(trainer._context)
        kept_out = trainer.teacher._kept_out.tolist()
        if flips:
            for row, is_out in zip(rows, kept_out, strict=True):
                row["labels"] = 1 - row["labels"] if is_out else row["labels"]
        trainer.add_callback(StopsAt(20))
        trainer.train()
        assert trainer.teacher.anchor_epoch is None
        models.append(trainer.model)
    # Their share of the mean loss is subtracted again, which rounds.
    assert_same_weights(*models, atol=1e-6, rtol=0)


def test_a_usual_loss_may_be_computed_by_anyone(make_args):
    own, overridden, function = (
        trained(make_args, **options)
        for options in (
            {},
            {"trainer_class": Overridden},
            {"compute_loss_func": lambda outputs, labels, **kwargs: cross_entropy(outputs.logits, labels)},
        )
    )
    assert own.teacher.anchor_epoch is not None
    for other in (overridden, function):
        assert_same_weights(own.model, other.model, atol=1e-6, rtol=0)
        assert other.teacher.anchor_epoch == own.teacher.anchor_epoch


def test_another_loss_is_refused_before_the_first_step(make_args):
    """Of its value alone nobody can be kept out."""
    trainer = make_trainer(
        make_args, AnchoredConfig(**OPTIONS), compute_loss_func=weighted_cross_entropy, num_train_epochs=10
    )
    before = weights(trainer.model)
    with pytest.raises(InputError, match="Anchored must know the loss of each example"):
        trainer.train()
    assert_same_weights(before, trainer.model.state_dict())


def test_the_log_says_what_was_found(make_args):
    trainer = trained(make_args)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert "kept_out_loss" not in log[0]
    assert log[-1]["anchor_epoch"] == trainer.teacher.anchor_epoch
    assert 0 <= log[-1]["labels_doubted"] <= 1
    assert log[-1]["loss_anchor"] >= 0
    probabilities, written = trainer.teacher.example_probabilities()
    assert written.all()
    torch.testing.assert_close(probabilities, trainer.teacher._best_rows.softmax(-1))


def test_wrong_labels_are_turned_round(make_args):
    """An easy task with a fifth of its labels wrong: among those that the anchor doubts most are."""
    rows = make_examples(200)
    generator = torch.Generator().manual_seed(0)
    wrong = set(torch.randperm(200, generator=generator)[:40].tolist())
    # The first token alone decides, so that a few epochs suffice.
    for index, row in enumerate(rows):
        label = int(row["input_ids"][0] < 30)
        row["input_ids"] = [row["input_ids"][0]] * 4
        row["labels"] = 1 - label if index in wrong else label
    trainer = trained(
        make_args,
        AnchoredConfig(kept_out_share=0.2),
        model=make_model(dropout=0.0),
        train_dataset=rows,
        per_device_train_batch_size=16,
        num_train_epochs=16,
        learning_rate=3e-3,
    )
    assert trainer.teacher.anchor_epoch is not None
    doubted = set(trainer.teacher._is_doubted.nonzero()[:, 0].tolist())
    assert len(doubted & wrong) > 0.5 * len(doubted) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train_epochs": 4}, "4 epochs are too few to find an anchor and be taught by it (at least 5): plain"),
        ({"num_train_epochs": 5, "train_dataset": make_examples(4)}, "4 examples are too few to keep some out: plain"),
    ],
)
def test_where_it_cannot_work_it_is_plain_fine_tuning_and_says_so(make_args, caplog, options, message):
    with caplog.at_level(logging.INFO, "lstsd_hf"):
        ours = trained(make_args, AnchoredConfig(), **options)
    assert message in caplog.text
    assert_same_weights(ours.model, trained(make_args, AnchoredConfig.neutral(), **options).model)


@pytest.mark.parametrize(("epochs", "later", "rule"), [(4, 6, "below 5 in this run, got 6"), (6, 4, "at least 5 in")])
def test_a_run_does_not_become_long_enough_by_a_resume(make_args, epochs, later, rule):
    saving = {"callbacks": [SavesAt((10,))], "save_strategy": "steps", "save_steps": 1000}
    first = trained(make_args, AnchoredConfig(), num_train_epochs=epochs, **saving)
    checkpoint = f"{first.args.output_dir}/checkpoint-10"
    with pytest.raises(InputError, match=f"`num_train_epochs` must be {rule}"):
        trained(make_args, AnchoredConfig(), num_train_epochs=later, resume=checkpoint)
    again = trained(make_args, AnchoredConfig(), num_train_epochs=epochs, resume=checkpoint)
    assert_same_weights(again.model, first.model)


def test_a_run_of_too_few_examples_is_resumed(make_args):
    options = {"num_train_epochs": 5, "train_dataset": make_examples(4)}
    saving = {"callbacks": [SavesAt((3,))], "save_strategy": "steps", "save_steps": 1000}
    first = trained(make_args, AnchoredConfig(), **saving, **options)
    again = trained(make_args, AnchoredConfig(), resume=f"{first.args.output_dir}/checkpoint-3", **options)
    assert_same_weights(again.model, first.model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kept_out_share": 1.0}, "`kept_out_share` must be from 0 to below 1"),
        ({"patience": 0}, "`patience` must be at least 1 epoch"),
        ({"mixing": 0.0}, "`mixing` must be above 0, got 0"),
        ({"rule": "drop"}, "`rule` of AnchoredConfig must be one of"),
        ({"mixing": 1.5}, "`mixing` must be from 0 to 1"),
        ({"pull": -1.0}, "`pull` must be a finite number of at least 0"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        AnchoredConfig(**options)


def test_a_batch_of_examples_that_are_all_kept_out_moves_nothing():
    assert with_mean_one(torch.zeros(64)).tolist() == [0.0] * 64
    assert with_mean_one(torch.tensor([0.0, 1.0, 0.0, 1.0])).tolist() == [0.0, 2.0, 0.0, 2.0]


def test_before_the_anchor_it_is_the_mean_over_those_with_a_label_that_are_not_kept_out(make_args):
    rows = [{**row, "labels": -100 if index % 3 == 0 else row["labels"]} for index, row in enumerate(make_examples(14))]
    model, seen = make_model(dropout=0.0), []

    class Look(Observer):
        name, is_stateful = "look", False

        def observe(self, batch):
            takes_part = (batch.labels >= 0) & ~trainer.teacher._kept_out[batch.indices]
            losses = torch.nn.functional.cross_entropy(batch.student_logits, batch.labels, reduction="none")
            seen.append(float(losses[takes_part].detach().mean()) if takes_part.any() else 0.0)

    config = AnchoredConfig(kept_out_share=0.3)
    options = {"num_train_epochs": 5, "observers": [Look()], "logging_steps": 1}
    trainer = make_trainer(make_args, config, model=model, train_dataset=rows, **options)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[:8] == pytest.approx(seen[:8], rel=1e-5)


def test_the_pull_needs_no_label(make_args):
    rows = [{**row, "labels": -100 if index % 3 == 0 else row["labels"]} for index, row in enumerate(make_examples(14))]
    seen = []

    class Look(Observer):
        name, is_stateful = "look", False

        def observe(self, batch):
            if batch.progress.epoch == 1:
                pull = trainer.teacher.loss_terms(batch)["pull"].per_example
                seen.append((pull > 0) == ~trainer.teacher._kept_out[batch.indices])

    config = AnchoredConfig(kept_out_share=0.3, pull=1.0)
    options = {"num_train_epochs": 5, "observers": [Look()]}
    trainer = make_trainer(make_args, config, model=make_model(), train_dataset=rows, **options)
    trainer.train()
    assert torch.cat(seen).all()
