"""A base loss weighted example by example, in every row of the scaling table."""

import pytest
import torch
from torch import nn
from transformers import default_data_collator

from lstsd_hf import DistillationTerm, LSTSDTrainer, Teacher
from lstsd_hf.example_losses import smoothed_losses
from tests.helpers import (
    NUMBERS,
    DividesByItems,
    NoKwargsModel,
    Overridden,
    OverriddenPerItem,
    gradients,
    make_data,
    make_examples,
    make_model,
    make_trainer,
    weighted_cross_entropy,
)


def weights_of(indices):
    """Some examples have no base loss, some a third of it, some all of it, some twice."""
    return torch.tensor([0.0, 1 / 3, 1.0, 2.0])[indices % 4]


class Weighted(Teacher):
    """Weights the base loss of each example."""

    def base_loss_weight(self, batch):
        return weights_of(batch.indices)


class ByTerms(Teacher):
    """The same by a term, whose scale has tests of its own."""

    def __init__(self, smoothing=0.0):
        self.smoothing = smoothing

    def loss_terms(self, batch):
        losses = nn.functional.cross_entropy(
            batch.student_logits, batch.labels, reduction="none", label_smoothing=self.smoothing
        )
        return {"rest": DistillationTerm((weights_of(batch.indices) - 1.0) * losses, 1.0)}


class ByTheMean(Teacher):
    """Weights the base loss as a whole."""

    def base_loss_weight(self, batch):
        return float(weights_of(batch.indices).mean())


class ClassWeights(nn.Module):
    """A model with a loss of its own that is not the usual one."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.inner(input_ids).logits
        return {"loss": nn.functional.cross_entropy(logits, labels, weight=torch.tensor([1.0, 3.0])), "logits": logits}


SMOOTHED = {"label_smoothing_factor": 0.2}


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize(
    ("wrap", "trainer_class", "args", "loss_function", "reference"),
    [
        pytest.param(lambda model: model, LSTSDTrainer, {}, None, ByTerms(), id="kwargs"),
        pytest.param(NoKwargsModel, LSTSDTrainer, {}, None, ByTerms(), id="no-kwargs"),
        pytest.param(DividesByItems, LSTSDTrainer, {}, None, ByTerms(), id="divides-by-items"),
        pytest.param(lambda model: model, LSTSDTrainer, SMOOTHED, None, ByTerms(0.2), id="label-smoothing"),
        pytest.param(NoKwargsModel, LSTSDTrainer, SMOOTHED, None, ByTerms(0.2), id="no-kwargs-label-smoothing"),
        pytest.param(lambda m: m, LSTSDTrainer, {}, weighted_cross_entropy, ByTheMean(), id="compute_loss_func"),
        pytest.param(lambda model: model, Overridden, {}, None, ByTerms(), id="overridden"),
        pytest.param(lambda model: model, OverriddenPerItem, {}, None, ByTerms(), id="overridden-per-item"),
        pytest.param(ClassWeights, LSTSDTrainer, {}, None, ByTheMean(), id="unusual-own-loss"),
    ],
)
def test_each_example_has_its_weight(make_args, wrap, trainer_class, args, loss_function, reference, accumulation):
    model = wrap(make_model(dropout=0.0))
    training = make_args(
        num_train_epochs=1, gradient_accumulation_steps=accumulation, learning_rate=0.0, max_grad_norm=0.0, **args
    )
    weighted, expected = (
        gradients(trainer_class, model, training, teacher, compute_loss_func=loss_function)
        for teacher in (Weighted(), reference)
    )
    for first, second in zip(weighted, expected, strict=True):
        assert max(gradient.abs().max() for gradient in second.values()) > 1e-3
        for name, gradient in second.items():
            torch.testing.assert_close(first[name], gradient, rtol=1e-4, atol=1e-6)


def test_by_hand(make_args):
    model, examples = make_model(dropout=0.0), make_examples(4)
    training = make_args(num_train_epochs=1, learning_rate=0.0, max_grad_norm=0.0)
    (found,) = gradients(LSTSDTrainer, model, training, Weighted(), examples=4)
    model.train()
    total = 0.0
    for index, example in enumerate(examples):
        logits = model(torch.tensor([example["input_ids"]])).logits
        total = total - weights_of(torch.tensor(index)) * logits.log_softmax(-1)[0, example["labels"]] / 4
    total.backward()
    for name, parameter in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_logged_base_loss_has_no_weight(make_args):
    logs = []
    for teacher in (Weighted(), ByTerms()):
        trainer = LSTSDTrainer(
            model=make_model(), args=make_args(num_train_epochs=1), train_dataset=make_examples(8), teacher=teacher
        )
        trainer.train()
        logs.append([entry for entry in trainer.state.log_history if "loss_base" in entry])
    assert logs[0]
    for first, second in zip(*logs, strict=True):
        assert first["loss_base"] == pytest.approx(second["loss_base"], rel=1e-5)
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)


def test_smoothed_losses_are_those_of_torch():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, -100, 1, 0])
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    losses = smoothed_losses(logits, labels, 0.3)
    torch.testing.assert_close(losses.mean(), expected)
    assert losses[3] == 0


def test_an_unusual_loss_that_begins_like_the_usual_one_is_found(make_args):
    """All examples have the same loss at first, so that class weights do not show."""
    model = make_model(dropout=0.0)
    nn.init.zeros_(model.classifier.weight)
    options = {"learning_rate": 1e-2, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3}
    trainer = LSTSDTrainer(
        model=ClassWeights(model), args=make_args(**options), train_dataset=make_examples(16), teacher=Weighted()
    )
    trainer.train()
    assert not trainer._example_losses.is_usual
    again = LSTSDTrainer(
        model=ClassWeights(model), args=make_args(**options), train_dataset=make_examples(16), teacher=Weighted()
    )
    again.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-6")
    assert not again._example_losses.is_usual
    for first, second in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_rounded_loss_is_still_the_usual_one(make_args):
    """A model in bf16 rounds its loss, the more visibly the smaller it is."""
    trainer = LSTSDTrainer(
        model=make_model(dropout=0.0).bfloat16(),
        args=make_args(num_train_epochs=24, learning_rate=1e-2),
        train_dataset=make_examples(32),
        teacher=Weighted(),
    )
    trainer.train()
    assert trainer.state.log_history[-2]["loss_base"] < 0.1
    assert trainer._example_losses.is_usual


@pytest.mark.parametrize("accumulation", [1, 2])
def test_labels_that_only_a_loss_of_ones_own_takes(make_args, accumulation):
    """Rows without a label are marked -1, and the others are whole numbers of another size."""

    class Ignores(LSTSDTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            outputs = model(input_ids=inputs["input_ids"])
            loss = nn.functional.cross_entropy(outputs.logits, inputs["labels"].long(), ignore_index=-1)
            return (loss, outputs) if return_outputs else loss

    def collate(rows):
        batch = default_data_collator(rows)
        return {**batch, "labels": batch["labels"].to(torch.int32)}

    rows = [{**row, "labels": -1 if index % 5 == 0 else row["labels"]} for index, row in enumerate(make_examples(16))]
    options = {"num_train_epochs": 1, "gradient_accumulation_steps": accumulation, "data_collator": collate}
    trainer = make_trainer(make_args, Weighted(), Ignores, train_dataset=rows, **options)
    trainer.train()
    assert trainer._example_losses.is_usual


@pytest.mark.parametrize("accumulation", [1, 2])
def test_smoothing_that_a_regression_never_uses(make_args, accumulation):
    class Squared(LSTSDTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            outputs = model(input_ids=inputs["input_ids"])
            loss = nn.functional.mse_loss(outputs.logits.squeeze(1), inputs["labels"])
            return (loss, outputs) if return_outputs else loss

    options = {"num_train_epochs": 1, "gradient_accumulation_steps": accumulation, "label_smoothing_factor": 0.1}
    rows = make_data(NUMBERS, num_labels=1)
    trainer = make_trainer(make_args, Weighted(), Squared, model=make_model(1), train_dataset=rows, **options)
    trainer.train()
    assert trainer._example_losses.is_usual


def test_labels_of_another_name_are_not_smoothed(make_args):
    class Renamed(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner, self.config = model, model.config

        def forward(self, input_ids, y=None, **kwargs):
            return self.inner(input_ids=input_ids, labels=y)

    class NoWeight(Teacher):
        def base_loss_weight(self, batch):
            return torch.zeros(len(batch.indices))

    examples = [{"input_ids": row["input_ids"], "y": row["labels"]} for row in make_examples(8)]
    args = make_args(label_names=["y"], label_smoothing_factor=0.5, num_train_epochs=1)
    trainer = LSTSDTrainer(model=Renamed(make_model()), args=args, train_dataset=examples, teacher=NoWeight())
    trainer.train()
    assert [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] == pytest.approx(
        [0.0] * 2, abs=1e-6
    )


def test_a_weight_of_another_shape_is_refused(make_args):
    class Column(Teacher):
        def base_loss_weight(self, batch):
            return torch.ones(len(batch.indices), 1)

    trainer = LSTSDTrainer(model=make_model(), args=make_args(), train_dataset=make_examples(8), teacher=Column())
    with pytest.raises(ValueError, match=r"of shape \(batch_size,\) = \(4,\), got \(4, 1\)"):
        trainer.train()
