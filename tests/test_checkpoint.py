"""Interrupted equals uninterrupted, and a checkpoint without its teachers is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, default_data_collator

from lstsd_hf import (
    METHODS,
    DistillationTerm,
    LSTSDConfig,
    LSTSDTrainer,
    NoTeacherConfig,
    SnapshotEnsembleConfig,
    Teacher,
    TeacherConfig,
)
from lstsd_hf.checkpoint import TEACHER_STATE_NAME
from lstsd_hf.errors import InputError
from tests import helpers
from tests.helpers import (
    active,
    assert_same_weights,
    grouped_by_length,
    make_examples,
    make_model,
    training_arguments,
)

STEPS_PER_EPOCH = 4  # 14 examples in batches of 4
CONFIG = LSTSDConfig(mini_generation_epochs=2)


def make_trainer(make_args, folder, config=CONFIG, **options):
    options = {"save_strategy": "steps", "save_steps": 1, "eval_dataset": make_examples(5, seed=2)} | options
    return helpers.make_trainer(make_args, config, output_dir=str(folder), **options)


def assert_same_teachers(first, second):
    states = [trainer.teacher.state_dict() for trainer in (first, second)]
    assert states[0].keys() == states[1].keys()
    for name in states[0].keys() - {"run_id"}:  # snapshots know their run
        value, other = (state[name] for state in states)
        assert torch.equal(value, other) if torch.is_tensor(value) else value == other, name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    trainer = make_trainer(training_arguments, tmp_path_factory.mktemp("whole"))
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "step",
    [
        STEPS_PER_EPOCH * 1 + 2,  # within the last epoch of mini-generation 1
        STEPS_PER_EPOCH * 2,  # the last step of mini-generation 1
        STEPS_PER_EPOCH * 3,  # the last step of an epoch within a mini-generation
        STEPS_PER_EPOCH * 4 + 1,  # within mini-generation 3
        STEPS_PER_EPOCH * 6,  # the end
    ],
)
def test_resumed_equals_uninterrupted_bit_for_bit(uninterrupted, make_args, tmp_path, step):
    trainer = make_trainer(make_args, tmp_path)
    trainer.train(resume_from_checkpoint=f"{uninterrupted.args.output_dir}/checkpoint-{step}")
    assert_same_weights(trainer.model, uninterrupted.model)
    assert_same_teachers(trainer, uninterrupted)
    assert trainer.distilled_steps == STEPS_PER_EPOCH * 4
    histories = [
        [(entry["step"], entry["loss"], entry["loss_base"]) for entry in item.state.log_history if "loss" in entry]
        for item in (trainer, uninterrupted)
    ]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("step", [STEPS_PER_EPOCH * 3 + 1, STEPS_PER_EPOCH * 4])
@pytest.mark.parametrize(
    "config", [CONFIG, SnapshotEnsembleConfig(cycle_epochs=2), NoTeacherConfig()], ids=lambda config: config.name
)
def test_length_groups_are_resumed_exactly(make_args, tmp_path, config, step):
    """Trainer draws them from the global random state, which dropout has moved on within the epoch."""

    class Exact(LSTSDTrainer):
        seeds_length_groups = config == NoTeacherConfig()

    options = {**grouped_by_length(14), "trainer_class": Exact}
    whole = make_trainer(make_args, tmp_path / "whole", config, **options)
    whole.train()
    resumed = make_trainer(make_args, tmp_path / "resumed", config, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert_same_weights(whole.model, resumed.model)
    assert_same_teachers(whole, resumed)


@pytest.mark.parametrize("length", [{"num_train_epochs": 2.5}, {"max_steps": 10}])
def test_a_run_that_is_at_its_end_is_not_trained_on(make_args, tmp_path, length):
    """Where an epoch is cut short, Trainer makes another step."""
    options = {"lr_scheduler_type": "constant", "record_dynamics": True, **length}
    whole = make_trainer(make_args, tmp_path, LSTSDConfig(mini_generation_epochs=1), **options)
    whole.train()
    recorded = {path.name: path.read_bytes() for path in whole.dynamics_folder.iterdir()}
    resumed = make_trainer(make_args, tmp_path, LSTSDConfig(mini_generation_epochs=1), **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 10
    assert_same_weights(whole.model, resumed.model)
    assert_same_teachers(whole, resumed)
    assert {path.name: path.read_bytes() for path in resumed.dynamics_folder.iterdir()} == recorded


def test_resume_from_epoch_checkpoints(make_args, tmp_path):
    whole = make_trainer(make_args, tmp_path / "whole", save_strategy="epoch", eval_strategy="epoch")
    whole.train()
    resumed = make_trainer(make_args, tmp_path / "resumed", save_strategy="epoch", eval_strategy="epoch")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{STEPS_PER_EPOCH * 3}"))
    assert_same_weights(whole.model, resumed.model)
    assert_same_teachers(whole, resumed)


def resume_error(uninterrupted, make_args, tmp_path, change=None, **options):
    checkpoint = tmp_path / "checkpoint-10"
    shutil.copytree(f"{uninterrupted.args.output_dir}/checkpoint-10", checkpoint)
    if change is not None:
        change(checkpoint)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the caller compares the whole message)
        make_trainer(make_args, tmp_path / "run", **options).train(resume_from_checkpoint=str(checkpoint))
    return str(error.value), checkpoint


def test_checkpoint_without_teachers_is_refused(uninterrupted, make_args, tmp_path):
    message, checkpoint = resume_error(
        uninterrupted, make_args, tmp_path, change=lambda folder: (folder / TEACHER_STATE_NAME).unlink()
    )
    assert message == (
        f"The checkpoint {checkpoint} must contain `teacher_state.safetensors`, found none: it was saved by another "
        "Trainer or with `save_only_model=True`, and without its teacher memory the run would silently become another "
        "one. Resume from a checkpoint with teacher memory, or start a new run from the checkpoint's model."
    )


def test_stock_checkpoint_is_refused(make_args, tmp_path):
    args = make_args(output_dir=str(tmp_path / "stock"), save_strategy="epoch")
    Trainer(model=make_model(), args=args, train_dataset=make_examples(14)).train()
    trainer = make_trainer(make_args, tmp_path / "run")
    with pytest.raises(ValueError, match=r"must contain `teacher_state\.safetensors`, found none"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "stock" / "checkpoint-4"))


@pytest.mark.parametrize(
    ("options", "field", "was", "now"),
    [
        ({"config": LSTSDConfig(mini_generation_epochs=3)}, "mini_generation_epochs", 2, 3),
        ({"config": LSTSDConfig(lambda_short=2.0, mini_generation_epochs=2)}, "lambda_short", 1.0, 2.0),
        ({"train_dataset": make_examples(15)}, "num_examples", 14, 15),
    ],
)
def test_checkpoint_of_another_run_is_refused(uninterrupted, make_args, tmp_path, options, field, was, now):
    message, checkpoint = resume_error(uninterrupted, make_args, tmp_path, **options)
    allowed = "" if field == "num_examples" else ", allow it with `train(..., allow_teacher_changes=True)`"
    assert message == (
        f"`{field}` must be what it was when {checkpoint / TEACHER_STATE_NAME} was saved: it was {was!r}, now it is "
        f"{now!r}. Resume with the same data and settings{allowed}, or start a new run."
    )


def test_state_of_another_step_is_refused(uninterrupted, make_args, tmp_path):
    def swap(folder):
        source = Path(uninterrupted.args.output_dir) / "checkpoint-11" / TEACHER_STATE_NAME
        shutil.copy(source, folder / TEACHER_STATE_NAME)

    message, _ = resume_error(uninterrupted, make_args, tmp_path, change=swap)
    assert message.startswith("`global_step` must be what it was")
    assert "it was 11, now it is 10." in message


def test_reordered_data_is_refused(make_args, tmp_path):
    data = datasets.Dataset.from_list(make_examples(14))
    make_trainer(make_args, tmp_path / "first", train_dataset=data, max_steps=9).train()
    trainer = make_trainer(make_args, tmp_path / "second", train_dataset=data.select(range(13, -1, -1)), max_steps=9)
    with pytest.raises(ValueError, match="`labels_sha256` must be what it was"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-6"))


def test_vanilla_checkpoints_are_stock(make_args, tmp_path):
    trainer = make_trainer(make_args, tmp_path, config=NoTeacherConfig(), max_steps=2)
    trainer.train()
    assert not (tmp_path / "checkpoint-2" / TEACHER_STATE_NAME).exists()
    make_trainer(make_args, tmp_path, config=NoTeacherConfig(), max_steps=2).train(resume_from_checkpoint=True)


def test_a_teacher_without_state_resumes(make_args, tmp_path):
    class Stateless(Teacher):
        def loss_terms(self, batch):
            return {
                "entropy": DistillationTerm(torch.distributions.Categorical(logits=batch.student_logits).entropy(), 0.1)
            }

    whole = make_trainer(make_args, tmp_path / "whole", config=Stateless())
    whole.train()
    resumed = make_trainer(make_args, tmp_path / "resumed", config=Stateless())
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert_same_weights(whole.model, resumed.model)


def test_save_total_limit_keeps_what_is_needed_to_go_on(uninterrupted, make_args, tmp_path):
    class Interrupt(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 13:
                raise KeyboardInterrupt

    trainer = make_trainer(make_args, tmp_path, save_total_limit=2)
    trainer.add_callback(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-12", "checkpoint-13"}
    resumed = make_trainer(make_args, tmp_path, save_total_limit=2)
    resumed.train(resume_from_checkpoint=True)
    assert_same_weights(resumed.model, uninterrupted.model)
    assert_same_teachers(resumed, uninterrupted)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-23", "checkpoint-24"}


def test_the_best_model_is_loaded_and_the_memory_stays(uninterrupted, make_args, tmp_path):
    trainer = make_trainer(
        make_args,
        tmp_path,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,
    )
    trainer.train()
    best = trainer.state.best_global_step
    assert best < 24
    saved = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
    assert_same_weights(trainer.model, saved)
    assert trainer.teacher.memory.epoch == 6


def test_checkpoints_of_the_model_only_cannot_be_resumed(make_args, tmp_path):
    make_trainer(make_args, tmp_path, save_only_model=True, max_steps=9).train()
    with pytest.raises(ValueError, match=r"One of the checkpoints .* must be whole.* or with `save_only_model=True`"):
        make_trainer(make_args, tmp_path).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("step", [STEPS_PER_EPOCH * 3, STEPS_PER_EPOCH * 3 + 2])
def test_without_data_skip_the_epoch_begins_anew_as_in_stock(uninterrupted, make_args, tmp_path, step):
    """Distilling nothing, the steps are stock's; distilling, an epoch that is begun again moves no teacher."""
    neutral = LSTSDConfig.neutral()
    make_trainer(make_args, tmp_path / "whole", config=neutral).train()
    checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
    ours = make_trainer(make_args, tmp_path / "ours", config=neutral, ignore_data_skip=True)
    ours.train(resume_from_checkpoint=str(checkpoint))
    stock = Trainer(model=make_model(), args=ours.args, train_dataset=make_examples(14))
    stock.train(resume_from_checkpoint=str(checkpoint))
    assert_same_weights(ours.model, stock.model)
    assert ours.state.global_step == stock.state.global_step == 24

    trainer = make_trainer(make_args, tmp_path / "lstsd", ignore_data_skip=True)
    trainer.train(resume_from_checkpoint=f"{uninterrupted.args.output_dir}/checkpoint-{step}")
    assert trainer.teacher.memory.is_complete
    assert trainer.distilled_steps == 24 - STEPS_PER_EPOCH * 2
    assert (trainer.teacher.memory.state_dict()["staged"] == 0).all()


def test_no_temporary_file_is_left(uninterrupted):
    folder = Path(uninterrupted.args.output_dir) / "checkpoint-10"
    assert (folder / TEACHER_STATE_NAME).is_file()
    assert not list(folder.glob("*.tmp")) + list(folder.glob(".*.tmp"))
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 10


# ---- Checkpoints that Trainer takes before it is stopped ----


def request_a_checkpoint(trainer, step):
    """As the signal does that `enable_jit_checkpoint` waits for: at the end of a step, ahead of all callbacks."""
    (own,) = (item for item in trainer.callback_handler.callbacks if hasattr(item, "jit_manager"))

    class Request(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            own.jit_manager.is_checkpoint_requested = state.global_step == step - 1

    trainer.add_callback(Request())
    # The last micro-batch of a step has no such event, so it is asked for in the first one and taken at the end.
    own.on_pre_optimizer_step = lambda *args, **kwargs: None


@pytest.mark.parametrize("config_class", METHODS.values(), ids=METHODS)
def test_a_just_in_time_checkpoint_is_as_good_as_any(make_args, tmp_path, config_class):
    options = {"enable_jit_checkpoint": True, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    whole = make_trainer(make_args, tmp_path / "whole", config=active(config_class), save_strategy="no", **options)
    whole.train()
    stopped = make_trainer(make_args, tmp_path / "run", config=active(config_class), save_strategy="no", **options)
    request_a_checkpoint(stopped, 13)
    stopped.train()
    assert stopped.state.global_step == 13
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-13"]
    resumed = make_trainer(make_args, tmp_path / "run", config=active(config_class), save_strategy="no", **options)
    resumed.train(resume_from_checkpoint=True)
    assert_same_weights(whole.model, resumed.model)
    assert_same_teachers(whole, resumed)


def test_a_just_in_time_checkpoint_that_was_interrupted_is_not_whole(uninterrupted, make_args, tmp_path):
    message, checkpoint = resume_error(
        uninterrupted,
        make_args,
        tmp_path,
        change=lambda folder: (folder / "checkpoint-is-incomplete.txt").write_text("in progress"),
    )
    assert message == (
        f"The checkpoint {checkpoint} must not contain `checkpoint-is-incomplete.txt`: the run was interrupted while "
        "saving it. Resume from an earlier checkpoint."
    )


# ---- Teachers of one's own ----


class Forgetful(Teacher):
    """Learns from batches and has no `state_dict`."""

    def observe(self, batch):
        self.seen = batch.indices


def test_a_teacher_that_would_forget_is_not_resumed(make_args, tmp_path):
    make_trainer(make_args, tmp_path, config=Forgetful(), max_steps=2).train()
    with pytest.raises(InputError, match="Forgetful must define `state_dict` and `load_state_dict` to be resumed, has"):
        make_trainer(make_args, tmp_path, config=Forgetful()).train(resume_from_checkpoint=True)


def test_options_that_a_checkpoint_cannot_name_are_refused_before_training(make_args, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Config(TeacherConfig):
        name = "mine"
        dtype: torch.dtype = torch.float32

        def build(self):
            teacher = Teacher()
            teacher.config = self
            return teacher

    trainer = make_trainer(make_args, tmp_path, config=Config())
    with pytest.raises(InputError, match=r"`dtype` must be something that JSON can hold.*got torch.float32"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("config", [METHODS["temporal_ensemble"](), METHODS["mean_teacher"]()])
def test_a_ramp_up_fitted_to_other_epochs_is_refused(make_args, tmp_path, config):
    make_trainer(make_args, tmp_path, config=config).train()
    longer = make_trainer(make_args, tmp_path, config=config)
    longer.args.num_train_epochs = 60
    with pytest.raises(
        InputError,
        match=r"`rampup_epochs` must be what it was .*: it was 0\.6, now it is 6\.0, .*Give `rampup_epochs=0\.6`",
    ):
        longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    given = dataclasses.replace(config, rampup_epochs=0.6)
    longer = make_trainer(make_args, tmp_path, config=given, num_train_epochs=7)
    longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert longer.state.global_step == 7 * STEPS_PER_EPOCH
    other = make_trainer(make_args, tmp_path, config=dataclasses.replace(config, rampup_epochs=0.7))
    with pytest.raises(InputError, match=r"it was None, now it is 0\.7"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))


def test_what_is_no_tensor_does_not_stop_a_checkpoint(make_args, tmp_path):
    def collate(rows):
        return {**default_data_collator(rows), "text": ["beside the point"] * len(rows)}

    trainer = make_trainer(make_args, tmp_path, config=active(METHODS["dlb"]), max_steps=3, remove_unused_columns=False)
    trainer.data_collator = collate
    trainer.train()
    assert trainer.distilled_steps == 2
