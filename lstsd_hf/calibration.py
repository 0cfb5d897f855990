"""How sure predictions are, and how often they are right."""

import numpy as np


def confidence_bins(confidence: np.ndarray, num_bins: int) -> np.ndarray:
    """The bin of each confidence, from 0, among equal ones on (0, 1] that are closed on the right.

    Args:
        confidence: The largest probability of each example, `(num_examples,)`.
        num_bins: How many bins there are.

    Examples:
        >>> confidence_bins(np.array([0.5, 0.51, 1.0]), num_bins=2).tolist()
        [0, 1, 1]
    """
    return np.maximum(np.ceil(confidence * num_bins).astype(int) - 1, 0)
