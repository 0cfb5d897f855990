"""Wrong labels on purpose, for measuring robustness."""

from collections.abc import Sequence

import numpy as np


def flip_labels(labels: Sequence[int], num_labels: int, rate: float, seed: int) -> tuple[list[int], list[int]]:
    """Replaces the labels of randomly chosen examples by another label, each other one equally likely.

    Args:
        labels: Class indices.
        num_labels: How many classes there are.
        rate: Share of the examples whose label is replaced, rounded to whole examples.
        seed: The same seed, labels and rate give the same result.

    Returns:
        The labels with the replacements, and the rows that were replaced, in order.
    """
    generator = np.random.default_rng(seed)
    noisy = np.array(labels)
    rows = np.sort(generator.choice(len(noisy), size=round(rate * len(noisy)), replace=False))
    noisy[rows] = (noisy[rows] + generator.integers(1, num_labels, size=len(rows))) % num_labels
    return noisy.tolist(), rows.tolist()
