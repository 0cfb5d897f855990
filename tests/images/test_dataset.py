"""Pictures as a model takes them, and their augmentation."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, default_data_collator

from lstsd_hf import LSTSDConfig, LSTSDTrainer
from lstsd_hf.errors import InputError
from lstsd_hf.fingerprint import describe_dataset
from lstsd_hf.images import Images
from lstsd_hf.images.dataset import augmented
from lstsd_hf.pixels import PixelStatistics
from tests.helpers import assert_same_weights
from tests.images.helpers import MEAN, STD, make_network, make_pictures, make_pixels, make_trainer


def test_pixels_are_normalised():
    pixels = make_pixels(3)
    data = Images(pixels, [0, 1, 1], MEAN, STD)
    expected = (pixels[2] / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    np.testing.assert_allclose(data[2]["pixel_values"], expected, rtol=1e-5, atol=1e-6)
    assert [item["labels"] for item in data.__getitems__([2, 0])] == [1, 0]
    assert "labels" not in Images(pixels, None, MEAN, STD)[0]


def test_what_is_no_picture_or_has_no_label_is_refused():
    pixels = make_pixels(6)
    with pytest.raises(InputError, match=r"`pixels` must be uint8 .*, got float64 \(6, 3, .* Multiply pixels"):
        Images(pixels / 255, None, MEAN, STD)
    with pytest.raises(InputError, match="one label for each of the 2 rows, got 6"):
        Images(pixels, range(6), MEAN, STD, rows=[5, 3])


def test_each_picture_is_a_crop_of_the_padded_one_perhaps_flipped():
    """Against all crops and flips of each picture, made one by one."""
    pixels, padding = make_pixels(40, size=6), 2
    result = augmented(pixels, padding, True, seed=3, epoch=1, indices=np.arange(40))
    seen = set()
    for picture, found in zip(pixels, result, strict=True):
        padded = np.zeros((3, 10, 10), np.uint8)
        padded[:, 2:8, 2:8] = picture
        matches = [
            (top, left, flips)
            for top in range(5)
            for left in range(5)
            for flips in (False, True)
            if np.array_equal(found, padded[:, top : top + 6, left : left + 6][:, :, :: -1 if flips else 1])
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 20


def test_every_shift_and_both_sides_are_as_likely_and_independent_of_each_other():
    size, count = 9, 36000
    pixels = np.zeros((count, 1, size, size), np.uint8)
    pixels[:, :, 4, 3] = 1  # not in the middle: a flip shows
    result = augmented(pixels, 2, True, seed=0, epoch=0, indices=np.arange(count))
    rows, columns = np.nonzero(result[:, 0])[1:]
    assert len(rows) == count
    # 5 shifts down, 5 across, twice for flips; 3 and 5 columns overlap after shifts.
    shifts = np.bincount(rows - 2, minlength=5)
    assert np.abs(shifts / count - 0.2).max() < 0.01
    flipped = np.bincount(columns, minlength=size) / count
    np.testing.assert_allclose(flipped[1:8], [0.1, 0.1, 0.2, 0.2, 0.2, 0.1, 0.1], atol=0.01)
    both = np.zeros((5, size))
    np.add.at(both, (rows - 2, columns), 1)
    assert np.abs(both[:, 1:8] / count - np.outer(shifts, flipped[1:8]) / count).max() < 0.005


def test_a_crop_follows_from_seed_epoch_and_index_alone():
    def pictures(epoch, indices, seed=0):
        data = make_pictures(12, crop_padding=2, flip=True, seed=0)
        data.seed = seed
        data.begin_epoch(epoch)
        return torch.stack([item["pixel_values"] for item in data.__getitems__(indices)])

    whole = pictures(1, range(12))
    assert torch.equal(pictures(1, [7, 3]), whole[[7, 3]])
    assert not torch.equal(pictures(2, range(12)), whole)
    assert not torch.equal(pictures(1, range(12), seed=1), whole)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_see_the_epoch(persistent):
    data = make_pictures(8, crop_padding=2, flip=True)
    loader = DataLoader(
        data, batch_size=4, num_workers=1, collate_fn=default_data_collator, persistent_workers=persistent
    )
    for epoch in (0, 1):
        data.begin_epoch(epoch)
        loaded = torch.cat([batch["pixel_values"] for batch in loader])
        assert torch.equal(loaded, torch.stack([item["pixel_values"] for item in data.__getitems__(range(8))]))


def test_a_look_at_the_training_pictures_leaves_their_epoch_alone(make_args):
    """Evaluation on them, whole or not, in the middle of an epoch."""
    data = make_pictures(14, crop_padding=2)
    for looked_at in (data, data.without_augmentation()):
        seen = []

        class Notes(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                seen.append(int(data._epoch))  # noqa: B023

        make_trainer(
            make_args,
            "vanilla",
            train_dataset=data,
            eval_dataset=looked_at,
            eval_strategy="steps",
            eval_steps=3,
            num_train_epochs=3,
            callbacks=[Notes()],
        ).train()
        assert seen == [0] * 4 + [1] * 4 + [2] * 4


def test_some_of_the_pictures(make_args):
    data = make_pictures(10, crop_padding=2)
    chosen = data.select([7, 2])
    assert torch.equal(chosen.without_augmentation()[1]["pixel_values"], data.without_augmentation()[2]["pixel_values"])
    assert chosen[0]["labels"] == data[7]["labels"]
    data.begin_epoch(5)
    assert int(chosen._epoch) == 5


def test_training_sees_other_crops_in_each_epoch(make_args):
    seen = []

    class Looks(LSTSDTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.append(inputs["pixel_values"].sum())
            return super().compute_loss(model, inputs, *args, **kwargs)

    make_trainer(
        make_args, "vanilla", Looks, train_dataset=make_pictures(4, crop_padding=2), num_train_epochs=3
    ).train()
    assert len({float(total) for total in seen}) == 3


def test_a_teacher_that_predicts_the_training_set_sees_whole_pictures(make_args):
    data = make_pictures(14, crop_padding=2, flip=True)
    trainer = make_trainer(make_args, LSTSDConfig(), train_dataset=data)
    seen = torch.cat([inputs["pixel_values"] for inputs in trainer._student.training_inputs()])
    assert torch.equal(seen, torch.stack([data.without_augmentation()[row]["pixel_values"] for row in range(14)]))


def test_the_fingerprint_is_that_of_pixels_labels_and_order():
    pixels, labels = make_pixels(6), [0, 1, 0, 1, 0, 1]
    same = describe_dataset(Images(pixels, labels, MEAN, STD))
    assert same == describe_dataset(Images(pixels.copy(), labels, MEAN, STD, crop_padding=2))
    assert same == describe_dataset(Images(pixels[::-1].copy(), labels, MEAN, STD, rows=[5, 4, 3, 2, 1, 0]))
    assert None not in same.values()
    brighter = pixels.copy()
    brighter[3, 0, 0, 0] ^= 1
    others = [Images(brighter, labels, MEAN, STD), Images(pixels, labels[::-1], MEAN, STD)]
    others.append(Images(pixels, labels, MEAN, STD, rows=[1, 0, 2, 3, 4, 5]))
    assert all(describe_dataset(other) != same for other in others)


def test_pixels_are_converted_from_one_models_way_to_anothers():
    pixels, other = make_pixels(2), PixelStatistics([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    own = Images(pixels, None, MEAN, STD)[1]["pixel_values"][None]
    expected = Images(pixels, None, other.mean, other.std)[1]["pixel_values"][None]
    torch.testing.assert_close(PixelStatistics(MEAN, STD).converted(own, other), expected)
    assert PixelStatistics.of(None, make_network().config) == PixelStatistics(MEAN, STD)
    assert PixelStatistics.of(object()) is None


def test_without_weights_it_is_stock_trainer(make_args):
    stock, ours = (make_trainer(make_args, LSTSDConfig.neutral(), *kind) for kind in ((Trainer,), ()))
    for trainer in (stock, ours):
        trainer.train()
    assert_same_weights(stock.model, ours.model)
