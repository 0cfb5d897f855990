"""A run on pictures."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import default_data_collator

from ..methods import TeacherConfig
from ..pixels import PixelStatistics
from ..runner.preparation import DataOptions, Prepared, chosen_rows
from ..runner.run import Run
from .dataset import EpochOfImages, Images
from .models import DENSENET, NETWORK_CLASSES, load_model
from .tasks import ROW, ImageTask

# Jiang et al., AAAI 2020, for ResNets. Silent on the gradient's norm, which is not clipped.
PAPER_SETTINGS = {
    "learning_rate": 0.1,
    "per_device_train_batch_size": 128,
    "num_train_epochs": 164.0,
    "weight_decay": 1e-4,
    "optim": "sgd",
    "optim_args": "momentum=0.9,nesterov=True",
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
}
# The same for DenseNet.
PAPER_DENSENET_SETTINGS = PAPER_SETTINGS | {"per_device_train_batch_size": 64, "num_train_epochs": 300.0}
PAPER_MILESTONES = (0.25, 0.5, 0.75)
# Pictures in memory at once, where they are mapped from a file.
CHUNK = 4096
# PIL's number of the way in which pictures of one's own are resized.
BICUBIC = 3


def paper_settings(model_name: str | None) -> Mapping[str, Any]:
    """The training settings of the paper for a network as named on the command line."""
    return PAPER_DENSENET_SETTINGS if model_name == DENSENET else PAPER_SETTINGS


@dataclass(frozen=True)
class ImageOptions(DataOptions):
    """What is done to pictures before and in training.

    Attributes:
        crop_padding: Pixels of the padding before a random crop; `None`: the task's.
        flip: Whether to flip pictures left to right, at random, half of the time; `None`: the task's.
        lr_milestones: Shares of a run at which a constant learning rate is divided by 10.
    """

    least_values: ClassVar = DataOptions.least_values | {"crop_padding": 0}

    crop_padding: int | None = None
    flip: bool | None = None
    lr_milestones: tuple[float, ...] = PAPER_MILESTONES


@dataclass(frozen=True)
class ImageRun(Run):
    """A run on pictures; see `Run`.

    Attributes:
        pixels: All pictures, uint8 `(num_pictures, num_channels, height, width)`.
    """

    task: ImageTask
    options: ImageOptions = field(default_factory=ImageOptions)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 1), np.uint8), repr=False, compare=False)

    def prepare(self, cache: Path) -> Prepared:
        rows = chosen_rows(self.splits, self.task, self.options)
        train = rows.splits["train"]
        statistics = pixel_statistics(self.pixels, np.array(train[ROW]))
        model, statistics = load_model(self.model_name_or_path, self.task, self.pixels.shape[1:], statistics)
        data = {
            name: Images(self.pixels, split["label"][:], statistics.mean, statistics.std, rows=split[ROW][:])
            for name, split in rows.splits.items()
        }
        options, task = self.options, self.task
        augmented = Images(
            self.pixels,
            train["label"][:],
            statistics.mean,
            statistics.std,
            rows=train[ROW][:],
            crop_padding=task.crop_padding if options.crop_padding is None else options.crop_padding,
            flip=task.flip if options.flip is None else options.flip,
            seed=self.args.seed,
        )
        return Prepared(
            # As convolutions run fastest.
            model.to(memory_format=torch.channels_last),
            image_processor(statistics, self.pixels.shape[2:]),
            data,
            default_data_collator,
            rows,
            training_set=augmented,
            callbacks=[EpochOfImages(augmented)],
            lr_milestones=options.lr_milestones if self.args.lr_scheduler_type == "constant" else (),
            # As the paper's networks were trained.
            decays_all=isinstance(model, NETWORK_CLASSES),
        )

    @property
    def paper_settings(self) -> Mapping[str, Any]:
        return paper_settings(self.model_name_or_path)

    @property
    def paper_teacher(self) -> TeacherConfig:
        return self.teacher.paper_for_images()

    def _digest(self, *splits: str) -> str:
        digest = hashlib.sha256(super()._digest(*splits).encode())
        for name in splits:
            rows = np.array(self.splits[name][ROW])
            for start in range(0, len(rows), CHUNK):
                digest.update(np.ascontiguousarray(self.pixels[rows[start : start + CHUNK]]))
        return digest.hexdigest()[:10]


def pixel_statistics(pixels: np.ndarray, rows: np.ndarray) -> PixelStatistics:
    """Mean and standard deviation of each channel, of pixels in [0, 1].

    Args:
        pixels: uint8 `(num_pictures, num_channels, height, width)`; it may be mapped from a file.
        rows: Which of the pictures.
    """
    levels, counts = np.arange(256) / 255, np.zeros((pixels.shape[1], 256))
    for start in range(0, len(rows), CHUNK):
        part = pixels[rows[start : start + CHUNK]]
        for channel, counted in enumerate(counts):
            counted += np.bincount(part[:, channel].ravel(), minlength=256)
    mean, std = [], []
    for counted in counts:
        shares = counted / counted.sum()
        average = float(shares @ levels)
        mean.append(round(average, 6))
        # Pictures of one colour stay as they are.
        std.append(round(float(shares @ (levels - average) ** 2) ** 0.5, 6) or 1.0)
    return PixelStatistics(mean, std)


def image_processor(statistics: PixelStatistics, size: tuple[int, int]) -> Any:
    """A processor that brings pictures into a model's form, as pipelines need it; `None` unless they are in RGB."""
    if len(statistics.mean) != 3:
        return None
    try:
        from transformers import ViTImageProcessorPil as Processor
    except ImportError:  # before transformers had several backends
        from transformers import ViTImageProcessor as Processor

    height, width = size
    return Processor(
        size={"height": height, "width": width}, resample=BICUBIC, image_mean=statistics.mean, image_std=statistics.std
    )
