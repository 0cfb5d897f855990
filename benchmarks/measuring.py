"""What the benchmarks share: two things in turns, and the machine."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers


class Ratio(NamedTuple):
    """Of the time of one thing to that of another.

    Attributes:
        median: Over the rounds.
        quartile_1: Of the rounds.
        quartile_3: Of the rounds.
        seconds: Median of the one.
        base_seconds: Median of the other.
    """

    median: float
    quartile_1: float
    quartile_3: float
    seconds: float
    base_seconds: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.quartile_1:.2f} to {self.quartile_3:.2f})"


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes, until the device is done."""
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turns(
    one: Callable[[], Any], other: Callable[[], Any], rounds: int, before: Callable[[], Any] = lambda: None
) -> Ratio:
    """The ratio of two things that take turns, after one turn that does not count.

    Args:
        one: The one.
        other: The other, which the ratio is to.
        rounds: Turns of each.
        before: What is done before each turn of the one, not timed.
    """
    pairs = []
    for _ in range(rounds + 1):
        before()
        pairs.append((timed(one), timed(other)))
    return ratio_of(pairs[1:])


def ratio_of(pairs: list[tuple[float, float]]) -> Ratio:
    """The ratio in pairs of seconds that were measured in turns."""
    ratios = [one / other for one, other in pairs]
    low, _, high = statistics.quantiles(ratios, n=4)
    ones, others = zip(*pairs, strict=True)
    return Ratio(statistics.median(ratios), low, high, statistics.median(ones), statistics.median(others))


def hardware() -> dict[str, Any]:
    """The machine and the versions."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else model,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
