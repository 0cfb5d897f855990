"""Wrong labels on purpose, for measuring robustness."""

from collections.abc import Sequence

import numpy as np

NOISE_KINDS = ("symmetric", "asymmetric")


def replace_labels(
    labels: Sequence[int], num_labels: int, rate: float, seed: int, kind: str = NOISE_KINDS[0]
) -> tuple[list[int], list[int]]:
    """Replaces the labels of randomly chosen examples by another label.

    Args:
        labels: Class indices.
        num_labels: How many classes there are.
        rate: Share of the examples whose label is replaced, rounded to whole examples.
        seed: The same seed, labels, rate and kind give the same result.
        kind: "symmetric": each other label equally likely; "asymmetric": each class is taken for the next one.

    Returns:
        The labels with the replacements, and the rows that were replaced, in order.
    """
    generator = np.random.default_rng(seed)
    noisy = np.array(labels)
    rows = np.sort(generator.choice(len(noisy), size=round(rate * len(noisy)), replace=False))
    shifts = generator.integers(1, num_labels, size=len(rows)) if kind == "symmetric" else 1
    noisy[rows] = (noisy[rows] + shifts) % num_labels
    return noisy.tolist(), rows.tolist()
