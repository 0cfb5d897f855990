"""Pictures: data, augmentation, networks by name, and single training runs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dataset import EpochOfImages, Images

__all__ = ["EpochOfImages", "Images"]


def __getattr__(name: str):
    # The command's help does not wait for torch.
    if name in __all__:
        from . import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
