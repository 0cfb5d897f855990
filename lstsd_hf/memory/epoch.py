"""What one epoch said of the training examples."""

from .latest import LatestMemory


class EpochMemory(LatestMemory):
    """One table: each example's row of the last finished epoch, and none where that epoch did not see it.

    Arguments and attributes are those of `ExampleMemory`.

    Examples:
        >>> memory = EpochMemory(num_examples=2, num_labels=2)
        >>> memory.stage(torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
        >>> memory.transition(epoch=1)
        >>> memory.transition(epoch=2)
        >>> memory.written.tolist()
        [False, False]
    """

    def transition(self, epoch: int) -> None:
        """As that of `LatestMemory`, which forgets the epoch before."""
        if not self._is_ready_for(epoch):
            self._rows.zero_()
            self._written.zero_()
        super().transition(epoch)
