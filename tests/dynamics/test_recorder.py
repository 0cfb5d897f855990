"""What is recorded of a run, and resumed."""

import copy
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import RandomSampler

from lstsd_hf import LSTSDConfig, LSTSDTrainer, NoTeacherConfig, Observer
from lstsd_hf.dynamics import History, measures, statistics
from lstsd_hf.dynamics.files import epoch_paths
from lstsd_hf.errors import InputError
from tests import helpers
from tests.helpers import MULTI, NUMBERS, SavesAt, make_data, make_examples, make_model

VANILLA = NoTeacherConfig()


class Spy(Observer):
    """Every output that was seen, by epoch and example."""

    name = "spy"
    is_stateful = False

    def reset(self):
        self.seen = {}

    def observe(self, batch):
        for index, row in zip(batch.indices.tolist(), batch.student_logits.detach(), strict=True):
            self.seen[batch.progress.epoch, index] = row.log_softmax(-1).numpy()


def make_trainer(make_args, teacher=VANILLA, **options):
    return helpers.make_trainer(make_args, teacher, **({"num_train_epochs": 4, "record_dynamics": True} | options))


@pytest.mark.parametrize("teacher", [NoTeacherConfig(), LSTSDConfig(mini_generation_epochs=1)], ids=lambda c: c.name)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_epoch_of_every_example_is_recorded(make_args, teacher, accumulation):
    spy = Spy()
    trainer = make_trainer(make_args, teacher, observers=[spy], gradient_accumulation_steps=accumulation)
    trainer.train()
    history = History.read(trainer.dynamics_folder)
    assert history.log_probs.shape == (4, 14, 2)
    assert history.given.tolist() == [example["labels"] for example in trainer.train_dataset]
    for (epoch, index), row in spy.seen.items():
        np.testing.assert_allclose(history.log_probs[epoch, index], row, rtol=1e-3, atol=1e-3)
    assert len(spy.seen) == 4 * 14
    suspect = [entry["dynamics_suspects"] for entry in trainer.state.log_history if "dynamics_suspects" in entry][-1]
    third = history.log_probs[2].argmax(-1)
    assert suspect == (third != history.given).sum()


def test_recording_leaves_training_as_it_is(make_args):
    recorded = make_trainer(make_args)
    recorded.train()
    torch.manual_seed(5)
    stock = LSTSDTrainer(
        model=make_model(), args=recorded.args, train_dataset=make_examples(14), teacher=NoTeacherConfig()
    )
    stock.train()
    for first, second in zip(recorded.model.parameters(), stock.model.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("step", [1, 4, 6, 8])  # of 4 an epoch
def test_a_resumed_run_ends_with_the_same_files(make_args, step, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1000}
    whole = make_trainer(make_args, callbacks=[SavesAt([step])], output_dir=str(tmp_path / "run"), **options)
    whole.train()
    wanted = {path.name: path.read_bytes() for path in whole.dynamics_folder.iterdir()}
    assert len(wanted) == 5
    # What was written after the checkpoint goes, and comes again.
    resumed = make_trainer(make_args, output_dir=str(tmp_path / "run"), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    assert {path.name: path.read_bytes() for path in resumed.dynamics_folder.iterdir()} == wanted


def test_files_of_an_earlier_longer_run_go(make_args):
    make_trainer(make_args).train()
    shorter = make_trainer(make_args, num_train_epochs=2)
    shorter.train()
    assert [path.name for path in epoch_paths(shorter.dynamics_folder)] == ["epoch-0001.parquet", "epoch-0002.parquet"]


def test_a_resumed_run_without_its_files_is_refused(make_args):
    options = {"save_strategy": "epoch"}
    trainer = make_trainer(make_args, **options)
    trainer.train()
    (trainer.dynamics_folder / "epoch-0002.parquet").unlink()
    with pytest.raises(InputError, match=r"must have the epochs of this run, but epoch-0002\.parquet is missing"):
        make_trainer(make_args, **options).train(resume_from_checkpoint=True)


def test_a_resumed_run_with_files_of_another_run_is_refused(make_args, tmp_path):
    options = {"save_strategy": "epoch", "output_dir": str(tmp_path / "run")}
    trainer = make_trainer(make_args, **options)
    trainer.train()
    checkpoint = str(tmp_path / "run" / "checkpoint-12")
    other = make_trainer(make_args, output_dir=str(tmp_path / "other"), learning_rate=1e-3)
    other.train()
    shutil.copytree(other.dynamics_folder, trainer.dynamics_folder, dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"epoch-0001\.parquet is another run's, or damaged\. Resume with the same"):
        make_trainer(make_args, **options).train(resume_from_checkpoint=checkpoint)


class DrawsWithReplacement(LSTSDTrainer):
    def _get_train_sampler(self, *args):
        return RandomSampler(self.train_dataset, replacement=True, num_samples=40)


def test_what_several_draws_said_is_a_distribution(make_args):
    trainer = DrawsWithReplacement(
        model=make_model(),
        args=make_args(num_train_epochs=2, learning_rate=0.5),
        train_dataset=make_examples(14),
        teacher=VANILLA,
        record_dynamics=True,
    )
    trainer.train()
    probabilities = np.exp(History.read(trainer.dynamics_folder).log_probs)
    seen = ~np.isnan(probabilities[..., 0])
    assert seen.sum() > 20
    np.testing.assert_allclose(probabilities[seen].sum(-1), 1, atol=2e-3)


@pytest.mark.parametrize("problem", [MULTI, NUMBERS])
def test_other_problems_are_refused(make_args, problem):
    model = make_model(num_labels=3)
    model.config.problem_type = problem
    trainer = LSTSDTrainer(
        model=model,
        args=make_args(),
        train_dataset=make_data(problem),
        teacher=NoTeacherConfig(),
        record_dynamics=True,
    )
    with pytest.raises(
        InputError, match=f"`record_dynamics` needs single-label classification.* got a model for {problem}"
    ):
        trainer.train()


def test_label_errors_are_ranked_by_the_history(make_args):
    data = [example | {"text": f"text {index}"} for index, example in enumerate(make_examples(14))]
    trainer = make_trainer(make_args, LSTSDConfig(mini_generation_epochs=1), train_dataset=data)
    with pytest.raises(InputError, match="An epoch must have been recorded"):
        trainer.rank_label_errors()
    trainer.args.remove_unused_columns = True
    trainer.train()
    ranking = trainer.rank_label_errors()
    table = statistics(History.read(trainer.dynamics_folder)).sort_values("suspicion", ascending=False)
    assert [candidate.index for candidate in ranking] == table["index"].tolist()
    assert [candidate.text for candidate in ranking] == table["text"].tolist()
    assert [1 - c.given_probability for c in ranking] == pytest.approx(table["suspicion"].tolist(), abs=1e-6)


def test_label_errors_of_another_training_set_are_not_ranked(make_args):
    for options in {"record_dynamics": True}, {}:
        trainer = make_trainer(make_args, LSTSDConfig(), **options)
        trainer.train()
        trainer.train_dataset = make_examples(14, seed=5)
        with pytest.raises(InputError, match="got another one since"):
            trainer.rank_label_errors()
        trainer.train()
        assert len(trainer.rank_label_errors()) == 14


def test_a_trainer_that_has_recorded_is_copied(make_args):
    trainer = make_trainer(make_args, LSTSDConfig(), record_dynamics=True)
    trainer.train()
    other = copy.deepcopy(trainer)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    other.train()
    assert all(map(torch.equal, trainer.model.parameters(), before))
    assert other.teacher.context.student.train_dataset is other.train_dataset


def test_another_runs_folder_is_not_taken_for_ones_own(make_args):
    make_trainer(make_args).train()
    with pytest.raises(InputError, match="An epoch must have been recorded by this trainer, found none"):
        make_trainer(make_args).rank_label_errors()


def test_trackers_get_the_terms_and_the_suspects(make_args, tmp_path):
    """What `report_to` names is told what the log says; here TensorBoard, read back."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(
        make_args, LSTSDConfig(mini_generation_epochs=1), report_to=["tensorboard"], logging_strategy="epoch"
    )
    trainer.train()
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    names = ("loss", "loss_base", "loss_short", "loss_long", "teacher_agreement_short", "dynamics_suspects")
    for name in names:
        logged = [entry[name] for entry in trainer.state.log_history if name in entry]
        assert len(logged) >= 3, name
        assert [event.value for event in events.Scalars(f"train/{name}")] == pytest.approx(logged), name


def test_threshold_samples_find_wrong_labels(make_args):
    """Pleiss et al.'s whole procedure: an extra label for some rows, two runs that judge each other's rows."""
    data = make_examples(240, seed=3)
    is_wrong = np.arange(240) % 6 == 0
    data = [row | {"labels": int(row["labels"] ^ wrong)} for row, wrong in zip(data, is_wrong, strict=True)]
    given = np.array([row["labels"] for row in data])
    is_suspect = np.zeros(240, dtype=bool)
    for seed in (0, 1):
        rows = measures.threshold_rows(given, num_labels=2, seed=seed)
        extra = [row | {"labels": 2} if index in rows else row for index, row in enumerate(data)]
        model = make_model(num_labels=3, dropout=0.0)
        options = {"num_train_epochs": 6, "per_device_train_batch_size": 16, "logging_strategy": "no"}
        trainer = make_trainer(make_args, model=model, train_dataset=extra, **options)
        trainer.train()
        is_suspect |= measures.aum_suspects(History.read(trainer.dynamics_folder), rows)
    assert is_suspect[is_wrong].mean() > is_suspect[~is_wrong].mean() + 0.1
