"""The residual networks for small pictures."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

WIDTHS = (16, 32, 64)


class CifarConfig(PreTrainedConfig):
    """What the networks for small pictures have in common.

    Args:
        num_channels: Channels of a picture.
        image_size: Height and width that it was trained with, in pixels; others are taken too.
        image_mean: Mean of each channel, of pixels in [0, 1], that is to be subtracted from the inputs.
        image_std: Standard deviation of each channel, by which they are then to be divided.
        **kwargs: Passed on to `PreTrainedConfig`.
    """

    def __init__(
        self,
        num_channels: int = 3,
        image_size: int = 32,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        **kwargs,
    ):
        self.num_channels = num_channels
        self.image_size = image_size
        self.image_mean = None if image_mean is None else list(image_mean)
        self.image_std = None if image_std is None else list(image_std)
        super().__init__(**kwargs)


class CifarResNetConfig(CifarConfig):
    """Configuration of `CifarResNetForImageClassification`; the default is ResNet-20.

    Args:
        depth: Layers with weights, 6n + 2: 20, 32, 56 or 110 in the paper.
        **kwargs: Passed on to `CifarConfig`.
    """

    model_type = "lstsd_cifar_resnet"

    def __init__(self, depth: int = 20, **kwargs):
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"`depth` must be 6n + 2 with n of at least 1, such as 20, got {depth}.")
        self.depth = depth
        super().__init__(**kwargs)


class CifarResNetForImageClassification(PreTrainedModel):
    """A residual network of three stages of basic blocks, whose shortcuts have no parameters ("option A").

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, Sec. 4.2.
    """

    config_class = CifarResNetConfig
    base_model_prefix = "resnet"
    main_input_name = "pixel_values"

    def __init__(self, config: CifarResNetConfig):
        super().__init__(config)
        self.stem = nn.Conv2d(config.num_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        stages, width = [], WIDTHS[0]
        for stage, next_width in enumerate(WIDTHS):
            blocks = []
            for position in range((config.depth - 2) // 6):
                blocks.append(BasicBlock(width, next_width, stride=2 if stage and not position else 1))
                width = next_width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
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
            output_hidden_states: Whether to return the features after the first layer and each of the three stages.

        Returns:
            Logits `(batch_size, num_labels)`; with labels, the loss; and the features, if asked for.
        """
        states = [self.norm(self.stem(pixel_values)).relu()]
        for stage in self.stages:
            states.append(stage(states[-1]))
        return classified(self, states, states[-1], labels, output_hidden_states)


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut, which skips every other pixel and adds empty channels where they shrink.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        # As many in front as behind.
        self.empty_channels = (out_channels - in_channels) // 2

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features[:, :, :: self.stride, :: self.stride] if self.stride > 1 else features
        if self.empty_channels:
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, self.empty_channels, self.empty_channels))
        features = self.norm1(self.conv1(features)).relu()
        return (self.norm2(self.conv2(features)) + shortcut).relu()


def init_convolutional(module: nn.Module) -> None:
    """He et al.'s initialisation (arXiv 1502.01852) of a module of a convolutional network."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        nn.init.zeros_(module.bias)


def classified(
    model: PreTrainedModel,
    states: Sequence[Tensor],
    features: Tensor,
    labels: Tensor | None,
    output_hidden_states: bool | None,
) -> ImageClassifierOutput:
    """A network's output.

    Args:
        model: The network.
        states: Its features at several depths.
        features: The last ones, `(batch_size, num_features, height, width)`.
        labels: As `forward` takes them.
        output_hidden_states: As `forward` takes it.
    """
    logits = model.classifier(features.mean(dim=(2, 3)))
    loss = None if labels is None else model.loss_function(labels, logits.float(), model.config)
    shown = model.config.output_hidden_states if output_hidden_states is None else output_hidden_states
    return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=tuple(states) if shown else None)
