"""Predictions by models that did not train on what they judge."""

import gc
import weakref
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DataCollatorWithPadding, Trainer

from lstsd_hf import LSTSDTrainer, MeanTeacherConfig
from lstsd_hf.dynamics import History, InSampleWarning, cross_validate, suspects, to_cleanlab
from lstsd_hf.dynamics.cross_validation import _folds
from lstsd_hf.dynamics.files import EpochTable, write_epoch
from lstsd_hf.errors import InputError
from tests.helpers import HAND, history_of, make_examples, make_model, tokenizer

ROWS = [{"text": f"text {row}", "label": row % 3} for row in range(20)]


class Memoriser:
    """A trainer whose model is sure of what it has trained on, and of label 0 elsewhere."""

    trainings = 0

    def __init__(self, rows):
        self.rows = self.train_dataset = [rows[index] for index in range(len(rows))]
        self.model = torch.nn.Identity()
        self.args = SimpleNamespace(train_sampling_strategy="random", dataloader_drop_last=False)

    def train(self):
        type(self).trainings += 1

    def predict(self, rows):
        labels = [row["label"] if row in self.rows else 0 for row in rows]
        return SimpleNamespace(predictions=10.0 * np.eye(3)[labels])


def test_no_model_has_trained_on_what_it_judges(tmp_path):
    history = cross_validate(Memoriser, ROWS, tmp_path, num_folds=4)
    assert history.log_probs.shape == (1, 20, 3)
    assert (history.log_probs[0].argmax(-1) == 0).all()
    assert history.given.tolist() == [row["label"] for row in ROWS]
    assert history.texts == [row["text"] for row in ROWS]
    again = History.read(tmp_path)
    assert again.out_of_sample
    np.testing.assert_allclose(again.log_probs, history.log_probs, rtol=1e-3)


def test_each_fold_is_a_training_of_its_own(tmp_path, make_args):
    data = make_examples(12)

    def make_trainer(rows):
        torch.manual_seed(3)
        return Trainer(make_model(), make_args(num_train_epochs=2, learning_rate=1e-2), train_dataset=rows)

    history = cross_validate(make_trainer, data, tmp_path, num_folds=3, seed=1)
    folds = _folds(history.given, 3, 1)
    for fold in range(3):
        trainer = make_trainer([row for row, own in zip(data, folds, strict=True) if own != fold])
        trainer.train()
        held_out = [row for row, own in zip(data, folds, strict=True) if own == fold]
        expected = torch.tensor(trainer.predict(held_out).predictions).log_softmax(-1)
        np.testing.assert_allclose(history.log_probs[0, folds == fold], expected, rtol=2e-3, atol=1e-4)


def test_a_trainer_that_has_seen_what_it_judges_is_refused(tmp_path, make_args):
    data, model = make_examples(12), make_model()
    with pytest.raises(InputError, match="must train on the 8 examples that it is given, got a trainer of 12"):
        cross_validate(lambda rows: Trainer(model, make_args(), train_dataset=data), data, tmp_path / "all", 3)
    with pytest.raises(InputError, match="must return a trainer of a new model each time, got the model of the fold"):
        cross_validate(lambda rows: Trainer(model, make_args(), train_dataset=rows), data, tmp_path / "same", 3)
    with pytest.raises(TypeError, match="`make_trainer` must return a `Trainer`, got NoneType"):
        cross_validate(lambda rows: None, data, tmp_path / "none", 3)


@given(labels=st.lists(st.integers(0, 3), min_size=5, max_size=60), folds=st.integers(2, 5), seed=st.integers(0, 9))
def test_folds_have_the_same_share_of_every_label(labels, folds, seed):
    labels = np.array(labels)
    found = _folds(labels, folds, seed)
    assert max(Counter(found.tolist()).values()) - min(Counter(found.tolist()).get(f, 0) for f in range(folds)) <= 1
    for label in range(4):
        counts = np.bincount(found[labels == label], minlength=folds)
        assert counts.max() - counts.min() <= 1


def interrupted(folder):
    """Stops in the third of four folds; the class of trainers goes on when it is called again."""

    class Stops(Memoriser):
        trainings = 0

        def train(self):
            super().train()
            if self.trainings == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cross_validate(Stops, ROWS, folder, num_folds=4)
    return Stops


def test_finished_folds_are_kept(tmp_path):
    trainer_class = interrupted(tmp_path)
    history = cross_validate(trainer_class, ROWS, tmp_path, num_folds=4)
    assert trainer_class.trainings == 5
    whole = cross_validate(Memoriser, ROWS, tmp_path / "whole", num_folds=4)
    np.testing.assert_array_equal(history.log_probs, whole.log_probs)


def test_a_fold_of_other_labels_is_not_taken_for_one_of_these(tmp_path):
    """A label that was corrected between two calls moves other examples to other folds."""
    trainer_class = interrupted(tmp_path)
    corrected = [*ROWS[:-1], ROWS[-1] | {"label": 2}]
    history = cross_validate(trainer_class, corrected, tmp_path, num_folds=4)
    assert not np.isnan(history.log_probs).any()
    assert (history.log_probs[0].argmax(-1) == 0).all()
    assert history.given[-1] == 2


@pytest.mark.parametrize("change", ["rate", "config", "teacher", "decay", "function"])
def test_a_fold_of_another_training_is_not_taken_for_one_of_these(tmp_path, make_args, change):
    """Called again with the same settings, in another folder for the trainings, it keeps them."""
    trained, models, alive = [], [], []

    class Counts(LSTSDTrainer):
        def train(self, *args, **kwargs):
            trained.append(self.args.output_dir)
            return super().train(*args, **kwargs)

    def judge(where, rate=1e-2, config="gelu", teacher="mean_teacher", decay=0.9, function=torch.relu):
        def make_trainer(rows):
            model = make_model()
            model.config.hidden_act = config
            args = make_args(num_train_epochs=2, learning_rate=rate, output_dir=str(tmp_path / where))
            # What has no content that can be read is left out.
            args.gradient_checkpointing_kwargs = {"context_fn": function}
            args.logging_steps = 1 + len(trained)
            teacher_config = MeanTeacherConfig(ema_decay=decay) if teacher == "mean_teacher" else teacher
            gc.collect()
            alive.append(sum(model() is not None for model in models))
            models.append(weakref.ref(model))
            return Counts(model, args, train_dataset=rows, teacher=teacher_config)

        return cross_validate(make_trainer, make_examples(12), tmp_path / "folds", num_folds=2)

    first = judge("one")
    np.testing.assert_array_equal(judge("two").log_probs, first.log_probs)
    assert len(trained) == 2
    # The second fold's model is made when the first one's has gone.
    assert not any(alive)
    others = {"rate": 1e-3, "config": "relu", "teacher": "lstsd", "decay": 0.5, "function": torch.sigmoid}
    judge("one", **{change: others[change]})
    assert len(trained) == (2 if change == "function" else 4)


def test_labels_of_another_name(tmp_path, make_args):
    rows = [{"text": row["text"], "target": row["label"]} for row in ROWS]

    class Named(Memoriser):
        def predict(self, rows):
            return super().predict([row | {"label": row["target"]} for row in rows])

    with pytest.raises(InputError, match="must have a class as"):
        cross_validate(Named, rows, tmp_path)
    history = cross_validate(Named, rows, tmp_path, label_name="target")
    assert history.given.tolist() == [row["label"] for row in ROWS]


@pytest.mark.parametrize("options", [{"train_sampling_strategy": "group_by_length"}, {"dataloader_drop_last": True}])
def test_predictions_belong_to_their_examples(tmp_path, make_args, options):
    """Trainer sorts predictions too where it groups by length, and drops a last batch."""
    rows = [
        {"input_ids": row["input_ids"][: 3 + index % 5], "labels": row["labels"]}
        for index, row in enumerate(make_examples(22))
    ]

    def judged(folder, **options):
        def make_trainer(data):
            args = make_args(num_train_epochs=1, learning_rate=0.0, **options)
            return Trainer(make_model(), args, train_dataset=data, data_collator=DataCollatorWithPadding(tokenizer()))

        return cross_validate(make_trainer, rows, tmp_path / folder, num_folds=2).log_probs

    np.testing.assert_allclose(judged("options", **options), judged("plain"), atol=1e-3)


def test_what_cannot_be_is_refused(tmp_path, make_args):
    cross_validate(Memoriser, ROWS, tmp_path, num_folds=4)
    with pytest.raises(InputError, match="must be empty or hold the folds of these examples, found others"):
        cross_validate(Memoriser, ROWS[:-1], tmp_path, num_folds=4)
    with pytest.raises(InputError, match="`num_folds` must be from 2 to 20, the number of examples, got 21"):
        cross_validate(Memoriser, ROWS, tmp_path, num_folds=21)
    with pytest.raises(InputError, match="`texts` must have one for each of 20 examples, got 1"):
        cross_validate(Memoriser, ROWS, tmp_path, texts=["one"])
    with pytest.raises(InputError, match=r"must have a class as .* got 0\.5"):
        cross_validate(Memoriser, [{"text": "", "label": 0.5}] * 4, tmp_path / "numbers")
    write_epoch(tmp_path / "epoch-0002.parquet", EpochTable(np.zeros((20, 3), np.float32), np.zeros(20, int)))
    with pytest.raises(InputError, match="found a recorded training"):
        cross_validate(Memoriser, ROWS, tmp_path, num_folds=4)

    def predicting(outputs):
        class Predicts(Memoriser):
            def predict(self, rows):
                return SimpleNamespace(predictions=outputs(len(rows)))

        return Predicts

    with pytest.raises(InputError, match="outputs must be finite, got NaN or infinity: its training diverged"):
        cross_validate(predicting(lambda count: np.full((count, 3), np.nan)), ROWS, tmp_path / "nan")
    for name, outputs in (("argmax", lambda count: np.zeros(count)), ("labels", lambda count: np.zeros((count, 2)))):
        with pytest.raises(InputError, match=r"must return logits \(4, num_labels\) for labels up to 2, got"):
            cross_validate(predicting(outputs), ROWS, tmp_path / name)
    # Labels may be excluded.
    excluding = predicting(lambda count: np.tile([0.0, -np.inf, 0.0], (count, 1)))
    assert cross_validate(excluding, ROWS, tmp_path / "mask").log_probs[0, 0].tolist() == pytest.approx(
        [np.log(0.5), -np.inf, np.log(0.5)], abs=1e-3
    )


@pytest.mark.parametrize("call", [suspects, to_cleanlab])
def test_in_sample_numbers_that_mislead_are_said_to(call, recwarn):
    history = history_of([[0.9] * 3, [0.2] * 3, [0.6] * 3], [1, 1, 0])
    with pytest.warns(InSampleWarning, match="in-sample: the model has trained on the examples that it judges"):
        call(history)
    recwarn.clear()
    call(History(history.log_probs, history.given, out_of_sample=True))
    suspects(HAND, 1)
    assert not recwarn.list


def test_folds_of_other_examples_with_the_same_labels_are_none_of_these(tmp_path, monkeypatch):
    """Without texts the rows tell."""
    monkeypatch.setattr(Memoriser, "trainings", 0)
    rows, others = ([{"pixels": torch.tensor([row, shift]), "label": row % 3} for row in range(20)] for shift in (0, 1))
    monkeypatch.setattr(Memoriser, "predict", lambda self, rows: SimpleNamespace(predictions=np.zeros((len(rows), 3))))
    for data, trainings in ((rows, 2), (rows, 2), (others, 4)):
        cross_validate(Memoriser, data, tmp_path, num_folds=2)
        assert Memoriser.trainings == trainings


def test_held_out_rows_are_predicted_without_augmentation(tmp_path):
    class Augmented(torch.utils.data.Dataset):
        """Offers to leave it out, but no selection."""

        def __init__(self, is_augmented=True):
            self.is_augmented = is_augmented

        def __len__(self):
            return 20

        def __getitem__(self, row):
            return {"label": row % 3, "is_augmented": self.is_augmented}

        def without_augmentation(self):
            return Augmented(False)

    class Looks(Memoriser):
        def predict(self, rows):
            seen.extend(rows[index]["is_augmented"] for index in range(len(rows)))
            return SimpleNamespace(predictions=np.zeros((len(rows), 3)))

    seen = []
    cross_validate(Looks, Augmented(), tmp_path, num_folds=2)
    assert seen == [False] * 20


def test_rows_without_texts_that_cannot_be_read_are_judged(tmp_path):
    rows = [{"x": object(), "label": row % 3} for row in range(12)]

    class Judges(Memoriser):
        def predict(self, rows):
            return SimpleNamespace(predictions=np.zeros((len(rows), 3)))

    assert cross_validate(Judges, rows, tmp_path, num_folds=3).log_probs.shape == (1, 12, 3)
