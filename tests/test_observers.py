"""Observers beside the teacher: what they see, what their checkpoints hold, and that training is not disturbed."""

import pytest
import torch
from transformers import Trainer

from lstsd_hf import LSTSDConfig, LSTSDTrainer, NoTeacherConfig, Observer
from lstsd_hf.errors import InputError
from tests import helpers
from tests.helpers import assert_same_weights, make_examples, make_model

LSTSD = LSTSDConfig(mini_generation_epochs=2)


class Diary(Observer):
    """Keeps the sum of each example's logits over the epochs."""

    name = "diary"

    def reset(self):
        self.sums = torch.zeros(self.context.num_examples, 2)
        self.epochs = []

    def on_epoch_begin(self, progress):
        self.epochs.append(progress.epoch)

    def observe(self, batch):
        assert batch.problem_type.name == "single_label_classification"
        assert batch.labels.tolist() == [self.labels[index] for index in batch.indices.tolist()]
        self.sums[batch.indices] += batch.student_logits.detach()

    @property
    def labels(self):
        return [example["labels"] for example in self.context.student.train_dataset]

    def log_metrics(self):
        return {"diary_size": float(self.sums.abs().sum())}

    def state_dict(self):
        return {"sums": self.sums}

    def load_state_dict(self, state):
        self.sums = state["sums"].clone()


class Second(Diary):
    name = "second"


class Forgetful(Observer):
    name = "forgetful"

    def observe(self, batch):
        self.seen = True


def make_trainer(make_args, teacher=LSTSD, trainer_class=LSTSDTrainer, **options):
    return helpers.make_trainer(make_args, teacher, trainer_class, num_train_epochs=5, **options)


def trained(*args, **options):
    trainer = make_trainer(*args, **options)
    trainer.train()
    return trainer


@pytest.mark.parametrize("accumulation", [1, 2])
def test_observers_alone_leave_training_as_it_is(make_args, accumulation):
    options = {"gradient_accumulation_steps": accumulation}
    stock = trained(make_args, trainer_class=Trainer, **options)
    ours = trained(make_args, NoTeacherConfig(), observers=[Diary()], **options)
    assert_same_weights(stock.model, ours.model)
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (stock, ours)]
    assert losses[0] == losses[1]
    added = {name for entry in ours.state.log_history for name in entry} - {
        name for entry in stock.state.log_history for name in entry
    }
    assert added == {"diary_size"}


def test_observers_beside_a_teacher_leave_training_as_it_is(make_args):
    alone, observed = trained(make_args), trained(make_args, observers=[Diary(), Second()])
    assert_same_weights(alone.model, observed.model)


def test_they_see_what_the_memory_holds(make_args):
    class LastEpoch(Diary):
        def on_epoch_begin(self, progress):
            self.sums.zero_()

    diary = LastEpoch()
    trainer = make_trainer(make_args, observers=[diary])
    trainer.train()
    torch.testing.assert_close(diary.sums, trainer.teacher.memory.short_term_logits)


@pytest.mark.parametrize("teacher", [LSTSD, NoTeacherConfig()], ids=lambda config: config.name)
def test_interrupted_equals_uninterrupted(make_args, teacher):
    options = {"save_strategy": "steps", "save_steps": 1}
    whole = [Diary(), Second()]
    trainer = make_trainer(make_args, teacher, observers=whole, **options)
    trainer.train()
    assert not torch.equal(whole[0].sums, torch.zeros(14, 2))
    for step in (4, 9):
        resumed = [Diary(), Second()]
        other = make_trainer(make_args, teacher, observers=resumed, **options)
        other.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-{step}")
        assert_same_weights(trainer.model, other.model)
        for first, second in zip(whole, resumed, strict=True):
            assert torch.equal(first.sums, second.sums)
            assert second.epochs[-1] == 4


def test_the_best_model_leaves_them_as_they_are(make_args):
    diaries = []
    for best in (False, True):
        diaries.append(Diary())
        trainer = LSTSDTrainer(
            model=make_model(),
            args=make_args(
                num_train_epochs=4,
                learning_rate=3e-2,
                eval_strategy="epoch",
                save_strategy="epoch",
                load_best_model_at_end=best,
            ),
            train_dataset=make_examples(14),
            eval_dataset=make_examples(6, seed=1),
            teacher="mean_teacher",
            observers=[diaries[-1]],
        )
        trainer.train()
    assert trainer.state.best_global_step != trainer.state.global_step
    assert torch.equal(diaries[0].sums, diaries[1].sums)


def test_a_resumed_run_has_the_same_observers(make_args):
    options = {"save_strategy": "epoch"}
    make_trainer(make_args, observers=[Diary()], **options).train()
    with pytest.raises(InputError, match=r"`observers` must be what it was .* it was \['diary'\], now it is \[\]"):
        make_trainer(make_args, **options).train(resume_from_checkpoint=True)


def test_one_that_cannot_remember_is_not_resumed(make_args):
    options = {"save_strategy": "epoch"}
    make_trainer(make_args, observers=[Forgetful()], **options).train()
    with pytest.raises(InputError, match="Forgetful must define `state_dict` and `load_state_dict` to be resumed"):
        make_trainer(make_args, observers=[Forgetful()], **options).train(resume_from_checkpoint=True)


def test_refusals(make_args):
    with pytest.raises(InputError, match="`observers` must have different names, got diary, diary"):
        make_trainer(make_args, observers=[Diary(), Diary()])
    with pytest.raises(TypeError, match="`observers` must be a sequence of `Observer` objects, got <class"):
        make_trainer(make_args, observers=[Diary])
    trainer = make_trainer(make_args, NoTeacherConfig(), observers=[Diary()])
    trainer.model._tp_size = 2
    with pytest.raises(InputError, match="Diary cannot work under tensor parallelism"):
        trainer.train()


def test_one_without_batches_hears_of_the_training(make_args):
    class Hears(Observer):
        name = "hears"
        needs_batches = is_stateful = False

        def reset(self):
            self.heard = []

        def on_train_begin(self):
            self.heard.append("begin")

        def on_epoch_begin(self, progress):
            self.heard.append(progress.epoch)

        def on_train_end(self, progress):
            self.heard.append("end")

    for teacher in (NoTeacherConfig(), LSTSD):
        hears = Hears()
        make_trainer(make_args, teacher, observers=[hears]).train()
        assert hears.heard == ["begin", 0, 1, 2, 3, 4, "end"]


def test_a_resumed_run_may_leave_out_one_without_state(make_args):
    class Looks(Observer):
        name = "looks"
        is_stateful = False

    options = {"save_strategy": "epoch"}
    make_trainer(make_args, observers=[Looks()], **options).train()
    make_trainer(make_args, **options).train(resume_from_checkpoint=True)


def test_one_without_a_list_is_refused(make_args):
    with pytest.raises(TypeError, match=r"`observers` must be a list, got one Diary\. Give `\[observer\]`"):
        LSTSDTrainer(model=make_model(), args=make_args(), observers=Diary())


def test_names_of_parameters_do_not_get_in_the_way(make_args):
    """Mean Teacher's entries in a checkpoint are named as the model's parameters."""

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.trainer, self.config = make_model(dropout=0.0), make_model().config

        def forward(self, input_ids, labels=None, **kwargs):
            return self.trainer(input_ids=input_ids, labels=labels)

    def make():
        return LSTSDTrainer(
            model=Outer(),
            args=make_args(num_train_epochs=3, learning_rate=1e-2, save_strategy="epoch"),
            train_dataset=make_examples(14),
            teacher="mean_teacher",
        )

    whole, resumed = make(), make()
    whole.train()
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-4")
    assert_same_weights(whole.model, resumed.model)
    assert_same_weights(whole.teacher.ema.tensors, resumed.teacher.ema.tensors)


@pytest.mark.parametrize("name", [None, "a.b"])
def test_a_name_that_checkpoints_cannot_use(make_args, name):
    observer = Observer()
    if name is not None:
        observer.name = name
    with pytest.raises(InputError, match=f"`name` of Observer must be a text without dots.* got {name!r}"):
        make_trainer(make_args, observers=[observer])
