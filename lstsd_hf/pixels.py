"""What pixels are normalised with, and from one model's way to another's."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class PixelStatistics:
    """What pixels in [0, 1] are normalised with.

    Attributes:
        mean: Of each channel, to be subtracted.
        std: Of each channel, to divide by.
    """

    mean: list[float]
    std: list[float]

    @classmethod
    def of(cls, *sources: Any) -> Self | None:
        """Those of the first model config or image processor that has any.

        Args:
            *sources: Configs and processors, or `None`.
        """
        for source in sources:
            if getattr(source, "do_normalize", True) is False:
                continue
            if getattr(source, "image_mean", None) is not None and getattr(source, "image_std", None) is not None:
                return cls(list(source.image_mean), list(source.image_std))
        return None

    def converted(self, pixels: Tensor, other: "PixelStatistics") -> Tensor:
        """Pixels that were normalised with these, as normalised with others.

        Args:
            pixels: `(batch_size, num_channels, height, width)`.
            other: The others, with as many channels.
        """
        if self == other:
            return pixels
        own_mean, own_std, mean, std = (
            torch.tensor(numbers, dtype=pixels.dtype, device=pixels.device)[:, None, None]
            for numbers in (self.mean, self.std, other.mean, other.std)
        )
        return (pixels * own_std + own_mean - mean) / std
