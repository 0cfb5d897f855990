"""Image classifiers by name: the paper's networks, the hub's, and those in a folder."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from ..errors import InputError
from ..models import (
    CifarDenseNetConfig,
    CifarDenseNetForImageClassification,
    CifarResNetConfig,
    CifarResNetForImageClassification,
)
from ..pixels import PixelStatistics
from .tasks import ImageTask

RESNETS = {f"resnet{depth}": depth for depth in (20, 32, 56, 110)}
DENSENET = "densenet100"
NETWORKS = (*RESNETS, DENSENET)
NETWORK_CLASSES = (CifarResNetForImageClassification, CifarDenseNetForImageClassification)


def load_model(
    name_or_path: str, task: ImageTask, picture_shape: Sequence[int], statistics: PixelStatistics
) -> tuple[PreTrainedModel, PixelStatistics]:
    """A classifier for the task, in fp32, and what its inputs are normalised with.

    Args:
        name_or_path: "resnet20", "resnet32", "resnet56", "resnet110" or "densenet100", all new; a name on the hub; or a
            folder.
        task: The task.
        picture_shape: Channels, height and width of a picture.
        statistics: Those of the training split, with which a new network's inputs are normalised.

    Raises:
        InputError: If there is no such model, the hub cannot be reached, or it does not take such pictures.
    """
    channels, height, _ = picture_shape
    if name_or_path in NETWORKS:
        options: dict[str, Any] = {
            **task.label_settings(),
            "num_channels": channels,
            "image_size": height,
            "image_mean": statistics.mean,
            "image_std": statistics.std,
        }
        if name_or_path == DENSENET:
            return CifarDenseNetForImageClassification(CifarDenseNetConfig(**options)), statistics
        config = CifarResNetConfig(depth=RESNETS[name_or_path], **options)
        return CifarResNetForImageClassification(config), statistics
    try:
        config = AutoConfig.from_pretrained(name_or_path, **task.label_settings())
        # The dtype explicitly: the default is the checkpoint's own. A head for other labels is not loaded.
        model = AutoModelForImageClassification.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
        )
        saved = PixelStatistics.of(config) or PixelStatistics.of(AutoImageProcessor.from_pretrained(name_or_path))
        statistics = saved or statistics
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"The model {name_or_path!r} could not be loaded: {str(error).strip().splitlines()[0]} Ways on: connect to "
            f"the internet or check the name; give a local folder as --model_name_or_path; or use one of "
            f"{', '.join(NETWORKS)}."
        ) from error
    expected = getattr(config, "num_channels", channels)
    if expected != channels or len(statistics.mean) != channels:
        raise InputError(
            f"The model {name_or_path!r} must take pictures with {channels} channels, got one for {expected}. Use one "
            f"of {', '.join(NETWORKS)}, or pictures in RGB."
        )
    return model, statistics
