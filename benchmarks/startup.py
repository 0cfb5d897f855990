"""CPU seconds of a fresh process that does something, over those of one with transformers' own, in turns."""

import subprocess
import sys
from typing import Any

from .measuring import ratio_of

# What, as a command line for Python, and what it is compared with.
CASES = {
    "import lstsd_hf": (["-c", "import lstsd_hf"], ["-c", "import transformers"]),
    "import the trainer": (["-c", "from lstsd_hf import LSTSDTrainer"], ["-c", "from transformers import Trainer"]),
    "run_glue.py --help": (["run_glue.py", "--help"], ["-c", "from transformers import TrainingArguments"]),
    "run_cifar.py --help": (["run_cifar.py", "--help"], ["-c", "from transformers import TrainingArguments"]),
}


def measure(quick: bool) -> list[dict[str, Any]]:
    """A row for each case."""
    rounds = 3 if quick else 5
    rows = []
    for name, (ours, base) in CASES.items():
        pairs = [(_seconds(ours), _seconds(base)) for _ in range(rounds)]
        rows.append({"what": name, "over": base[-1], "ratio": ratio_of(pairs)})
    return rows


def _seconds(arguments: list[str]) -> float:
    """CPU seconds of a fresh process."""
    code = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, "
        "check=True); use = resource.getrusage(resource.RUSAGE_CHILDREN); print(use.ru_utime + use.ru_stime)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout)
