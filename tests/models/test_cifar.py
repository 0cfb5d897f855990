"""The paper's networks for pictures."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification

from lstsd_hf.models import (
    CifarDenseNetConfig,
    CifarDenseNetForImageClassification,
    CifarResNetConfig,
    CifarResNetForImageClassification,
)


def resnet_parameters(depth, classes=10, channels=3):
    """Counted by hand: convolutions without bias, a weight and a bias of each normalised channel, one linear layer."""
    blocks, total, width = (depth - 2) // 6, 9 * channels * 16 + 2 * 16, 16
    for stage in (16, 32, 64):
        for _ in range(blocks):
            total += 9 * width * stage + 9 * stage * stage + 4 * stage
            width = stage
    return total + 64 * classes + classes


def densenet_parameters(growth=12, width=24, classes=10, channels=3):
    total = 9 * channels * width
    for block in range(3):
        for _ in range(16):
            total += 2 * width + width * 4 * growth + 2 * 4 * growth + 9 * 4 * growth * growth
            width += growth
        if block < 2:
            total += 2 * width + width * (width // 2)
            width //= 2
    return total + 2 * width + width * classes + classes


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


# He et al. 2016, Table 6, in millions, for CIFAR-10.
@pytest.mark.parametrize(("depth", "published"), [(20, 0.27), (32, 0.46), (56, 0.85), (110, 1.7)])
def test_a_resnet_has_as_many_parameters_as_published(depth, published):
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=depth, num_labels=10))
    assert count(model) == resnet_parameters(depth)
    assert count(model) / 1e6 == pytest.approx(published, rel=0.02)


def test_the_densenet_has_as_many_parameters_as_published():
    """Huang et al. 2017, Table 2: 0.8 million for CIFAR-10."""
    model = CifarDenseNetForImageClassification(CifarDenseNetConfig(num_labels=10))
    assert count(model) == densenet_parameters() == 769162
    weights = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(weights) == 100
    # The paper's growth rate, read literally.
    assert round(densenet_parameters(growth=80) / 1e6) == 32


@pytest.mark.parametrize("depth", [20, 56])
def test_a_resnet_has_as_many_layers_as_its_name_says(depth):
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=depth))
    assert len([module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]) == depth


def test_shortcuts_skip_pixels_and_add_empty_channels():
    """A block whose convolutions give nothing is its shortcut, written out by hand."""
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=8)).eval()
    block = model.stages[1][0]
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)
    features = torch.rand(2, 16, 6, 6)
    expected = torch.zeros(2, 32, 3, 3)
    for channel in range(16):
        for row in range(3):
            for column in range(3):
                expected[:, channel + 8, row, column] = features[:, channel, 2 * row, 2 * column]
    assert torch.equal(block(features), expected)


@pytest.mark.parametrize("size", [32, 28, 8])
@pytest.mark.parametrize(
    "make",
    [
        lambda: CifarResNetForImageClassification(CifarResNetConfig(depth=8, num_labels=7)),
        lambda: CifarDenseNetForImageClassification(CifarDenseNetConfig(depth=10, num_labels=7)),
    ],
    ids=["resnet", "densenet"],
)
def test_outputs_gradients_and_a_round_trip(make, size, tmp_path):
    model, pixels = make(), torch.rand(3, 3, size, size)
    outputs = model(pixels, labels=torch.tensor([0, 6, 2]), output_hidden_states=True)
    assert outputs.logits.shape == (3, 7)
    assert len(outputs.hidden_states) == 4
    assert [states.shape[-1] for states in outputs.hidden_states] == [size, size, size // 2, size // 4]
    assert model(pixels).hidden_states is None
    expected = nn.functional.cross_entropy(outputs.logits, torch.tensor([0, 6, 2]))
    torch.testing.assert_close(outputs.loss, expected)
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, model.eval()(pixels).logits)


@pytest.mark.parametrize(
    ("kind", "depth"), [(CifarResNetConfig, 21), (CifarResNetConfig, 2), (CifarDenseNetConfig, 99)]
)
def test_a_depth_that_does_not_divide_is_refused(kind, depth):
    with pytest.raises(ValueError, match=f"`depth` must be 6n .* got {depth}"):
        kind(depth=depth)
