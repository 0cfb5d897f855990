"""Pictures: data, augmentation, networks by name, and single training runs."""

from .dataset import EpochOfImages, Images

__all__ = ["EpochOfImages", "Images"]
