"""What distinguishes the image tasks: names on the hub, files, augmentation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..runner.tasks import Task

ROW = "row"
"""Column of a split: a picture's place among the pixels."""


@dataclass(frozen=True)
class ImageSource:
    """A data set of pictures by name.

    Attributes:
        hub: Its name on the hub; `None` if it is not there.
        hub_columns: Columns of the picture and the label there.
        folder: Where it lies on a machine that has a package for it.
        crop_padding: Pixels of the padding before a random crop.
        flip: Whether a picture flipped left to right is one of the same kind.
    """

    hub: str | None = None
    hub_columns: tuple[str, str] = ("img", "label")
    folder: str | None = None
    crop_padding: int = 4
    flip: bool = True


SOURCES: dict[str, ImageSource] = {
    "cifar100": ImageSource("uoft-cs/cifar100", ("img", "fine_label")),
    "cifar10": ImageSource("uoft-cs/cifar10"),
    "fashion_mnist": ImageSource(
        "zalando-datasets/fashion_mnist", ("image", "label"), "/usr/share/datasets/fashion-mnist"
    ),
    # Pictures of 8 × 8 pixels, from scikit-learn.
    "digits": ImageSource(crop_padding=1, flip=False),
}
# Pictures of one's own may have a left and a right.
OWN = ImageSource(flip=False)


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """Classification of pictures of one size.

    Attributes:
        crop_padding: Pixels of the padding before a random crop.
        flip: Whether to flip pictures left to right, at random, half of the time.
        image_size: Height and width to which pictures of one's own were resized; `None` for those of one size.
    """

    crop_padding: int = 4
    flip: bool = True
    image_size: int | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The size that was asked for."""
        return {} if self.image_size is None else {"image_size": self.image_size}

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The place among the pixels, which `ImageRun` has a digest of."""
        return (ROW,)
