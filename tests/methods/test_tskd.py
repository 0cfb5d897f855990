"""Temporal supervision: the schedule, what the maps are, and which models are refused."""

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from lstsd_hf import LSTSDTrainer, TSKDConfig
from lstsd_hf.conv_lstm import ConvLSTM
from lstsd_hf.errors import InputError
from lstsd_hf.methods.tskd import chosen, energy_map, resized
from lstsd_hf.schedules import TrainingPlan
from tests.helpers import make_examples, make_model, make_trainer, teacher_folder, tokenizer

FREE = {"teacher_free": True, "interval_epochs": 1}


def test_maps_by_hand():
    states = torch.tensor([[[3.0, 1.0], [0.0, 2.0], [5.0, 5.0]]])
    # Mean squares 5 and 2; their length is the root of 29.
    expected = torch.tensor([[5.0, 2.0, 0.0]]) / 29**0.5
    torch.testing.assert_close(energy_map(states, torch.tensor([[1.0, 1.0, 0.0]])), expected)
    assert [int(item) for item in chosen(list(torch.arange(13)))] == [0, 4, 8]
    assert [int(item) for item in chosen(list(torch.arange(4)))] == [0, 1, 2]


def test_a_teachers_map_is_averaged_to_the_students_tokens():
    maps = torch.tensor([[1.0, 3.0, 5.0, 7.0], [2.0, 4.0, 0.0, 0.0]])
    own = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert resized(maps, own, mask).tolist() == [[2.0, 6.0, 0.0], [3.0, 0.0, 0.0]]
    assert resized(maps, own, own) is maps


def test_the_lstm_learns_a_motion():
    """A bump that moves by one position a step is forecast at the next one."""
    torch.manual_seed(0)
    model = ConvLSTM(hidden_channels=8)
    optimizer, mask = torch.optim.Adam(model.parameters(), lr=0.02), torch.ones(64, 20)

    def bumps(positions):
        return torch.stack([nn.functional.one_hot(positions + step, 20).float() for step in range(4)], dim=1)

    for _ in range(150):
        maps = bumps(torch.randint(0, 16, (64,)))
        loss = (model(maps[:, :3], mask) - maps[:, 3]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    maps = bumps(torch.arange(2, 14))
    assert torch.equal(model(maps[:, :3], mask[:12]).argmax(-1), maps[:, 3].argmax(-1))
    # Padding changes nothing.
    longer = nn.functional.pad(maps, (0, 5))
    padded = model(longer[:, :3], nn.functional.pad(mask[:12], (0, 5)))
    torch.testing.assert_close(padded[:, :20], model(maps[:, :3], mask[:12]))


def test_three_points_are_remembered_and_the_fourth_is_a_review(make_args):
    reviews, remembered = [], []

    class Watches(LSTSDTrainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            epoch = self.teacher._epoch
            reviews.append((epoch, self.teacher._reviews))
            remembered.append((epoch, len(self.teacher.memories)))
            return loss

    config = TSKDConfig(teacher_free=True, interval_epochs=2)
    trainer = make_trainer(make_args, config, Watches, num_train_epochs=16)
    trainer.train()
    assert {epoch for epoch, is_review in reviews if is_review} == {6, 14}
    counts = dict(remembered)
    assert [counts[epoch] for epoch in range(16)] == [0, 1, 1, 2, 2, 3, 3, 3, 3, 1, 1, 2, 2, 3, 3, 3]
    logged = {round(entry["epoch"]) for entry in trainer.state.log_history if "loss_temporal" in entry}
    assert logged == {6, 7, 14, 15}


def test_the_lstms_train_in_review_epochs_only(make_args):
    trainer = make_trainer(make_args, TSKDConfig(**FREE), num_train_epochs=4)
    weights_at = {}

    class Watches(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            own = trainer.teacher.predictors.parameters()
            weights_at[state.global_step] = torch.cat([parameter.detach().flatten() for parameter in own])

    trainer.add_callback(Watches())
    trainer.train()
    moved = [step for step in range(2, 17) if not torch.equal(weights_at[step - 1], weights_at[step])]
    assert moved == [13, 14, 15, 16]


def test_tokens_of_another_kind(make_args, tmp_path):
    """The teacher reads texts in longer tokens' own numbers."""
    folder = tmp_path / "teacher"
    make_model(seed=7).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    rows = make_examples(14)
    data = [{**row, "text": " ".join(f"w{token}" for token in row["input_ids"][:5])} for row in rows]
    config = TSKDConfig(teacher_model_name_or_path=str(folder), interval_epochs=1)
    trainer = make_trainer(make_args, config, train_dataset=data, num_train_epochs=4)
    trainer.train()
    assert trainer.state.log_history[-2]["loss_temporal"] > 0


class NoStates(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = make_model()
        self.config = self.inner.config

    def forward(self, input_ids, labels=None):
        return self.inner(input_ids=input_ids, labels=labels)


def test_what_is_refused(make_args):
    trainer = make_trainer(make_args, TSKDConfig(**FREE), model=NoStates())
    with pytest.raises(InputError, match="NoStates must return hidden states"):
        trainer.train()
    assert trainer.state.global_step == 0
    with pytest.raises(InputError, match="`interval_epochs` must be so small that a review comes"):
        make_trainer(make_args, TSKDConfig(teacher_free=True, interval_epochs=2)).train()
    with pytest.raises(InputError, match="`tskd` needs a teacher, got none"):
        make_trainer(make_args, TSKDConfig(interval_epochs=1)).train()
    with pytest.raises(InputError, match="`teacher_free` must be False with a teacher"):
        TSKDConfig(teacher_free=True, teacher_model_name_or_path=teacher_folder())


@pytest.mark.parametrize(("epochs", "expected"), [(4, 1), (12, 1), (24, 2), (240, 5)])
def test_the_default_interval_fits_the_run(epochs, expected):
    assert TSKDConfig().fitted_to(TrainingPlan(epochs, 1, epochs)).interval_epochs == expected


def test_the_optimizer_trains_what_this_training_has(make_args):
    trainer = make_trainer(make_args, TSKDConfig(**FREE), num_train_epochs=4, weight_decay=0.0)
    for _ in range(2):
        trainer.train()
        own = {id(parameter) for parameter in trainer.teacher.trainable_parameters()}
        groups = trainer.optimizer.param_groups
        assert sum(own == {id(parameter) for parameter in group["params"]} for group in groups) == 1
        assert all(group["weight_decay"] == 0 for group in groups)
        assert len(groups) == 3
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(InputError, match=r"got a scheduler in `optimizers`. Pass `optimizers=\(optimizer, None\)`"):
        make_trainer(make_args, TSKDConfig(**FREE), model=model, optimizers=given).train()


def test_an_empty_text_has_no_map():
    assert resized(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 3)).tolist() == [[0.0, 0.0, 0.0]]
