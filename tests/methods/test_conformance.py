"""What holds for every registered method; a new one is covered the moment it is registered."""

import contextlib
import copy
import dataclasses
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from lstsd_hf import METHODS, LSTSDTrainer, SelfDistillationMixin
from lstsd_hf.checkpoint import check_same_run, describe_teacher
from lstsd_hf.errors import InputError
from lstsd_hf.methods.base import separate
from tests import helpers
from tests.helpers import (
    CONFIGS,
    SavesAt,
    active,
    assert_same_weights,
    every_distilling_method,
    every_method,
    make_examples,
    make_model,
    weights,
)

STEPS_PER_EPOCH = 4  # 14 examples in batches of 4, the last one of 2
EPOCHS = 6


def accuracy(prediction, compute_result=True):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


make_trainer = partial(helpers.make_trainer, eval_dataset=make_examples(6, seed=1), compute_metrics=accuracy)


class CountsForwards(nn.Module):
    """Counts the forwards of the model it wraps."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.forwards = model, model.config, 0

    def forward(self, input_ids, labels=None, output_hidden_states=None):
        self.forwards += 1
        return self.model(input_ids=input_ids, labels=labels, output_hidden_states=output_hidden_states)


@every_method
def test_the_neutral_setting_is_stock_trainer_bit_for_bit(make_args, config_class):
    outcomes = []
    for trainer_class in (Trainer, LSTSDTrainer):
        trainer = make_trainer(
            make_args,
            config_class.neutral(),
            trainer_class,
            model=CountsForwards(make_model()),
            eval_strategy="steps",
            eval_steps=3,
            gradient_accumulation_steps=2,
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        scores = [
            (entry["eval_loss"], entry["eval_accuracy"]) for entry in trainer.state.log_history if "eval_loss" in entry
        ]
        outcomes.append((trainer.model, losses, scores, trainer.model.forwards, torch.get_rng_state()))
    (stock, *stock_numbers, stock_rng), (ours, *our_numbers, our_rng) = outcomes
    assert_same_weights(stock, ours)
    # The same number of forwards, too: a zero weight skips its passes.
    assert stock_numbers == our_numbers
    assert torch.equal(stock_rng, our_rng)


@every_method
def test_two_steps_change_every_trainable_parameter(make_args, config_class):
    trainer = make_trainer(make_args, active(config_class), optim="sgd", weight_decay=0.0)
    before = weights(trainer.model)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            # Two steps of distillation, where the method distils.
            if trainer.distilled_steps == 2 or state.global_step == STEPS_PER_EPOCH * 4:
                control.should_training_stop = True

    trainer.add_callback(Stop())
    trainer.train()
    after = weights(trainer.model)
    for name, parameter in trainer.model.named_parameters():
        if "position_embeddings" in name or "token_type" in name or "word_embeddings" in name:
            assert not torch.equal(before[name], after[name])  # some rows are never looked up
        elif not name.endswith("key.bias"):  # a softmax does not see it
            assert (before[name] != after[name]).float().mean() > 0.9, name
        assert parameter.requires_grad


@every_distilling_method
def test_the_term_has_gradient_for_the_student_and_none_for_the_teacher(make_args, config_class):
    trainer = make_trainer(make_args, active(config_class))
    teacher, seen = trainer.teacher, []
    loss_terms = teacher.loss_terms

    def spy(batch):
        terms = loss_terms(batch)
        for name, term in separate(terms).items():
            assert term.per_example.dim() == 1, name
            parameters = [p for p in trainer.model.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(term.per_example.mean(), parameters, retain_graph=True, allow_unused=True)
            size = max(float(g.abs().max()) for g in gradients if g is not None)
            assert math.isfinite(size)
            seen.append(size)
        state = {name: value for name, value in teacher.state_dict().items() if torch.is_tensor(value)}
        assert not any(value.requires_grad for value in state.values())
        return terms

    teacher.loss_terms = spy
    trainer.train()
    assert len(seen) >= STEPS_PER_EPOCH
    assert max(seen) > 1e-4
    assert trainer.distilled_steps > 0


@every_method
def test_evaluation_leaves_the_teacher_and_training_alone(make_args, config_class):
    class Evaluate(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            random_state = torch.get_rng_state()
            trainer.evaluate()  # of a step that is over, also for the teacher
            before = copy.deepcopy(trainer.teacher.state_dict())
            trainer.evaluate()
            trainer.predict(trainer.eval_dataset)
            torch.set_rng_state(random_state)  # stock evaluation draws a seed for its loader
            trainer.model.train()
            assert_same_state(before, trainer.teacher.state_dict())

    outcomes = []
    for callbacks in ([], [Evaluate()]):
        trainer = make_trainer(make_args, active(config_class), callbacks=callbacks)
        trainer.train()
        state = trainer.teacher.state_dict()
        state.pop("run_id", None)
        outcomes.append((trainer.model, state))
    assert_same_weights(outcomes[0][0], outcomes[1][0])
    assert_same_state(outcomes[0][1], outcomes[1][1])


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if torch.is_tensor(value) else value == second[name], name


@every_method
@pytest.mark.parametrize("accumulation", [1, 2])
def test_interrupted_equals_uninterrupted_bit_for_bit(make_args, config_class, accumulation):
    options = {
        "save_strategy": "steps",
        "save_steps": 1000,
        "gradient_accumulation_steps": accumulation,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    per_epoch = -(-STEPS_PER_EPOCH // accumulation)
    # Within an epoch, at the end of one, at the end of a period and in its middle.
    steps = (per_epoch + 1, per_epoch * 2, per_epoch * 3, per_epoch * 4 + 1)
    whole = make_trainer(make_args, active(config_class), callbacks=[SavesAt(steps)], **options)
    whole.train()
    for step in steps if accumulation == 1 else steps[1::2]:
        resumed = make_trainer(make_args, active(config_class), **options)
        resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
        assert_same_weights(whole.model, resumed.model)
        assert_same_state(whole.teacher.state_dict(), resumed.teacher.state_dict())
        assert whole.distilled_steps == resumed.distilled_steps
        histories = [
            [
                {name: value for name, value in entry.items() if "second" not in name and "runtime" not in name}
                for entry in trainer.state.log_history[:-1]
            ]
            for trainer in (whole, resumed)
        ]
        assert histories[0] == histories[1]


@every_method
@pytest.mark.slow
def test_resumed_from_each_single_step(make_args, config_class, tmp_path):
    """Six epochs with dropout and shuffling."""
    options = {"save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path / "whole")}
    whole = make_trainer(make_args, active(config_class), **options)
    whole.train()
    largest = 0.0
    for step in range(1, STEPS_PER_EPOCH * EPOCHS + 1):
        resumed = make_trainer(make_args, active(config_class), output_dir=str(tmp_path / "resumed"))
        if (tmp_path / "whole" / "snapshots").exists():
            # Snapshots belong to the run's folder.
            shutil.copytree(tmp_path / "whole" / "snapshots", tmp_path / "resumed" / "snapshots", dirs_exist_ok=True)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        pairs = [(weights(whole.model), weights(resumed.model))]
        pairs.append((whole.optimizer.state_dict()["state"], resumed.optimizer.state_dict()["state"]))
        pairs.append((whole.teacher.state_dict(), resumed.teacher.state_dict()))
        for first, second in pairs:
            largest = max(largest, difference(first, second))
    print(f"{config_class.name}: largest difference after resuming from each of {step} steps: {largest}")
    assert largest == 0.0


def difference(first, second):
    """The largest one between two nested dicts of tensors and numbers."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return max((difference(value, second[name]) for name, value in first.items()), default=0.0)
    if not torch.is_tensor(first):
        assert first == second
        return 0.0
    return (
        0.0
        if torch.equal(first, second)
        else float((first.double() - second.double()).abs().nan_to_num(math.inf).max())
    )


@every_method
def test_any_change_of_options_is_refused_on_resume(make_args, config_class):
    if not dataclasses.fields(config_class):
        pytest.skip("has no options")
    trainer = make_trainer(make_args, active(config_class), save_strategy="epoch", num_train_epochs=4)
    trainer.train()
    other = make_trainer(make_args, config_class.neutral(), num_train_epochs=4)
    with pytest.raises(ValueError, match=r"must be what it was when .* was saved"):
        other.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-{STEPS_PER_EPOCH}")


@every_method
@pytest.mark.parametrize("num_examples", [1, 5])
def test_a_batch_of_one(make_args, config_class, num_examples):
    trainer = make_trainer(make_args, active(config_class), train_dataset=make_examples(num_examples))
    assert math.isfinite(trainer.train().training_loss)


@every_method
def test_repeated_and_unvisited_examples(make_args, config_class):
    """A sampler that repeats some examples and never draws others."""

    class Repeats(LSTSDTrainer):
        def _get_train_sampler(self, train_dataset=None):
            return [0, 1, 1, 2, 3, 3, 3, 4, 0]

    trainer = make_trainer(make_args, active(config_class), Repeats)
    assert math.isfinite(trainer.train().training_loss)
    for value in trainer.teacher.state_dict().values():
        assert not torch.is_tensor(value) or value.isfinite().all()


@every_method
def test_frozen_layers_stay_and_are_not_copied(make_args, config_class):
    model = make_model()
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[0].requires_grad_(False)
    before = weights(model)
    trainer = make_trainer(make_args, active(config_class), model=model)
    trainer.train()
    assert torch.equal(before["bert.embeddings.word_embeddings.weight"], model.bert.embeddings.word_embeddings.weight)
    assert not torch.equal(before["classifier.weight"], model.classifier.weight)
    assert not any("word_embeddings" in name for name in trainer.teacher.state_dict())


@every_method
def test_lora(make_args, config_class):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        make_model(), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    )
    before = weights(model)
    trainer = make_trainer(make_args, active(config_class), model=model, eval_strategy="epoch")
    trainer.train()
    adapters = [name for name in before if "lora_B" in name]
    assert adapters
    assert all(not torch.equal(before[name], weights(trainer.model)[name]) for name in adapters)
    state = {name: value for name, value in trainer.teacher.state_dict().items() if torch.is_tensor(value)}
    size = sum(value.numel() for name, value in state.items() if not name.startswith("predictors."))
    assert size < sum(value.numel() for value in before.values()) / 2


@every_method
def test_bf16_autocast(make_args, config_class):
    trainer = make_trainer(make_args, active(config_class), bf16=True, eval_strategy="epoch")
    assert math.isfinite(trainer.train().training_loss)
    for name, value in trainer.teacher.state_dict().items():
        assert not torch.is_tensor(value) or value.dtype != torch.bfloat16, name


@every_method
def test_a_model_in_bf16(make_args, config_class):
    trainer = make_trainer(make_args, active(config_class), model=make_model().to(torch.bfloat16))
    assert math.isfinite(trainer.train().training_loss)


@every_method
@pytest.mark.parametrize("mode", ["FSDP", "DeepSpeed ZeRO-3"])
def test_sharded_weights_are_refused_by_what_runs_the_model(make_args, config_class, mode, monkeypatch):
    trainer = make_trainer(make_args, active(config_class))
    monkeypatch.setattr(trainer, "is_fsdp_enabled", mode == "FSDP")
    monkeypatch.setattr("lstsd_hf.setups.is_deepspeed_zero3_enabled", lambda: mode != "FSDP")
    # Nothing is sharded here, so what is not refused gets as far as the parent's loop.
    monkeypatch.setattr(Trainer, "_inner_training_loop", lambda self, *args, **kwargs: "trained")
    if not trainer.teacher.runs_model:
        assert trainer.train() == "trained"
        return
    with pytest.raises(ValueError, match=f"must have the model's whole weights on every process, got {mode}, which"):
        trainer.train()


@every_method
def test_every_option_can_be_searched_and_printed(config_class):
    fields = {field.name: field for field in dataclasses.fields(config_class) if field.init}
    for name, choices in config_class.search_space.items():
        assert name in fields
        assert len({config_class(**{name: choice}) for choice in choices}) == len(choices) > 1
    for name, field in fields.items():
        assert field.metadata.get("help"), name
    assert isinstance(config_class.paper(), config_class)


class Diverges(TrainerCallback):
    """Weights are NaN from the second step on, as after a learning rate that is far too high."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 2:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(math.nan)


@every_method
def test_a_run_that_diverges_goes_on_as_stock_does(make_args, config_class):
    """A search over learning rates would end with the first one that is too high."""
    trainer = make_trainer(make_args, active(config_class), callbacks=[Diverges()], logging_nan_inf_filter=False)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert trainer.state.global_step == EPOCHS * STEPS_PER_EPOCH
    assert math.isnan(losses[-1])
    assert math.isnan(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize("name", ["lstsd", "temporal_ensemble"])
def test_a_run_that_has_diverged_is_resumed_as_stocks_is(make_args, name):
    options = {"callbacks": [Diverges()], "save_strategy": "epoch", "num_train_epochs": 4}
    trainer = make_trainer(make_args, active(METHODS[name]), **options)
    trainer.train()
    again = make_trainer(make_args, active(METHODS[name]), **options)
    again.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-{2 * STEPS_PER_EPOCH}")
    assert again.state.global_step == 4 * STEPS_PER_EPOCH


# ---- Predictions of more than the student ----

SCORED = [config for config in CONFIGS if config().build().predicts_with_copies]
every_scored_method = pytest.mark.parametrize("config_class", SCORED, ids=lambda config: config.name)


def scores(trainer):
    return {name: value for name, value in trainer.evaluate().items() if name.endswith(("accuracy", "loss"))}


@every_scored_method
def test_scores_of_copies_do_not_depend_on_what_is_frozen_now(make_args, config_class):
    trainer = make_trainer(make_args, active(config_class), learning_rate=0.05)
    trainer.train()
    before = scores(trainer)
    trainer.model.requires_grad_(False)
    assert scores(trainer) == before
    assert len(before) == 3


@every_scored_method
def test_layers_may_be_unfrozen_in_training(make_args, config_class):
    model = make_model()
    model.bert.embeddings.requires_grad_(False)

    class Unfreeze(TrainerCallback):
        def on_epoch_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == STEPS_PER_EPOCH:
                model.requires_grad_(True)

    trainer = make_trainer(make_args, active(config_class), model=model, callbacks=[Unfreeze()])
    assert math.isfinite(trainer.train().training_loss)
    assert math.isfinite(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize("name", ["snapshot_ensemble", "snapshot_distillation"])
def test_a_snapshot_without_what_is_trained_now_does_not_teach(make_args, name):
    model = make_model()
    model.bert.embeddings.requires_grad_(False)

    class Unfreeze(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == STEPS_PER_EPOCH * 2 + 1:  # the first snapshot is taken
                model.requires_grad_(True)

    trainer = make_trainer(make_args, active(METHODS[name]), model=model, callbacks=[Unfreeze()])
    with pytest.raises(InputError, match="A snapshot must hold all parameters that are trained, lacks"):
        trainer.evaluate(trainer.train() and None)


def test_an_untrained_trainer_does_not_take_a_model_for_the_ensemble(make_args):
    config = METHODS["snapshot_ensemble"](cycle_epochs=2)
    first = make_trainer(make_args, config)
    before = first.evaluate()
    first.train()
    assert before["eval_accuracy"] == before["eval_student_accuracy"]
    second = make_trainer(make_args, config, model=first.model)
    with pytest.raises(InputError, match="must be those of a training of this trainer, which has not been trained"):
        second.evaluate()


@every_scored_method
def test_the_best_model_predicts_with_the_copies_of_its_own_step(make_args, config_class):
    trainer = make_trainer(
        make_args,
        active(config_class),
        learning_rate=0.05,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # an early one
    )
    trainer.train()
    best = trainer.state.best_global_step
    assert best < STEPS_PER_EPOCH * EPOCHS
    (logged,) = (entry for entry in trainer.state.log_history if entry["step"] == best and "eval_loss" in entry)
    for name, value in scores(trainer).items():
        assert value == logged[name], name


@every_scored_method
@pytest.mark.parametrize("option", [{"batch_eval_metrics": True}, {"eval_do_concat_batches": False}])
def test_batchwise_metrics_are_refused(make_args, config_class, option):
    trainer = make_trainer(make_args, active(config_class), **option)
    trainer.train()
    ((name, value),) = option.items()
    message = f"`{name}` must be {not value} with {type(trainer.teacher).__name__}, got"
    with pytest.raises(ValueError, match=message):
        trainer.evaluate()
    # Not only after an epoch of training.
    trainer = make_trainer(make_args, active(config_class), eval_strategy="epoch", **option)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("name", ["lstsd", "snapshot_distillation"])
def test_periods_fitted_to_another_number_of_epochs_are_refused_on_resume(make_args, name):
    trainer = make_trainer(make_args, METHODS[name](), num_train_epochs=10, save_strategy="epoch")
    trainer.train()
    longer = make_trainer(make_args, METHODS[name](), num_train_epochs=20)
    with pytest.raises(ValueError, match=r"_epochs` must be what it was when the checkpoint was saved: it was"):
        longer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-{STEPS_PER_EPOCH * 4}")


def test_snapshots_of_another_run_are_refused(make_args):
    config = METHODS["snapshot_ensemble"](cycle_epochs=2)
    first = make_trainer(make_args, config, save_strategy="epoch")
    first.train()
    first.evaluate()
    make_trainer(make_args, config).train()  # writes into the same folder
    with pytest.raises(ValueError, match="must be of the same run as the model, found another run's"):
        first.evaluate()


@pytest.mark.parametrize("unlabelled", [0, 4])
def test_label_smoothing_is_that_of_training_arguments(make_args, unlabelled):
    """Up to the order of float operations."""
    models = []
    rows = [
        {**row, "labels": -100 if index < unlabelled else row["labels"]} for index, row in enumerate(make_examples(14))
    ]
    for trainer_class, options in ((LSTSDTrainer, {}), (Trainer, {"label_smoothing_factor": 0.2})):
        teacher = METHODS["label_smoothing"](smoothing=0.2)
        options["train_dataset"] = rows
        trainer = make_trainer(make_args, teacher, trainer_class, model=make_model().double(), optim="sgd", **options)
        trainer.train()
        models.append(trainer.model)
    assert_same_weights(*models, rtol=0, atol=1e-6)  # Trainer's own sums up in fp32


class Weighted(Trainer):
    """Weights its loss by a column that the model does not take."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weights = inputs.pop("weight")
        outputs = model(**inputs)
        loss = (outputs.loss * weights).mean()
        return (loss, outputs) if return_outputs else loss


class DistilledWeighted(SelfDistillationMixin, Weighted):
    pass


@every_method
def test_a_column_that_only_the_loss_takes(make_args, config_class):
    examples = [{**row, "weight": 1.0 + index % 2} for index, row in enumerate(make_examples(14))]
    model = CountsForwards(make_model())  # its forward has no **kwargs
    trainer = make_trainer(
        make_args,
        active(config_class),
        DistilledWeighted,
        model=model,
        train_dataset=examples,
        remove_unused_columns=False,
    )
    trainer.eval_dataset = examples[:6]
    assert trainer.teacher.needs_example_losses == (config_class.name in ("anchored", "sat"))
    if trainer.teacher.needs_example_losses:
        with pytest.raises(InputError, match="must know the loss of each example"):
            trainer.train()
        return
    trainer.train()
    assert math.isfinite(trainer.evaluate()["eval_loss"])


def test_an_ensemble_is_scored_alike_from_the_first_cycle_on(make_args):
    """`eval_loss` is the plain loss of the prediction, also while the model stands alone and with label smoothing."""
    trainer = make_trainer(
        make_args,
        METHODS["snapshot_ensemble"](cycle_epochs=2),
        learning_rate=1e-12,
        label_smoothing_factor=0.5,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="student_accuracy",
    )
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == EPOCHS
    for entry in evaluations:
        assert entry["eval_loss"] == pytest.approx(evaluations[-1]["eval_loss"], abs=1e-6)
        assert "eval_student_accuracy" in entry


def test_copies_are_not_run_for_nobody(make_args):
    """Without metrics nothing reads the averaged model's predictions."""
    trainer = make_trainer(make_args, active(METHODS["mean_teacher"]))
    trainer.train()
    runs = []
    trainer.teacher.ema.forward = lambda *args, **options: runs.append(args)
    trainer.compute_metrics = None
    trainer.evaluate()
    trainer.predict(make_examples(4))
    assert not runs


def with_another(config, name):
    """The options with another value of one of them, which the method takes."""
    default = getattr(config, name)
    others = (3, 2, 0.5, 0.25, "teacher_student", "mse", "file", "overlap", "hybrid", "cl")
    for value in (not default,) if isinstance(default, bool) else others:
        with contextlib.suppress(InputError):
            if value != default:
                return dataclasses.replace(config, **{name: value})
    raise AssertionError(f"no other value of {name}")


OPTIONS = [(config, option.name) for config in CONFIGS for option in dataclasses.fields(config) if option.init]


@pytest.mark.parametrize(
    ("config_class", "name"), OPTIONS, ids=lambda item: item if isinstance(item, str) else item.name
)
def test_every_option_is_part_of_a_runs_identity(config_class, name):
    """A run that is resumed with another value of any option is refused by its name."""
    # A teacher can be named in one way only.
    config = config_class() if name in ("teacher_outputs", "teacher_free") else active(config_class)
    if config_class.name == "self_regulated" and name == "teacher_outputs":
        config = config_class(distillation="regulated")
    saved, resumed = (describe_teacher(item.build()) for item in (config, with_another(config, name)))
    check_same_run({"run": saved, "global_step": 1}, saved, Path())
    with pytest.raises(InputError, match=f"^`{name}` must be what it was"):
        check_same_run({"run": saved, "global_step": 1}, resumed, Path())


@every_distilling_method
def test_the_loss_is_the_weighted_sum_of_its_parts(make_args, config_class):
    """Each micro-batch trains on base weight · base loss + Σ weight · term, and the log has these parts."""
    trainer = make_trainer(make_args, active(config_class), logging_steps=1)
    teacher, weights_of = trainer.teacher, []
    loss_terms, base_loss_weight = teacher.loss_terms, teacher.base_loss_weight

    def spy(batch):
        terms = loss_terms(batch)
        weight = base_loss_weight(batch)
        if isinstance(weight, torch.Tensor):  # one for each example: the log has the mean of their losses without it
            losses = torch.nn.functional.cross_entropy(batch.student_logits, batch.labels, reduction="none").detach()
            weight = (weight * losses).mean() / losses.mean()
        weights_of.append({"base": float(weight)} | {name: term.weight for name, term in separate(terms).items()})
        return terms

    teacher.loss_terms = spy
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss_base" in entry]
    assert len(logs) == len(weights_of)
    added = 0.0
    for entry, found in zip(logs, weights_of, strict=True):
        parts = {name: weight * entry[f"loss_{name}"] for name, weight in found.items()}
        assert entry["loss"] == pytest.approx(sum(parts.values()), rel=1e-4, abs=1e-6)
        added = max(added, abs(sum(parts.values()) - parts["base"]))
    assert added > 1e-4


@every_distilling_method
def test_a_teacher_moves_the_student(make_args, config_class):
    """Terms have weight, and training ends elsewhere than without a teacher."""
    trainer = make_trainer(make_args, active(config_class))
    seen, loss_terms = [], trainer.teacher.loss_terms
    trainer.teacher.loss_terms = lambda batch: seen.append(loss_terms(batch)) or seen[-1]
    trainer.train()
    stock = make_trainer(make_args, None, Trainer)
    stock.train()
    assert any(term.weight > 0 for terms in seen for term in separate(terms).values())
    pairs = zip(weights(trainer.model).values(), weights(stock.model).values(), strict=True)
    assert any(not torch.allclose(own, other, atol=1e-5) for own, other in pairs)
