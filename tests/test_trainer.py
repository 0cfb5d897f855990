"""The trainer beside stock `Trainer`: parity, scale of the terms, logs, evaluation, refusals."""

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedConfig, Trainer, default_data_collator

from lstsd_hf import (
    METHODS,
    LSTSDConfig,
    LSTSDTrainer,
    NoTeacherConfig,
    SelfDistillationMixin,
)
from lstsd_hf.errors import InputError
from lstsd_hf.problem_types import SingleLabel
from tests.helpers import (
    CrossEntropyTeacher,
    DividesByItems,
    NoKwargsModel,
    Overridden,
    OverriddenPerItem,
    PassesOn,
    assert_same_weights,
    gradients,
    make_examples,
    make_model,
    weighted_cross_entropy,
)

NO_WEIGHT = LSTSDConfig(lambda_short=0.0, lambda_long=0.0)


# ---- λ = 0 is stock Trainer ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"label_smoothing_factor": 0.1},
        {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
        {"compute_loss_func": weighted_cross_entropy, "gradient_accumulation_steps": 2},
        {"dataloader_num_workers": 2},
        {"train_sampling_strategy": "group_by_length"},
        {"dataloader_drop_last": True, "max_steps": 7},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("teacher", [NO_WEIGHT, NoTeacherConfig()], ids=["zero-weights", "vanilla"])
def test_without_weight_training_is_stock_trainer_bit_for_bit(tiny_model, make_args, options, teacher):
    options = dict(options)
    extra = {"compute_loss_func": options.pop("compute_loss_func")} if "compute_loss_func" in options else {}
    states = []
    # What draws the batches is Trainer's own, but for groups of like lengths that are exactly resumed.
    ours = type("Ours", (LSTSDTrainer,), {"_get_train_sampler": Trainer._get_train_sampler})
    for trainer_class, own in ((Trainer, {}), (ours, {"teacher": teacher})):
        torch.manual_seed(5)
        trainer = trainer_class(
            model=copy.deepcopy(tiny_model),
            args=make_args(eval_strategy="steps", eval_steps=2, **options),
            train_dataset=make_examples(22),
            eval_dataset=make_examples(6, seed=1),
            **extra,
            **own,
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        states.append((trainer.model, losses, torch.get_rng_state()))
    (stock, stock_losses, stock_rng), (ours, our_losses, our_rng) = states
    assert_same_weights(stock, ours)
    assert stock_losses == our_losses
    assert torch.equal(stock_rng, our_rng)


# ---- CE : KL is 1 : λ ----


@pytest.mark.parametrize("accumulation", [1, 2, 4])  # 22 examples in batches of 4: 6 micro-batches, the last of 2
@pytest.mark.parametrize(
    ("case", "trainer_class", "args", "teacher_options"),
    [
        ("kwargs", LSTSDTrainer, {}, {}),
        ("no-kwargs", LSTSDTrainer, {}, {}),
        ("divides-by-items", LSTSDTrainer, {}, {}),
        ("label-smoothing", LSTSDTrainer, {"label_smoothing_factor": 0.2}, {"smoothing": 0.2}),
        ("no-kwargs-label-smoothing", LSTSDTrainer, {"label_smoothing_factor": 0.2}, {"smoothing": 0.2}),
        ("compute_loss_func", LSTSDTrainer, {}, {"class_weights": torch.tensor([1.0, 3.0])}),
        ("no-kwargs-compute_loss_func", LSTSDTrainer, {}, {"class_weights": torch.tensor([1.0, 3.0])}),
        ("overridden", Overridden, {}, {}),
        ("overridden-per-item", OverriddenPerItem, {}, {}),
        ("passed-on", PassesOn, {}, {}),
        ("passed-on-label-smoothing", PassesOn, {"label_smoothing_factor": 0.2}, {"smoothing": 0.2}),
    ],
)
def test_terms_have_the_scale_of_the_base_loss(make_args, case, trainer_class, args, teacher_options, accumulation):
    model = make_model(dropout=0.0)
    if case.startswith("no-kwargs"):
        model = NoKwargsModel(model)
    if case == "divides-by-items":
        model = DividesByItems(model)
    options = {"compute_loss_func": weighted_cross_entropy} if case.endswith("compute_loss_func") else {}
    training = make_args(
        num_train_epochs=1, gradient_accumulation_steps=accumulation, learning_rate=0.0, max_grad_norm=0.0, **args
    )
    alone, doubled = (
        gradients(trainer_class, model, training, CrossEntropyTeacher(weight, **teacher_options), **options)
        for weight in (0.0, 1.0)
    )
    assert len(alone) == len(doubled) == -(-6 // accumulation)
    for first, second in zip(alone, doubled, strict=True):
        assert max(gradient.abs().max() for gradient in first.values()) > 1e-3
        for name, gradient in first.items():
            torch.testing.assert_close(second[name], 2 * gradient, rtol=1e-4, atol=1e-6)


def test_gradient_reaches_the_student_and_never_the_teacher(tiny_model, make_args):
    trainer = LSTSDTrainer(
        model=tiny_model, args=make_args(), train_dataset=make_examples(8), teacher=LSTSDConfig(teacher_floor=0.0)
    )
    trainer.train()
    teacher = trainer.teacher
    assert not teacher.memory.short_term_logits.requires_grad
    logits = torch.randn(4, 2, requires_grad=True)
    terms = teacher.loss_terms(
        SimpleNamespace(indices=torch.arange(4), student_logits=logits, problem_type=SingleLabel())
    )
    sum(term.added_to(torch.tensor(0.0), 1.0)[0] for term in terms.values()).backward()
    assert (logits.grad.abs().sum(dim=-1) > 0).all()


# ---- Logs ----


def test_the_labels_are_those_that_trainer_takes(make_args):
    """Though another label stands ahead of them, and each in a list of its own."""

    class TwoLabels(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_model()
            self.config = self.inner.config

        def forward(self, input_ids, aux_labels=None, labels=None):
            return self.inner(input_ids, labels=labels)

    seen = []

    class Looks(CrossEntropyTeacher):
        def loss_terms(self, batch):
            seen.append((batch.inputs["labels"], batch.labels))
            return super().loss_terms(batch)

    rows = [{**row, "labels": [row["labels"]], "aux_labels": [1 - row["labels"]]} for row in make_examples(8)]
    LSTSDTrainer(model=TwoLabels(), args=make_args(), train_dataset=rows, teacher=Looks(1.0)).train()
    assert seen
    for given, taken in seen:
        assert given.shape == (len(taken), 1)
        assert torch.equal(given[:, 0], taken)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("logging_steps", [1, 4])
@pytest.mark.parametrize("takes_kwargs", [True, False])
def test_loss_is_base_plus_weighted_parts(tiny_model, make_args, accumulation, logging_steps, takes_kwargs):
    trainer = LSTSDTrainer(
        model=tiny_model if takes_kwargs else NoKwargsModel(tiny_model),
        args=make_args(
            num_train_epochs=8,
            learning_rate=1e-2,
            gradient_accumulation_steps=accumulation,
            logging_steps=logging_steps,
        ),
        train_dataset=make_examples(22),
        teacher=LSTSDConfig(lambda_short=4.0, lambda_long=2.4, mini_generation_epochs=2),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) > 3
    for entry in logs:
        parts = entry["loss_base"] + 4.0 * entry.get("loss_short", 0.0) + 2.4 * entry.get("loss_long", 0.0)
        assert entry["loss"] == pytest.approx(parts, rel=1e-4)
        assert all(isinstance(value, (int, float)) for value in entry.values())
    assert "loss_short" not in logs[0]
    assert logs[0]["teacher_coverage"] == (0.0 if logs[0]["epoch"] <= 1 else 1.0)
    assert logs[-1]["teacher_coverage"] == 1.0
    assert logs[-1]["loss_short"] != logs[-1]["loss_long"]
    assert logs[-1]["loss_short"] > 0


def test_the_first_epoch_of_a_mini_generation_has_one_teacher_twice(tiny_model, make_args):
    trainer = LSTSDTrainer(
        model=tiny_model,
        args=make_args(num_train_epochs=5, learning_rate=1e-2, logging_strategy="epoch"),
        train_dataset=make_examples(22),
        teacher=LSTSDConfig(mini_generation_epochs=2),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss_short" in entry]
    assert [entry["loss_short"] == entry["loss_long"] for entry in logs] == [True, False, True]


def test_drop_last_leaves_rows_without_teacher_and_coverage_below_one(tiny_model, make_args):
    trainer = LSTSDTrainer(
        model=tiny_model,
        args=make_args(num_train_epochs=2, dataloader_drop_last=True),
        train_dataset=make_examples(6),
    )
    trainer.train()
    logs = [entry["teacher_coverage"] for entry in trainer.state.log_history if "loss" in entry]
    assert logs == pytest.approx([0.0, 4 / 6])


# ---- Evaluation ----


def accuracy(prediction):
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def test_evaluation_is_stock_and_leaves_the_memory_alone(tiny_model, make_args):
    trainer = LSTSDTrainer(
        model=tiny_model,
        args=make_args(),
        train_dataset=make_examples(10),
        eval_dataset=make_examples(7, seed=1),
        compute_metrics=accuracy,
    )
    trainer.train()
    stock = Trainer(model=trainer.model, args=trainer.args, eval_dataset=trainer.eval_dataset, compute_metrics=accuracy)
    before = {name: copy.deepcopy(value) for name, value in trainer.teacher.state_dict().items()}
    outcomes = []
    for item in (trainer, stock):
        torch.manual_seed(3)
        metrics = item.evaluate()
        output = item.predict(item.eval_dataset)
        without_labels = item.predict([{"input_ids": row["input_ids"]} for row in item.eval_dataset])
        outcomes.append((metrics, output.predictions, without_labels.predictions, torch.get_rng_state()))
    (ours, our_logits, our_unlabelled, our_rng), (theirs, their_logits, their_unlabelled, their_rng) = outcomes
    for name in ("eval_loss", "eval_accuracy"):
        assert ours[name] == theirs[name]
    assert np.array_equal(our_logits, their_logits)
    assert np.array_equal(our_unlabelled, their_unlabelled)
    assert torch.equal(our_rng, their_rng)
    for name, value in trainer.teacher.state_dict().items():
        assert torch.equal(value, before[name]) if torch.is_tensor(value) else value == before[name]


def test_evaluation_within_training_leaves_the_memory_alone(make_args):
    tables = []
    for options in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        trainer = LSTSDTrainer(
            model=make_model(dropout=0.0),
            args=make_args(learning_rate=0.0, **options),
            train_dataset=make_examples(10),
            eval_dataset=make_examples(10, seed=9),
        )
        trainer.train()
        tables.append(trainer.teacher.memory)
    torch.testing.assert_close(tables[0].short_term_logits, tables[1].short_term_logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(tables[0].long_term_logits, tables[1].long_term_logits, rtol=1e-6, atol=1e-6)


def test_evaluating_the_training_loader_ignores_the_indices(make_args):
    trainer = LSTSDTrainer(
        model=NoKwargsModel(make_model()), args=make_args(), train_dataset=make_examples(6), eval_dataset=[]
    )
    output = trainer.evaluation_loop(trainer.get_train_dataloader(), "training set")
    assert output.num_samples == 6
    assert trainer.teacher.memory is None


# ---- What the user gave stays as it was ----


def test_dataset_collator_and_args_stay_as_they_were(tiny_model, make_args):
    data, args = make_examples(8), make_args()
    before = args.to_dict()

    def collate(features):
        return {name: torch.tensor([row[name] for row in features]) for name in features[0]}

    trainer = LSTSDTrainer(model=tiny_model, args=args, train_dataset=data, data_collator=collate)
    trainer.train()
    assert trainer.train_dataset is data
    assert trainer.data_collator is collate
    assert trainer.args is args
    assert args.to_dict() == before
    assert data == make_examples(8)


def test_a_second_train_starts_afresh(tiny_model, make_args):
    trainer = LSTSDTrainer(model=tiny_model, args=make_args(), train_dataset=make_examples(8))
    trainer.train()
    first = trainer.teacher.memory
    trainer.train()
    assert trainer.teacher.memory is not first
    assert trainer.distilled_steps == 4
    assert trainer.teacher.memory.epoch == 3


def test_non_finite_logits_do_not_enter_the_memory(make_args):
    class Exploding(NoKwargsModel):
        def forward(self, input_ids, labels=None):
            outputs = self.model(input_ids=input_ids, labels=labels)
            broken = torch.where(input_ids[:, :1] % 3 == 0, float("inf"), 0.0)
            outputs["logits"] = outputs["logits"] + broken
            return outputs

    data = make_examples(12)
    trainer = LSTSDTrainer(model=Exploding(make_model()), args=make_args(num_train_epochs=2), train_dataset=data)
    trainer.train()
    expected = [row["input_ids"][0] % 3 != 0 for row in data]
    assert not all(expected)
    assert trainer.teacher.memory.short_term_written.tolist() == expected


def test_bf16_logits_are_distilled_in_fp32(tiny_model, make_args):
    trainer = LSTSDTrainer(
        model=tiny_model.to(torch.bfloat16), args=make_args(num_train_epochs=4), train_dataset=make_examples(8)
    )
    trainer.train()
    assert trainer.teacher.memory.short_term_logits.dtype == torch.float32
    assert trainer.teacher.memory.coverage == 1.0


class HostReads(TorchDispatchMode):
    """Counts the operations that would make the host wait for an accelerator."""

    WAITING = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
    )

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in self.WAITING
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("drop_last", [False, True])  # all rows have teachers, and not all of them
def test_a_step_adds_no_device_synchronisation(tiny_model, make_args, drop_last):
    added = []
    for examples in (10, 42):
        counts = []
        for trainer_class in (Trainer, LSTSDTrainer):
            trainer = trainer_class(
                model=copy.deepcopy(tiny_model),
                args=make_args(dataloader_drop_last=drop_last, logging_strategy="no"),
                train_dataset=make_examples(examples),
            )
            with HostReads() as reads:
                trainer.train()
            counts.append(reads.count)
        assert counts[0] > 0
        added.append(counts[1] - counts[0])
    assert added[0] == added[1]  # per epoch, not per step


# ---- Start of training ----


@pytest.mark.parametrize(
    ("epochs", "options", "expected"),
    [
        (3, {}, "LSTSD: 3 mini-generations of 1 epoch in 3 epochs; distillation begins in epoch 2."),
        (7, {}, "LSTSD: 4 mini-generations of 2 epochs in 7 epochs; distillation begins in epoch 3."),
        (12, {}, "LSTSD: 2 mini-generations of 6 epochs in 12 epochs; distillation begins in epoch 7."),
        (3, {"lambda_short": 0, "lambda_long": 0}, "LSTSD: both weights are 0: plain fine-tuning."),
    ],
)
def test_one_line_at_train_start(tiny_model, make_args, caplog, epochs, options, expected):
    trainer = LSTSDTrainer(
        model=tiny_model,
        args=make_args(num_train_epochs=epochs),
        train_dataset=make_examples(4),
        teacher=LSTSDConfig(**options),
    )
    caplog.set_level(logging.INFO, "lstsd_hf")
    trainer.train()
    assert [record.message for record in caplog.records if record.name == "lstsd_hf.events"] == [expected]


# ---- Refusals ----


def refusal(function, error_type):
    with pytest.raises(error_type) as error:
        function()
    return str(error.value)


@pytest.mark.parametrize(
    ("args", "teacher", "message"),
    [
        (
            {"num_train_epochs": 3},
            LSTSDConfig(mini_generation_epochs=6),
            "`mini_generation_epochs` must be less than the number of planned epochs, or no epoch distils: got 6 with "
            "3 planned (6 optimizer steps at 2 an epoch). Train for more epochs, or set `mini_generation_epochs` to at "
            "most 2; for plain fine-tuning use the method `vanilla`.",
        ),
        (
            {"max_steps": 5},
            LSTSDConfig(mini_generation_epochs=3),
            "`mini_generation_epochs` must be less than the number of planned epochs, or no epoch distils: got 3 with "
            "3 planned (5 optimizer steps at 2 an epoch). Train for more epochs, or set `mini_generation_epochs` to at "
            "most 2; for plain fine-tuning use the method `vanilla`.",
        ),
        (
            {"num_train_epochs": 1},
            None,
            "`mini_generation_epochs` must be less than the number of planned epochs, or no epoch distils: got 1 with "
            "1 planned (2 optimizer steps at 2 an epoch). Train for at least 2 epochs; for plain fine-tuning use "
            "the method `vanilla`.",
        ),
    ],
)
def test_a_run_that_would_never_distil(tiny_model, make_args, args, teacher, message):
    trainer = LSTSDTrainer(model=tiny_model, args=make_args(**args), train_dataset=make_examples(8), teacher=teacher)
    assert refusal(trainer.train, ValueError) == message


def test_dataset_without_length(tiny_model, make_args):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(make_examples(8))

    message = refusal(
        lambda: LSTSDTrainer(model=tiny_model, args=make_args(max_steps=4), train_dataset=Stream()), TypeError
    )
    assert message == (
        "`train_dataset` must be a map-style dataset with a length, so that every example "
        "keeps its index; got Stream. Load it into memory (datasets: "
        "`Dataset.from_list(list(dataset))`), or use `teacher=NoTeacherConfig()` "
        "without observers and `record_dynamics`."
    )
    trainer = LSTSDTrainer(
        model=tiny_model, args=make_args(max_steps=4), train_dataset=Stream(), teacher=NoTeacherConfig()
    )
    trainer.train()
    trainer = LSTSDTrainer(
        model=tiny_model, args=make_args(max_steps=4), train_dataset=Stream(), teacher=METHODS["snapshot_ensemble"]()
    )
    message = refusal(trainer.train, ValueError)
    assert message.startswith("A run must have at least 2 learning-rate cycles, got 4 steps and cycles of")


def test_layers_dropped_at_random_are_refused_on_several_processes(tiny_model, make_args, monkeypatch):
    """A second pass uses what DistributedDataParallel takes for unused."""
    tiny_model.config.encoder_layerdrop = 0.1
    trainer = LSTSDTrainer(model=tiny_model, args=make_args(), train_dataset=make_examples(8), teacher="r_drop")
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 2)
    inputs = {"input_ids": torch.ones(1, 3, dtype=torch.int64)}
    message = refusal(lambda: trainer._student.forward(inputs), ValueError)
    assert message.startswith("`encoder_layerdrop` in the model's config must be 0 on several processes")
    with torch.no_grad():
        trainer._student.forward(inputs)


@pytest.mark.parametrize("teacher", ["lstsd", "mean_teacher", "elr"])
def test_a_loader_of_other_data_than_the_trainers_is_refused(tiny_model, make_args, teacher):
    """Stock Trainer does not need `train_dataset` then; a teacher does, and must not be passed over."""

    class OwnLoader(LSTSDTrainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(make_examples(8), batch_size=4, collate_fn=default_data_collator)

    trainer = OwnLoader(model=tiny_model, args=make_args(), teacher=teacher)
    assert refusal(trainer.train, ValueError).startswith("`train_dataset` must be given to OwnLoader, got None")


@pytest.mark.parametrize(
    ("collate", "rows"),
    [(lambda features: features[:-1], 3), (lambda features: [*features, features[0]], 5)],
    ids=["drops", "adds"],
)
def test_collator_that_changes_the_number_of_rows(tiny_model, make_args, collate, rows):
    trainer = LSTSDTrainer(
        model=tiny_model,
        args=make_args(),
        train_dataset=make_examples(8),
        data_collator=lambda features: default_data_collator(collate(features)),
    )
    assert refusal(trainer.train, ValueError) == (
        f"The data collator must keep one row for each example: it was given 4 examples and the model returned {rows} "
        "rows. Collators that drop, merge or pack examples cannot be used with sample distillation."
    )


def test_loader_over_other_data(tiny_model, make_args):
    class OwnLoader(Trainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(
                make_examples(8),
                batch_size=4,
                collate_fn=lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in rows[0]},
            )

    class Mixed(SelfDistillationMixin, OwnLoader):
        pass

    trainer = Mixed(model=tiny_model, args=make_args(), train_dataset=make_examples(8))
    assert refusal(trainer.train, InputError) == (
        "A `get_train_dataloader` of your own must load from `self.train_dataset`, so that every example keeps its "
        "index, got rows (dict) of another dataset, or a list of your own of its rows. Choose or repeat rows by a "
        "sampler or by `torch.utils.data.Subset(self.train_dataset, rows)`; hand a dataset of your own to the trainer "
        "as `train_dataset`."
    )


def test_compute_loss_that_ignores_return_outputs(tiny_model, make_args):
    class LossOnly(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(**inputs).loss

    class Mixed(SelfDistillationMixin, LossOnly):
        pass

    message = refusal(Mixed(model=tiny_model, args=make_args(), train_dataset=make_examples(8)).train, TypeError)
    assert message == (
        "`compute_loss` must return (loss, outputs) when called with `return_outputs=True`, got Tensor from "
        "test_compute_loss_that_ignores_return_outputs.<locals>.LossOnly.compute_loss. The outputs hold the student's "
        "logits; end it with `return (loss, outputs) if return_outputs else loss`."
    )


def test_a_training_step_that_computes_no_loss_of_the_trainer(tiny_model, make_args):
    class ModelAlone(LSTSDTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            inputs.pop("example_index")
            loss = model(**inputs).loss
            loss.backward()
            return loss.detach()

    message = refusal(ModelAlone(model=tiny_model, args=make_args(), train_dataset=make_examples(8)).train, TypeError)
    assert message == (
        "`training_step` of ModelAlone must call `self.compute_loss`, but teacher and observers saw no batch. Call "
        "it, not `super().compute_loss` or the model alone."
    )


def test_the_mixin_behind_a_trainer_is_refused_at_once():
    with pytest.raises(TypeError, match=r"must come before .* `class Turned\(SelfDistillationMixin, MyTrainer\)`"):

        class Turned(Trainer, SelfDistillationMixin):
            pass


REFUSED = (
    "Sample distillation needs logits (batch_size, num_labels), and integer labels (batch_size,) of at least 2 kinds, "
    "or float labels (batch_size, num_labels), or a number for each output; or logits (batch_size, length, num_labels) "
    "and integer labels (batch_size, length); got {}. For plain fine-tuning use `teacher=NoTeacherConfig()`, no "
    "observers."
)


@pytest.mark.parametrize(
    ("config", "labels", "got"),
    [
        (
            {"problem_type": "single_label_classification", "num_labels": 1},
            1,
            "logits of shape (4, 1) and torch.int64 labels of shape (4,) with "
            "`problem_type='single_label_classification'`",
        ),
        (
            {"problem_type": "multi_label_classification", "num_labels": 3},
            [1.0, 0.0],
            "logits of shape (4, 3) and torch.float32 labels of shape (4, 2) with "
            "`problem_type='multi_label_classification'`",
        ),
    ],
)
def test_labels_that_do_not_fit(make_args, config, labels, got):
    class Model(torch.nn.Module):
        """Refuses nothing itself."""

        def __init__(self):
            super().__init__()
            self.config = PreTrainedConfig(num_labels=config["num_labels"])
            self.config.problem_type = config["problem_type"]
            self.head = torch.nn.Linear(8, config["num_labels"])

        def forward(self, input_ids, labels=None):
            logits = self.head(input_ids.float())
            return {"loss": logits.mean(), "logits": logits}

    data = [{**row, "labels": labels} for row in make_examples(4)]
    trainer = LSTSDTrainer(model=Model(), args=make_args(), train_dataset=data)
    assert refusal(trainer.train, ValueError) == REFUSED.format(got)


def test_one_output_without_a_config_may_be_yes_or_no(make_args):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 1)

        def forward(self, input_ids, labels=None):
            logits = self.head(input_ids.float())
            return {
                "loss": nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float()),
                "logits": logits,
            }

    def train(**config):
        model = Model()
        if config:
            model.config = SimpleNamespace(**config)
        trainer = LSTSDTrainer(model=model, args=make_args(), train_dataset=make_examples(8))
        trainer.train()
        return trainer.teacher.context.problem_type.name

    message = refusal(train, ValueError)
    assert message.startswith(
        "`problem_type` of the model's config must be one of ['multi_label_classification', 'regression'] for "
        "torch.int64 labels of shape (4,) and logits of shape (4, 1), got None"
    )
    assert message.endswith("a model without a config takes `model.config = types.SimpleNamespace(problem_type=...)`.")
    assert train(problem_type="regression") == "regression"


@pytest.mark.parametrize("method", ["mean_teacher", "snapshot_ensemble"])
def test_several_kinds_of_labels_cannot_be_scored_jointly(make_args, method):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_model()
            self.config = self.inner.config

        def forward(self, input_ids, labels=None, other_labels=None):
            return self.inner(input_ids, labels=labels)

    rows = [{**row, "other_labels": 0} for row in make_examples(8)]
    config = METHODS[method](**({"cycle_epochs": 1} if method == "snapshot_ensemble" else {}))
    trainer = LSTSDTrainer(model=Model(), args=make_args(), train_dataset=rows, eval_dataset=rows, teacher=config)
    trainer.compute_metrics = lambda prediction: {"rows": len(prediction.predictions)}
    trainer.train()
    message = refusal(trainer.evaluate, InputError)
    assert "must have one kind of labels in evaluation, got 2. Name one in `label_names`" in message


def test_outputs_in_which_the_logits_are_not_clear(make_args):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_model()

        def forward(self, input_ids, labels=None):
            loss, logits = self.inner(input_ids, labels=labels, return_dict=False)
            return loss, logits, -logits

    trainer = LSTSDTrainer(model=Heads(), args=make_args(), train_dataset=make_examples(8))
    message = refusal(trainer.train, ValueError)
    assert message.endswith("and nothing of their shape behind; got a tuple of [(), (4, 2), (4, 2)].")


def test_numbers_for_each_token(make_args):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(1, 2)

        def forward(self, input_ids, labels=None):
            logits = self.head(input_ids.float()[:, :, None])
            return {"loss": logits.mean(), "logits": logits}

    data = [{**row, "labels": [0.5] * 8} for row in make_examples(4)]
    trainer = LSTSDTrainer(model=Model(), args=make_args(), train_dataset=data)
    assert refusal(trainer.train, ValueError) == REFUSED.format(
        "logits of shape (4, 8, 2) and torch.float32 labels of shape (4, 8)"
    )


def test_teacher_of_a_wrong_type(tiny_model, make_args):
    message = refusal(lambda: LSTSDTrainer(model=tiny_model, args=make_args(), teacher=7), TypeError)
    assert message == (
        "`teacher` must be a TeacherConfig such as `LSTSDConfig()`, the name of a method, a `Teacher`, or None, got "
        "7 of type int."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_short": -1.0}, "`lambda_short` must be a finite number of at least 0, got -1.0. 0 drops the term."),
        ({"lambda_long": -0.5}, "`lambda_long` must be a finite number of at least 0, got -0.5. 0 drops the term."),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0. 1 leaves the logits unchanged."),
        ({"temperature": -2.0}, "`temperature` must be positive, got -2.0. 1 leaves the logits unchanged."),
        (
            {"mini_generation_epochs": 0},
            "`mini_generation_epochs` must be a whole number of at least 1, got 0. Leave it out "
            "to fit it to the number of epochs.",
        ),
        (
            {"mini_generation_epochs": 1.0},
            "`mini_generation_epochs` of LSTSDConfig must be a whole number or None, got 1.0.",
        ),
        ({"lambda_short": "1"}, "`lambda_short` of LSTSDConfig must be a number, got '1'."),
        ({"t_squared": 1}, "`t_squared` of LSTSDConfig must be True or False, got 1."),
        (
            {"kl_direction": "both"},
            "`kl_direction` of LSTSDConfig must be one of ['student_teacher', 'teacher_student'], got 'both'.",
        ),
        (
            {"teacher_floor": 1.0},
            "`teacher_floor` must be a probability from 0 to below 1, got 1.0. 0 means no floor.",
        ),
    ],
)
def test_bad_options(options, message):
    assert refusal(lambda: LSTSDConfig(**options), ValueError) == message


def test_paper_settings():
    config = LSTSDConfig.paper()
    assert (config.lambda_short, config.lambda_long, config.mini_generation_epochs) == (4.0, 2.4, 6)
    assert (config.temperature, config.kl_direction, config.t_squared, config.teacher_floor) == (
        1.0,
        "student_teacher",
        False,
        0.0,
    )


def test_a_mean_teacher_needs_more_than_the_beginning_of_its_ramp(tiny_model, make_args):
    trainer = LSTSDTrainer(
        model=tiny_model,
        args=make_args(num_train_epochs=1),
        train_dataset=make_examples(8),
        teacher=METHODS["mean_teacher"](),
    )
    assert refusal(trainer.train, ValueError) == (
        "`num_train_epochs` must be at least 2, or the ramp-up of the weight ends where it begins: got 1 planned. "
        "Train for at least 2 epochs, or set `rampup_epochs` to 0."
    )
