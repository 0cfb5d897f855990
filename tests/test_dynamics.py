"""Training dynamics: what is recorded, what the statistics say of it, and what is done with suspects."""

import itertools
import math

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstsd_hf import LSTSDConfig, LSTSDTrainer, NoTeacherConfig, Observer
from lstsd_hf.dynamics import History, drop_suspects, measures, relabel, statistics, suspects, to_cleanlab
from lstsd_hf.dynamics.files import EpochTable, epoch_paths, read_epoch, write_epoch
from lstsd_hf.errors import InputError

from .conftest import SavesAt, make_examples, make_model
from .test_problem_types import MULTI, NUMBERS, make_data

# ---- Statistics ----


def history_of(rows, labels, num_labels=2):
    """A history of two labels from the probabilities of label 1: a list for each example, `None` where not seen."""
    ones = np.array([[np.nan if value is None else value for value in row] for row in rows]).T
    return History(np.log(np.stack([1 - ones, ones], axis=-1)).astype(np.float64), np.array(labels))


HAND = history_of(
    [
        [0.2, 0.6, 0.3, 0.8, 0.9],  # label 1: learned, forgotten, learned again
        [0.9, 0.9, 0.9, 0.9, 0.9],  # label 0: never learned
        [0.1, 0.1, 0.1, 0.1, 0.1],  # label 0: always right
        [None, 0.6, None, 0.3, 0.7],  # label 1: not seen in every epoch
        [0.5, 0.6, 0.7, 0.8, 0.9],  # no label
        [None] * 5,  # never seen
    ],
    [1, 0, 0, 1, -1, 1],
)


def test_statistics_by_hand():
    nan = math.nan

    def same(found, wanted):
        np.testing.assert_allclose(found, wanted, atol=1e-6)

    same(measures.suspicion(HAND), [1 - 1.7 / 3, 0.9, 0.1, 1 - 0.45, nan, nan])
    same(measures.confidence(HAND), [0.56, 0.1, 0.9, 1.6 / 3, nan, nan])
    spread = math.sqrt(sum((value - 0.56) ** 2 for value in (0.2, 0.6, 0.3, 0.8, 0.9)) / 5)
    gap = math.sqrt(sum((value - 1.6 / 3) ** 2 for value in (0.6, 0.3, 0.7)) / 3)
    same(measures.variability(HAND), [spread, 0, 0, gap, nan, nan])
    same(measures.correctness(HAND), [3, 0, 5, 2, -1, -1])
    same(measures.forgetting(HAND), [1, 5, 0, 1, -1, -1])
    same(measures.first_learned(HAND), [2, 0, 1, 2, -1, -1])
    same(measures.last_wrong(HAND), [3, 5, 0, 4, -1, -1])
    margins = [math.log(value / (1 - value)) for value in (0.6, 0.3, 0.8, 0.9)]
    gaps = [math.log(value / (1 - value)) for value in (0.6, 0.3, 0.7)]
    same(measures.aum(HAND), [sum(margins) / 4, -math.log(9), math.log(9), sum(gaps) / 3, nan, nan])
    same(measures.normalized_margin(HAND), [0.56, 0.1, 0.9, 1.6 / 3, nan, nan])
    # Thresholds: the mean of label 0 over its examples is (0.1 + 0.9) / 2, of label 1 (0.56 + 0.533) / 2.
    assert measures.confident_labels(HAND).tolist() == [1, 1, 0, -1, -1, -1]
    assert measures.confident_joint(HAND).tolist() == [[1, 1], [0, 1]]
    table = statistics(HAND)
    assert table["believed"].tolist() == [1, 1, 0, 0, 1, -1]
    assert table["epochs_seen"].tolist() == [5, 5, 5, 3, 5, 0]


def test_a_label_that_no_example_has():
    history = History(np.log(np.full((2, 3, 3), 1 / 3)), np.array([0, 1, 1]))
    assert measures.confident_joint(history)[2].tolist() == [0, 0, 0]
    assert measures.confident_joint(history).sum() == 3


@pytest.mark.parametrize(("epochs", "window"), [(1, (1, 1)), (2, (2, 2)), (3, (2, 3)), (4, (2, 4)), (30, (2, 4))])
def test_the_window_of_a_short_run(epochs, window):
    history = history_of([[0.5] * epochs], [1])
    assert measures.suspicion_window(history) == window


def naive(history):
    """The published definitions, one example at a time."""
    for row, label in enumerate(history.given):
        seen = [np.exp(epoch[row]) for epoch in history.log_probs if not np.isnan(epoch[row][0])]
        own = [float(values[label]) for values in seen]
        right = [int(values.argmax()) == label for values in seen]
        yield {
            "confidence": sum(own) / len(own),
            "variability": math.sqrt(sum((value - sum(own) / len(own)) ** 2 for value in own) / len(own)),
            "correctness": sum(right),
            "forgetting": sum(a and not b for a, b in itertools.pairwise(right)) if any(right) else len(own),
        }


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 6), st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**31), st.floats(0, 0.8), st.floats(0.1, 5)
)
def test_statistics_are_those_of_a_naive_loop(epochs, examples, labels, seed, gaps, scale):
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.normal(size=(epochs, examples, labels)) * scale)
    log_probs = logits.log_softmax(-1).numpy()
    # The last epoch sees all.
    log_probs[:-1][random.random((epochs - 1, examples)) < gaps] = np.nan
    history = History(log_probs, random.integers(0, labels, examples))
    table = statistics(history)
    for row, wanted in enumerate(naive(history)):
        for name, value in wanted.items():
            assert table[name][row] == pytest.approx(value, abs=1e-9), name
    assert table["suspicion"].dropna().between(0, 1).all()
    assert (table["first_learned"] <= epochs).all()
    assert ((table["last_wrong"] == 0) == (table["correctness"] == table["epochs_seen"])).all()


def test_cleanlab_agrees():
    cleanlab_rank = pytest.importorskip("cleanlab.rank")
    from cleanlab.count import compute_confident_joint

    random = np.random.default_rng(0)
    log_probs = torch.tensor(random.normal(size=(1, 200, 3))).log_softmax(-1).numpy()
    history = History(log_probs, np.concatenate([[0, 1, 2], random.integers(0, 3, 197)]))
    arguments = to_cleanlab(history)
    joint = compute_confident_joint(**arguments, calibrate=False)
    # cleanlab puts at least 1 into each diagonal entry.
    assert joint.tolist() == measures.confident_joint(history).tolist()
    for ours, theirs in (
        (measures.confidence, cleanlab_rank.get_self_confidence_for_each_label),
        (measures.normalized_margin, cleanlab_rank.get_normalized_margin_for_each_label),
        (measures.confidence_weighted_entropy, cleanlab_rank.get_confidence_weighted_entropy_for_each_label),
    ):
        np.testing.assert_allclose(ours(history), theirs(**arguments), rtol=1e-6, atol=1e-9)


def test_threshold_samples():
    first, second = (measures.threshold_rows(np.zeros(90), 2, seed) for seed in (0, 1))
    assert len(first) == len(second) == 30
    assert not set(first) & set(second)
    history = history_of([[0.5, 0.9], [0.5, 0.2], [0.5, 0.4], [0.5, 0.3]], [1, 1, 1, 1])
    assert measures.aum_suspects(history, np.array([2, 3]), percentile=50).tolist() == [False, True, False, False]
    with pytest.raises(InputError, match="`rows` must name the threshold samples, got none"):
        measures.aum_suspects(history, np.array([], dtype=int))


# ---- Files ----


@pytest.mark.parametrize("num_labels", [2, 64, 100])
def test_an_epoch_comes_back_as_it_was(tmp_path, num_labels):
    random = np.random.default_rng(0)
    log_probs = torch.tensor(random.normal(size=(9, num_labels)) * 3).log_softmax(-1).float().numpy()
    log_probs[4] = np.nan
    given = np.array([0, 1, num_labels - 1, -1, 1, 0, 1, 0, 1])
    write_epoch(tmp_path / "epoch-0001.parquet", EpochTable(log_probs, given))
    found = read_epoch(tmp_path / "epoch-0001.parquet")
    assert found.given.tolist() == [0, 1, num_labels - 1, -1, -1, 0, 1, 0, 1]
    assert np.isnan(found.log_probs[4]).all()
    seen = [row for row in range(9) if row != 4]
    labelled = [row for row in seen if given[row] >= 0]
    np.testing.assert_allclose(
        found.log_probs[labelled, given[labelled]], log_probs[labelled, given[labelled]], rtol=2e-3
    )
    assert (found.log_probs[seen].argmax(1) == log_probs[seen].argmax(1)).all()
    np.testing.assert_allclose(np.exp(found.log_probs[seen]).sum(1), 1, atol=0.05)
    if num_labels <= 64:
        np.testing.assert_allclose(found.log_probs[seen], log_probs[seen], rtol=1e-3)


def test_an_epoch_that_saw_nobody(tmp_path):
    """As one whose outputs were not finite."""
    write_epoch(tmp_path / "epoch-0001.parquet", EpochTable(np.full((3, 2), np.nan, np.float32), np.full(3, -1)))
    assert np.isnan(read_epoch(tmp_path / "epoch-0001.parquet").log_probs).all()


def test_folders_that_are_none(tmp_path):
    with pytest.raises(
        InputError, match=r"must have the files of all epochs .* found none\. Train with `record_dynamics"
    ):
        History.read(tmp_path)
    (tmp_path / "epoch-0001.parquet").write_text("no such file")
    with pytest.raises(InputError, match="must be an epoch of recorded dynamics, and cannot be read"):
        History.read(tmp_path)


# ---- Recording ----


class Spy(Observer):
    """Every output that was seen, by epoch and example."""

    name = "spy"
    is_stateful = False

    def reset(self):
        self.seen = {}

    def observe(self, batch):
        for index, row in zip(batch.indices.tolist(), batch.student_logits.detach(), strict=True):
            self.seen[batch.progress.epoch, index] = row.log_softmax(-1).numpy()


def make_trainer(make_args, teacher=None, observers=(), callbacks=None, data=None, **options):
    torch.manual_seed(5)
    return LSTSDTrainer(
        model=make_model(),
        args=make_args(**{"num_train_epochs": 4, "learning_rate": 1e-2, **options}),
        train_dataset=data if data is not None else make_examples(14),
        teacher=teacher if teacher is not None else NoTeacherConfig(),
        observers=observers,
        record_dynamics=True,
        callbacks=callbacks,
    )


@pytest.mark.parametrize("teacher", [NoTeacherConfig(), LSTSDConfig(mini_generation_epochs=1)], ids=lambda c: c.name)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_epoch_of_every_example_is_recorded(make_args, teacher, accumulation):
    spy = Spy()
    trainer = make_trainer(make_args, teacher, [spy], gradient_accumulation_steps=accumulation)
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
    with pytest.raises(
        InputError, match=r"The epochs before the checkpoint must be in .* epoch-0002\.parquet is missing"
    ):
        make_trainer(make_args, **options).train(resume_from_checkpoint=True)


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
    with pytest.raises(InputError, match=f"`record_dynamics` needs one label of several .* got a model for {problem}"):
        trainer.train()


def test_label_errors_are_ranked_by_the_history(make_args):
    data = [example | {"text": f"text {index}"} for index, example in enumerate(make_examples(14))]
    trainer = make_trainer(make_args, LSTSDConfig(mini_generation_epochs=1), data=data)
    with pytest.raises(InputError, match="An epoch must have been recorded"):
        trainer.rank_label_errors()
    trainer.args.remove_unused_columns = True
    trainer.train()
    ranking = trainer.rank_label_errors()
    table = statistics(History.read(trainer.dynamics_folder)).sort_values("suspicion", ascending=False)
    assert [candidate.index for candidate in ranking] == table["index"].tolist()
    assert [candidate.text for candidate in ranking] == table["text"].tolist()
    assert [1 - c.given_probability for c in ranking] == pytest.approx(table["suspicion"].tolist(), abs=1e-6)


# ---- What is done with suspects ----

SIX = history_of([[0.9] * 4, [0.8] * 4, [0.3] * 4, [0.2] * 4, [0.1] * 4, [0.95] * 4], [1, 1, 1, 0, 0, 0])


def datasets():
    rows = [{"text": f"text {row}", "label": label} for row, label in enumerate(SIX.given.tolist())]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    return {"list": rows, "datasets": Dataset.from_list(rows, features=features)}


@pytest.mark.parametrize("kind", ["list", "datasets"])
def test_suspects_are_dropped_or_relabelled(kind):
    dataset = datasets()[kind]
    assert suspects(SIX)["index"].tolist() == [5, 2]
    kept, dropped = drop_suspects(dataset, SIX)
    assert [row["text"] for row in kept] == ["text 0", "text 1", "text 3", "text 4"]
    assert dropped[["index", "action"]].values.tolist() == [[5, "dropped"], [2, "dropped"]]
    changed, record = relabel(dataset, SIX, count=3)
    assert [row["label"] for row in changed] == [1, 1, 0, 0, 0, 1]
    assert sorted(record["index"]) == [2, 5]  # the third suspect's label is believed
    assert [row["label"] for row in dataset] == SIX.given.tolist()
    if kind == "datasets":
        assert changed.features == dataset.features


def test_suspects_of_other_data_are_refused():
    with pytest.raises(InputError, match="must be the training set of the recorded run, with 6 examples, got 5"):
        drop_suspects(datasets()["list"][:5], SIX)
    with pytest.raises(InputError, match="`count` must be from 0 to 6, the examples with a label, got 7"):
        suspects(SIX, 7)
    with pytest.raises(InputError, match="must have a column label or labels or label_ids, got text"):
        relabel([{"text": ""}] * 6, SIX)
    with pytest.raises(InputError, match="Every example must have a label and a prediction, got 2 without"):
        to_cleanlab(HAND)
