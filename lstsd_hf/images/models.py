"""Image classifiers by name: the paper's networks, the hub's, and those in a folder."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..errors import InputError, first_line
from ..models import (
    CifarDenseNetConfig,
    CifarDenseNetForImageClassification,
    CifarResNetConfig,
    CifarResNetForImageClassification,
)
from ..pixels import PixelStatistics
from ..runner.heads import fit_output_layer
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
    channels, height, width = picture_shape
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
    saved, model, loading = _load(name_or_path, task)
    own = PixelStatistics.of(saved) or PixelStatistics.of(_image_processor(name_or_path))
    statistics = own or statistics
    expected, size = getattr(saved, "num_channels", channels), getattr(saved, "image_size", height)
    for name, needed, got in (
        ("channels", expected, channels),
        ("channels to normalise", len(statistics.mean), channels),
        # Convolutional networks take any size.
        ("pixels of height", height if isinstance(model, NETWORK_CLASSES) else size, height),
    ):
        if needed != got:
            raise InputError(
                f"The model {name_or_path!r} must be given pictures with {needed} {name}, got {got}. Use one of "
                f"{', '.join(NETWORKS)}, or pictures of your own with --image_size {size}."
            )
    fit_output_layer(
        model, saved, task, loading, name_or_path, {"pixel_values": torch.zeros(2, channels, height, width)}
    )
    return model, statistics


def _load(name_or_path: str, task: ImageTask) -> tuple[PreTrainedConfig, PreTrainedModel, dict[str, Any]]:
    """The config that a classifier was saved with, the classifier with the task's labels, and what was not loaded."""
    try:
        saved = AutoConfig.from_pretrained(name_or_path)
        config = AutoConfig.from_pretrained(name_or_path, **task.label_settings())
        # The dtype explicitly: the default is the checkpoint's own. A head for other labels is not loaded.
        model, loading = AutoModelForImageClassification.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"The model {name_or_path!r} could not be loaded: {first_line(error)} Ways on: connect to "
            f"the internet or check the name; give a local folder as --model_name_or_path; or use one of "
            f"{', '.join(NETWORKS)}."
        ) from error
    return saved, model, loading


def _image_processor(name_or_path: str) -> Any:
    """The processor of a model's folder; `None` if it has none."""
    try:
        return AutoImageProcessor.from_pretrained(name_or_path)
    except (OSError, ValueError, ImportError):
        return None
