"""What diverges does no lasting harm, what teaches nothing is an error, and each log says how the teacher is."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback

from lstsd_hf import (
    DistillationTerm,
    LSTSDConfig,
    LSTSDTrainer,
    MeanTeacherConfig,
    SelfDistillationMixin,
    Teacher,
    TemporalEnsembleConfig,
    logs,
)
from lstsd_hf.errors import InputError
from lstsd_hf.health import SilenceDetector
from lstsd_hf.logs import MicroBatch, TrainingLog
from tests import helpers
from tests.helpers import make_model

EPOCHS = 4
CONFIG = LSTSDConfig(mini_generation_epochs=1)


def make_trainer(make_args, teacher=CONFIG, trainer_class=LSTSDTrainer, **options):
    return helpers.make_trainer(make_args, teacher, trainer_class, **({"num_train_epochs": EPOCHS} | options))


class Overflows(torch.nn.Module):
    """A model whose outputs are infinite in one step, as in half precision; its loss is not taken from them."""

    def __init__(self, model, step, value):
        super().__init__()
        self.model, self.config, self.step, self.value, self.steps = model, model.config, step, value, 0

    def forward(self, input_ids, labels=None):
        outputs = self.model(input_ids=input_ids, labels=labels)
        self.steps += self.training
        if self.training and self.steps == self.step:
            outputs["logits"] = torch.full_like(outputs["logits"], self.value)
        return outputs


@pytest.mark.parametrize("config", [CONFIG, TemporalEnsembleConfig(rampup_epochs=0.0)])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_diverged_batch_is_not_stored(make_args, config, value):
    """In the first epoch, where nothing is distilled: its examples have no teacher in the second one, and get one."""
    trainer = make_trainer(make_args, config, model=Overflows(make_model(), 2, value))
    coverage = []

    class Look(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            if trainer.teacher.memory is not None:
                coverage.append(trainer.teacher.memory.coverage)

    trainer.add_callback(Look())
    trainer.train()
    assert coverage == [pytest.approx(10 / 14), 1.0, 1.0]
    assert trainer.teacher.memory.state_dict()["rows"].isfinite().all()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


def test_each_log_has_coverage_divergences_and_agreement(make_args):
    """Compared with the share counted from the outputs that the memory was given."""
    config = LSTSDConfig(mini_generation_epochs=2)
    trainer = make_trainer(make_args, config, model=make_model(dropout=0.5), logging_strategy="epoch")
    seen = []
    observe = trainer.teacher.observe
    trainer.teacher.observe = lambda batch: (
        seen.append((batch.progress.epoch, batch.indices.tolist(), batch.student_logits.argmax(-1).tolist())),
        observe(batch),
    )
    trainer.train()
    answers = {(epoch, i): answer for epoch, indices, found in seen for i, answer in zip(indices, found, strict=True)}
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["teacher_coverage"] for entry in logs] == [0.0, 1.0, 1.0, 1.0]
    assert all("teacher_agreement_short" not in entry for entry in logs[:2])
    for epoch in (2, 3):
        for name, source in (("short", epoch - 1), ("long", 1)):
            # A mean over batches, the last of which is smaller.
            shares = [
                np.mean([answers[epoch, i] == answers[source, i] for i in indices])
                for when, indices, _ in seen
                if when == epoch
            ]
            assert logs[epoch][f"teacher_agreement_{name}"] == pytest.approx(np.mean(shares))
            assert logs[epoch][f"loss_{name}"] > 0
    assert 0 < logs[3]["teacher_agreement_long"] < 1


# ---- Dead teachers ----


def test_no_coverage(make_args):
    """The loss is finite, for it is not made of the outputs."""

    class Broken(Overflows):
        def forward(self, input_ids, labels=None):
            self.steps = self.step - 1
            return super().forward(input_ids, labels)

    trainer = make_trainer(make_args, model=Broken(make_model(), 1, float("nan")))
    with pytest.raises(InputError, match="must hold a prediction for some examples by now, got none: the model's outp"):
        trainer.train()
    # Without weight nobody is taught, and training goes on as stock's would.
    make_trainer(make_args, LSTSDConfig.neutral(), model=Broken(make_model(), 1, float("nan"))).train()


@pytest.mark.parametrize(
    "config", [LSTSDConfig(mini_generation_epochs=1, teacher_floor=0.0), MeanTeacherConfig(rampup_epochs=0.0)]
)
@pytest.mark.parametrize(
    "logging", [{"logging_strategy": "epoch"}, {"logging_steps": 1}, {"logging_steps": 3}, {"logging_strategy": "no"}]
)
def test_zero_divergence(make_args, config, logging):
    options = {"learning_rate": 0.0, "per_device_train_batch_size": 1, **logging}
    trainer = make_trainer(make_args, config, model=make_model(dropout=0.0), **options)
    with pytest.raises(InputError) as error:
        trainer.train()
    assert "must be a number other than 0, got " in str(error.value)
    assert "says exactly what its teacher said: is the learning rate 0, or is everything frozen?" in str(error.value)
    assert trainer.state.global_step <= 2 * 14 + 2


def test_a_term_of_another_kind(make_args):
    class Bare(Teacher):
        def loss_terms(self, batch):
            return {"bare": batch.student_logits.mean()}

    with pytest.raises(
        TypeError, match="`loss_terms` must return a `DistillationTerm` for the term `bare`, got Tensor"
    ):
        make_trainer(make_args, Bare()).train()


def test_no_gradient(make_args):
    class Mine(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            outputs["logits"] = outputs["logits"].detach()
            return (loss, outputs) if return_outputs else loss

    class Both(SelfDistillationMixin, Mine):
        pass

    message = "The terms `short` and `long` must have a gradient, got none: the student's logits are detached"
    with pytest.raises(InputError, match=message):
        make_trainer(make_args, trainer_class=Both).train()


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_the_agreement_of_a_large_batch(dtype):
    log = TrainingLog()
    agreement = torch.arange(6000).remainder(4).eq(0).to(dtype)
    term = DistillationTerm(torch.zeros(6000), 1.0, agreement)
    log.add(MicroBatch(None, None, {"base": torch.tensor(1.0), "late": torch.tensor(1.0)}, {"late": term}, 1), 0)
    assert log.drain(1, 2)["teacher_agreement_late"] == 0.25


def test_terms_that_are_computed_together_are_logged_separately():
    """Over two batches of which the last one is smaller, and of which each mean counts alike."""
    log = TrainingLog()
    for step, (agreement, means) in enumerate([([[1, 0], [1, 1]], [1.0, 3.0]), ([[1], [0]], [2.0, 5.0])]):
        term = SimpleNamespace(agreement=torch.tensor(agreement, dtype=torch.bool))
        parts = {"base": torch.tensor(1.0), ("short", "long"): torch.tensor(means)}
        log.add(MicroBatch(None, None, parts, {("short", "long"): term}, 1), step)
    assert log.drain(2, 2) == {
        "loss_base": 1.0,
        "loss_short": 1.5,
        "loss_long": 4.0,
        "teacher_agreement_short": 0.75,
        "teacher_agreement_long": 0.5,
    }


def test_silence_is_counted_over_stretches():
    detector = SilenceDetector()
    detector.check({}, 10, 4)  # nothing is distilled yet
    detector.check({"short": 0.0, "long": 0.0}, 13, 14)
    detector.check({"short": 0.0, "long": 1e-12}, 1, 14)
    detector.check({"short": 0.0, "long": 0.0}, 13, 14)
    with pytest.raises(InputError, match=r"got short 0\.0, long 0\.0 for 14 optimizer steps"):
        detector.check({"short": 0.0, "long": 0.0}, 1, 14)


def test_a_moving_average_that_has_just_begun_is_not_silent(make_args):
    """One step is an epoch here, and after it the average is still the model."""
    config = MeanTeacherConfig(rampup_epochs=0.0)
    trainer = make_trainer(make_args, config, model=make_model(dropout=0.0), per_device_train_batch_size=14)
    trainer.train()
    assert trainer.state.log_history[0]["loss_consistency"] == 0.0


def test_processes_may_have_had_different_terms(monkeypatch):
    """Means are over all of them, a term that one did not have is zero there; agreements are over who had it."""
    log = TrainingLog()
    values = torch.tensor([1.0, 3.0])
    terms = {"late": DistillationTerm(values, 1.0, agreement=torch.tensor([1.0, 0.0]))}
    log.add(MicroBatch(None, None, {"base": torch.tensor(2.0), "late": values.mean()}, terms, 1), 0)
    other = ({"early": 8.0, "base": 4.0}, {"early": (1.0, 1)})
    monkeypatch.setattr(logs, "gather_objects", lambda mine: [mine, other])
    assert log.drain(1, 4) == {
        "loss_base": 3.0,
        "loss_late": 1.0,
        "loss_early": 4.0,
        "teacher_agreement_late": 0.5,
        "teacher_agreement_early": 1.0,
    }
