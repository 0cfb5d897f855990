"""A convolutional LSTM that reads a short sequence of maps and predicts the next one."""

import torch
from torch import Tensor, nn

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d}


class ConvLSTM(nn.Module):
    """One encoding cell, one forecasting cell that goes on from its state, and a readout.

    Source: Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting", NIPS
    2015, arXiv 1506.04214, Sec. 3; without its peephole connections.

    Args:
        hidden_channels: Channels of the state.
        kernel_size: Positions that a gate sees, odd; along each dimension.
        dimensions: Of a map: 1 for texts, 2 for pictures.

    Examples:
        >>> ConvLSTM(hidden_channels=4)(torch.zeros(2, 3, 7), torch.ones(2, 7)).shape
        torch.Size([2, 7])
    """

    def __init__(self, hidden_channels: int, kernel_size: int = 3, dimensions: int = 1):
        super().__init__()
        convolution = CONVOLUTIONS[dimensions]
        self.encoder = _Cell(1, hidden_channels, kernel_size, convolution)
        self.forecaster = _Cell(1, hidden_channels, kernel_size, convolution)
        self.readout = convolution(hidden_channels, 1, 1)

    def forward(self, maps: Tensor, mask: Tensor) -> Tensor:
        """The map after a sequence of them.

        Args:
            maps: `(batch_size, num_maps, *size)`, where the size is a length, or height and width.
            mask: 1 for positions, 0 for padding, on which the others do not depend, `(batch_size, *size)`.

        Returns:
            `(batch_size, *size)`.
        """
        hidden = cell = maps.new_zeros(len(maps), self.encoder.hidden_channels, *maps.shape[2:])
        for step in maps.unbind(dim=1):
            hidden, cell = self.encoder(step[:, None], hidden, cell)
            hidden = hidden * mask[:, None]
        hidden, _ = self.forecaster(torch.zeros_like(maps[:, :1]), hidden, cell)
        return self.readout(hidden).squeeze(1)


class _Cell(nn.Module):
    def __init__(self, in_channels: int, hidden_channels: int, kernel_size: int, convolution: type[nn.Module]):
        super().__init__()
        self.hidden_channels = hidden_channels
        self.gates = convolution(in_channels + hidden_channels, 4 * hidden_channels, kernel_size, padding="same")

    def forward(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        entry, forget, exit_, new = self.gates(torch.cat([inputs, hidden], dim=1)).chunk(4, dim=1)
        cell = forget.sigmoid() * cell + entry.sigmoid() * new.tanh()
        return exit_.sigmoid() * cell.tanh(), cell
