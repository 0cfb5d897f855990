"""Pictures in memory, normalised and augmented a batch at a time."""

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainerCallback

from ..errors import InputError


class Images(Dataset):
    """Pictures with labels, as a model takes them.

    How a picture is cropped and flipped follows from the seed, the epoch, and its position alone. So it is the same
    whichever process or worker loads it, and in a resumed run. The epoch is told by `EpochOfImages`.

    Args:
        pixels: uint8 `(num_pictures, num_channels, height, width)`; it may be mapped from a file.
        labels: Class indices, one for each row, or `None`.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        rows: Which of the pictures; all of them by default.
        crop_padding: Empty pixels that are added on each side before a picture of the old size is cropped at random.
        flip: Whether pictures are flipped left to right, at random, half of the time.
        seed: Seed of the augmentation.

    Raises:
        InputError: If the pixels are not uint8, or there are more or fewer labels than rows.

    Examples:
        >>> pixels = np.zeros((10, 3, 32, 32), dtype=np.uint8)
        >>> data = Images(pixels, [0] * 10, [0.5] * 3, [0.25] * 3, crop_padding=4, flip=True)
        >>> data[3]["pixel_values"].shape
        torch.Size([3, 32, 32])
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels: Sequence[int] | None,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        rows: Sequence[int] | None = None,
        crop_padding: int = 0,
        flip: bool = False,
        seed: int = 0,
    ):
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise InputError(
                "`pixels` must be uint8 (num_pictures, num_channels, height, width), got "
                f"{pixels.dtype} {tuple(pixels.shape)}. Multiply pixels in [0, 1] by 255, and round them."
            )
        self.pixels = pixels
        self.rows = np.arange(len(pixels)) if rows is None else np.asarray(rows)
        self.labels = None if labels is None else np.asarray(labels)
        if self.labels is not None and len(self.labels) != len(self.rows):
            raise InputError(
                f"`labels` must have one label for each of the {len(self.rows)} rows, got {len(self.labels)}. Give "
                "those of the pictures in `rows`, in that order."
            )
        self.mean, self.std = list(mean), list(std)
        self.crop_padding, self.flip, self.seed = crop_padding, flip, seed
        # Shared, so that workers which live for several epochs see it change.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        indices = np.asarray(indices)
        pixels = self.pixels[self.rows[indices]]
        if self.crop_padding or self.flip:
            pixels = augmented(pixels, self.crop_padding, self.flip, self.seed, int(self._epoch), indices)
        values = self._normalised(torch.from_numpy(pixels))
        if self.labels is None:
            return [{"pixel_values": picture} for picture in values]
        labels = self.labels[indices].tolist()
        return [{"pixel_values": picture, "labels": label} for picture, label in zip(values, labels, strict=True)]

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return pixels.float().mul_(1 / (255 * std)).sub_(mean / std)

    # Not `set_epoch`, which data loaders call with what they count themselves.
    def begin_epoch(self, epoch: int) -> None:
        """Crops and flips as in that epoch, from 0, from now on."""
        self._epoch.fill_(epoch)

    def select(self, rows: Sequence[int]) -> "Images":
        """Some of the pictures; both are told the epoch together."""
        chosen, rows = copy.copy(self), np.asarray(rows, dtype=np.int64)
        chosen.__dict__.pop("rows_sha256", None)
        chosen.rows = self.rows[rows]
        chosen.labels = None if self.labels is None else self.labels[rows]
        return chosen

    def without_augmentation(self) -> "Images":
        """The same pictures, whole."""
        plain = copy.copy(self)
        plain.crop_padding, plain.flip = 0, False
        return plain

    @cached_property
    def rows_sha256(self) -> str:
        """A digest of the pictures, their labels and their order."""
        digest = hashlib.sha256(repr(self.pixels.shape[1:]).encode())
        for start in range(0, len(self.rows), 4096):
            digest.update(np.ascontiguousarray(self.pixels[self.rows[start : start + 4096]]))
        if self.labels is not None:
            digest.update(self.labels.astype(np.int64))
        return digest.hexdigest()


class EpochOfImages(TrainerCallback):
    """Tells a dataset of pictures the epoch, for its augmentation.

    Args:
        data: The dataset that is trained on.

    Examples:
        >>> pictures = Images(np.zeros((8, 3, 32, 32), dtype=np.uint8), [0] * 8, [0.5] * 3, [0.25] * 3, crop_padding=4)
        >>> trainer = LSTSDTrainer(model, args, train_dataset=pictures, callbacks=[EpochOfImages(pictures)])
    """

    def __init__(self, data: Images):
        self._data = data

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._data.begin_epoch(int(state.epoch or 0))


def augmented(pixels: np.ndarray, padding: int, flip: bool, seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """Pictures that are shifted by up to `padding` pixels, and half of them flipped left to right.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, Sec. 4.2.

    Args:
        pixels: uint8 `(num_pictures, num_channels, height, width)`.
        padding: Pixels of 0 that are added on each side before a picture of the old size is cropped.
        flip: Whether to flip.
        seed: Seed of the random draws.
        epoch: Epoch, from 0.
        indices: What tells the pictures apart, int `(num_pictures,)`.
    """
    draws = [_uniform(seed, epoch, indices, draw) for draw in range(3)]
    top, left = (np.floor(draw * (2 * padding + 1)).astype(int).tolist() for draw in draws[:2])
    height, width = pixels.shape[2:]
    sides = (padding, padding)
    padded, cropped = np.pad(pixels, ((0, 0), (0, 0), sides, sides)), np.empty_like(pixels)
    for position, (y, x) in enumerate(zip(top, left, strict=True)):
        cropped[position] = padded[position, :, y : y + height, x : x + width]
    if flip:
        flipped = draws[2] < 0.5
        cropped[flipped] = cropped[flipped, :, :, ::-1]
    return cropped


def _uniform(seed: int, epoch: int, indices: np.ndarray, draw: int) -> np.ndarray:
    """Numbers in [0, 1), each a hash of its arguments.

    Source: Steele et al., "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, Fig. 14 (`mix64`).
    """
    state = indices.astype(np.uint64)
    with np.errstate(over="ignore"):
        for number in (seed, epoch, draw):
            state = _mix(state + np.uint64(0x9E3779B97F4A7C15) * np.uint64(number + 1))
    return (state >> np.uint64(11)) * 2.0**-53


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
