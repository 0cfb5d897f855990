#!/usr/bin/env python
"""What importing the trainer adds to importing transformers' own: `python benchmarks/import_time.py`.

Each line is the median over fresh processes, which take turns, of the CPU time of one import.
"""

import statistics
import subprocess
import sys

STATEMENTS = {
    "import transformers": "import transformers",
    "import lstsd_hf": "import lstsd_hf",
    "from transformers import Trainer": "from transformers import Trainer",
    "from lstsd_hf import LSTSDTrainer": "from lstsd_hf import LSTSDTrainer",
}
ROUNDS = 7


def seconds(statement: str) -> float:
    """CPU seconds that a fresh process spends on a statement."""
    code = f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Prints a line for each statement."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(ROUNDS):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:36} {value:6.3f} s")
    added = medians["from lstsd_hf import LSTSDTrainer"] / medians["from transformers import Trainer"] - 1
    print(f"LSTSDTrainer over Trainer: {100 * added:+.1f} %")


if __name__ == "__main__":
    main()
