"""Example indices that no row belongs to."""

from torch import Tensor


def check_indices(indices: Tensor, num_examples: int) -> None:
    """Raises an `IndexError` unless all indices are among the examples. Waits for the device."""
    if not len(indices):
        return
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= num_examples:
        raise index_out_of_range(low if low < 0 else high, num_examples)


def index_out_of_range(index: int, num_examples: int) -> IndexError:
    """The error for an example index that no row belongs to."""
    return IndexError(
        f"`example_index` must be between 0 and {num_examples - 1} (the training set has {num_examples} examples), "
        f"got {index}. The index is a position in the training set; do not change the dataset while training."
    )
