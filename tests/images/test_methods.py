"""What holds for every registered method on pictures."""

import dataclasses
import functools

import pytest
import torch
from transformers import Trainer, ViTConfig, ViTForImageClassification

from lstsd_hf import KDConfig, LSTSDTrainer, TSKDConfig
from lstsd_hf.conv_lstm import ConvLSTM
from lstsd_hf.errors import InputError
from lstsd_hf.methods.tskd import energy_map, resized
from tests.helpers import SavesAt, active, assert_same_weights, every_distilling_method, every_method
from tests.images.helpers import make_network, make_pictures, make_trainer

PER_EPOCH = 4  # 14 pictures in batches of 4


@functools.cache
def _teacher(folder):
    make_network(seed=7).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def options_of(tmp_path_factory):
    """A method's options under which it acts early, taught by a network if it needs a teacher."""

    def options(config_class):
        config = active(config_class)
        if getattr(config, "teacher_model_name_or_path", None):
            folder = tmp_path_factory.getbasetemp() / "network"
            config = dataclasses.replace(config, teacher_model_name_or_path=_teacher(folder))
        return config

    return options


@every_method
def test_the_neutral_setting_is_stock_trainer_bit_for_bit(make_args, config_class):
    outcomes = []
    for trainer_class in (Trainer, LSTSDTrainer):
        trainer = make_trainer(make_args, config_class.neutral(), trainer_class, num_train_epochs=2)
        trainer.train()
        outcomes.append((trainer.model, torch.get_rng_state()))
    assert_same_weights(outcomes[0][0], outcomes[1][0])
    assert torch.equal(outcomes[0][1], outcomes[1][1])


@every_method
def test_interrupted_equals_uninterrupted_bit_for_bit(make_args, config_class, options_of):
    options = {"save_strategy": "steps", "save_steps": 1000, "num_train_epochs": 5}
    steps = (PER_EPOCH + 1, 4 * PER_EPOCH)
    whole = make_trainer(make_args, options_of(config_class), callbacks=[SavesAt(steps)], **options)
    whole.train()
    for step in steps:
        resumed = make_trainer(make_args, options_of(config_class), **options)
        resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
        assert_same_weights(whole.model, resumed.model)
        assert whole.distilled_steps == resumed.distilled_steps


@every_distilling_method
def test_a_teacher_moves_the_student(make_args, config_class, options_of):
    taught = make_trainer(make_args, options_of(config_class), num_train_epochs=5)
    taught.train()
    stock = make_trainer(make_args, None, Trainer, num_train_epochs=5)
    stock.train()
    is_stock = torch.equal(taught.model.classifier.weight, stock.model.classifier.weight)
    # R-Drop compares two passes, which are the same in a network without dropout.
    assert is_stock == (config_class.name == "r_drop")


def test_a_teacher_with_other_pixels_is_given_its_own(make_args, tmp_path):
    """Outputs of a network that was trained with pixels normalised otherwise, computed by hand."""
    other = make_network(seed=3)
    other.config.image_mean, other.config.image_std = [0.1, 0.1, 0.1], [1.0, 1.0, 1.0]
    other.save_pretrained(tmp_path / "other")
    data = make_pictures(14, crop_padding=1, flip=True)
    trainer = make_trainer(
        make_args, KDConfig(teacher_model_name_or_path=str(tmp_path / "other")), train_dataset=data, num_train_epochs=1
    )
    trainer.cache_dir = tmp_path
    trainer.train()
    with torch.no_grad():
        expected = other.eval()(torch.from_numpy(data.pixels) / 255 - 0.1).logits
    torch.testing.assert_close(trainer.teacher.memory.tables()[0][0], expected, rtol=1e-4, atol=1e-4)


def test_maps_of_pictures_by_hand():
    """Two channels, 1 × 3 pixels: mean squares 5, 2 and 0."""
    states = torch.tensor([[[[3.0, 0.0, 0.0]], [[1.0, 2.0, 0.0]]]])
    found = energy_map(states, torch.ones(1, 1, 3))
    torch.testing.assert_close(found, torch.tensor([[[5.0, 2.0, 0.0]]]) / 29**0.5)
    assert resized(torch.arange(16.0).view(1, 4, 4), torch.ones(1, 4, 4), torch.ones(1, 2, 2)).tolist() == [
        [[2.5, 4.5], [10.5, 12.5]]
    ]


def test_tskd_reads_maps_of_two_dimensions(make_args):
    trainer = make_trainer(make_args, TSKDConfig(teacher_free=True, interval_epochs=1))
    trainer.train()
    assert {parameter.dim() for parameter in trainer.teacher.predictors[0].parameters()} == {1, 4}
    assert any("loss_temporal" in entry for entry in trainer.state.log_history)
    maps = torch.rand(2, 3, 5, 7)
    assert ConvLSTM(4, dimensions=2)(maps, torch.ones(2, 5, 7)).shape == (2, 5, 7)


def test_outputs_for_other_pixels_are_not_taken_from_the_cache(make_args, tmp_path):
    """The same weights, but pixels are to be normalised otherwise."""
    teacher, tables = make_network(seed=3), []
    for mean in ([0.5] * 3, [0.1] * 3):
        teacher.config.image_mean = mean
        teacher.save_pretrained(tmp_path / "teacher")
        config = KDConfig(teacher_model_name_or_path=str(tmp_path / "teacher"))
        trainer = make_trainer(make_args, config, num_train_epochs=1)
        trainer.cache_dir = tmp_path
        trainer.train()
        tables.append((trainer.teacher.memory.tables()[0][0], config.source_digest()))
    assert not torch.equal(tables[0][0], tables[1][0])
    assert tables[0][1] != tables[1][1]


def test_a_teacher_of_patches_does_not_teach_feature_maps(make_args, tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    teacher = TSKDConfig(teacher_model_name_or_path=str(tmp_path / "vit"), interval_epochs=1)
    trainer = make_trainer(make_args, teacher)
    trainer.cache_dir = tmp_path
    with pytest.raises(InputError, match="maps of as many dimensions as the student, got 1 and 2"):
        trainer.train()
    assert trainer.state.global_step == 0
