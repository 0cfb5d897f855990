"""Tiny pictures and a tiny network."""

from functools import partial

import numpy as np
import torch
from transformers import default_data_collator

from lstsd_hf.images import EpochOfImages, Images
from lstsd_hf.models import CifarResNetConfig, CifarResNetForImageClassification
from tests import helpers

MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.3]


def make_pixels(count: int, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def make_pictures(count: int, seed: int = 0, **options) -> Images:
    """Pictures whose label is the brighter half."""
    pixels = make_pixels(count, seed=seed)
    labels = (pixels[:, :, :4].mean((1, 2, 3)) > pixels[:, :, 4:].mean((1, 2, 3))).astype(int)
    return Images(pixels, labels.tolist(), MEAN, STD, **options)


def make_network(seed: int = 0, num_labels: int = 2, **options) -> CifarResNetForImageClassification:
    torch.manual_seed(seed)
    channels = options.get("num_channels", 3)
    options |= {"image_mean": MEAN[:channels], "image_std": STD[:channels]}
    config = CifarResNetConfig(depth=8, num_labels=num_labels, image_size=8, **options)
    return CifarResNetForImageClassification(config)


def make_trainer(make_args, teacher=None, *args, **options):
    """`tests.helpers.make_trainer` with augmented pictures."""
    data = options.pop("train_dataset", None) or make_pictures(14, crop_padding=1, flip=True)
    callbacks = [*options.pop("callbacks", []), EpochOfImages(data)]
    options = {"model": make_network(), "data_collator": default_data_collator} | options
    return helpers.make_trainer(make_args, teacher, *args, train_dataset=data, callbacks=callbacks, **options)


make_evaluated_trainer = partial(make_trainer, eval_dataset=make_pictures(6, seed=1))
