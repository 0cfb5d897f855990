"""The densely connected networks for small pictures."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from .cifar_resnet import CifarConfig, classified, init_convolutional

BOTTLENECK = 4
COMPRESSION = 0.5


class CifarDenseNetConfig(CifarConfig):
    """Configuration of `CifarDenseNetForImageClassification`; the default is DenseNet-BC-100 with growth rate 12.

    Args:
        depth: Layers with weights, 6n + 4.
        growth_rate: Channels that a layer adds.
        num_init_features: Channels of the first convolution.
        **kwargs: Passed on to `CifarConfig`.
    """

    model_type = "lstsd_cifar_densenet"

    def __init__(self, depth: int = 100, growth_rate: int = 12, num_init_features: int = 24, **kwargs):
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"`depth` must be 6n + 4 with n of at least 1, such as 100, got {depth}.")
        self.depth = depth
        self.growth_rate = growth_rate
        self.num_init_features = num_init_features
        super().__init__(**kwargs)


class CifarDenseNetForImageClassification(PreTrainedModel):
    """A network of three dense blocks with bottlenecks and compression (DenseNet-BC).

    Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, arXiv 1608.06993, Sec. 3.
    """

    config_class = CifarDenseNetConfig
    base_model_prefix = "densenet"
    main_input_name = "pixel_values"

    def __init__(self, config: CifarDenseNetConfig):
        super().__init__(config)
        width = config.num_init_features
        self.stem = nn.Conv2d(config.num_channels, width, 3, padding=1, bias=False)
        blocks = []
        for block in range(3):
            layers: list[nn.Module] = []
            if block:
                narrow = int(width * COMPRESSION)
                layers.append(Transition(width, narrow))
                width = narrow
            for _ in range((config.depth - 4) // 6):
                layers.append(DenseLayer(width, config.growth_rate))
                width += config.growth_rate
            blocks.append(nn.Sequential(*layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_convolutional(module)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, output_hidden_states: bool | None = None
    ) -> ImageClassifierOutput:
        """Classifies pictures.

        Args:
            pixel_values: Normalised pixels `(batch_size, num_channels, height, width)`.
            labels: Class indices `(batch_size,)`.
            output_hidden_states: Whether to return the features after the first layer and each of the three blocks.

        Returns:
            Logits `(batch_size, num_labels)`; with labels, the loss; and the features, if asked for.
        """
        states = [self.stem(pixel_values)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return classified(self, states, self.norm(states[-1]).relu(), labels, output_hidden_states)


class DenseLayer(nn.Module):
    """A bottleneck and a convolution, whose output is put beside the input.

    Args:
        in_channels: Channels of the input.
        growth_rate: Channels that it adds.
    """

    def __init__(self, in_channels: int, growth_rate: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, BOTTLENECK * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth_rate)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth_rate, growth_rate, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        added = self.conv1(self.norm1(features).relu())
        return torch.cat([features, self.conv2(self.norm2(added).relu())], dim=1)


class Transition(nn.Module):
    """Fewer channels, and half the height and width.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.conv(self.norm(features).relu()), 2)
