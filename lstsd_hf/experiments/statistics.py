"""The statistics of a comparison over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..errors import InputError

# Records keep six digits of a score. Rounding alone may spread differences by so much of the score.
_RESOLUTION = 1e-5


@dataclass(frozen=True)
class PairedDifference:
    """Differences of one method to another, paired by seed.

    Attributes:
        count: Seeds that both have.
        mean: Mean difference.
        low: Lower end of the 95 % confidence interval of the mean (Student's t); not a number below 2 seeds, or if the
            differences are all equal.
        high: Its upper end.
        p_value: Of the two-sided paired t-test; not a number in the same cases.
    """

    count: int
    mean: float
    low: float
    high: float
    p_value: float


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof 1); not numbers where there are too few values."""
    if not values:
        return math.nan, math.nan
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def paired_difference(
    scores: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95
) -> PairedDifference:
    """Compares two methods over the seeds that both were run with.

    Args:
        scores: Score by seed.
        baseline: Score of the other method by seed.
        confidence: Level of the interval.

    Raises:
        InputError: If they have no seed in common.
    """
    seeds = sorted(scores.keys() & baseline.keys())
    if not seeds:
        raise InputError(
            f"Two methods can only be paired over common seeds, got {sorted(scores)} and {sorted(baseline)}. Run both "
            "with the same `seeds`."
        )
    differences = np.array([scores[seed] - baseline[seed] for seed in seeds])
    mean = float(differences.mean())
    if len(seeds) < 2:
        return PairedDifference(1, mean, math.nan, math.nan, math.nan)
    spread = float(differences.std(ddof=1))
    # Equal differences, up to the digits of records: there is no spread to test against.
    if spread <= _RESOLUTION * max(abs(each[seed]) for each in (scores, baseline) for seed in seeds):
        return PairedDifference(len(seeds), mean, math.nan, math.nan, math.nan)
    half = float(stats.t.ppf((1 + confidence) / 2, len(seeds) - 1)) * spread / math.sqrt(len(seeds))
    p_value = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return PairedDifference(len(seeds), mean, mean - half, mean + half, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for the number of comparisons.

    What is not a number, because it could not be tested, counts as a comparison and stays what it is.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics, 1979.
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted((p, position) for position, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, position) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        adjusted[position] = largest
    return adjusted
