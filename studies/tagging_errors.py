#!/usr/bin/env python
"""Runs the protocol's cell T2: how well recorded taggers find the tags that were replaced.

python -m studies.tagging_errors runs/tagging
"""

import json
import sys
from pathlib import Path

import numpy as np

from lstsd_hf.dynamics import History
from lstsd_hf.files import replacing

from .analysis import records_file
from .dynamics import RANKINGS, quality
from .tagging import SEEDS, make_trainer

NOISY, CLEAN = ("upos", 0.2), ("upos", 0.0)
METHODS = ("vanilla", "lstsd")


def main(data: Path) -> None:
    """Writes a line for each run."""
    lines = []
    for method in METHODS:
        for seed in SEEDS:
            folder = data / f"output-errors-{method}-{seed}"
            trainer = make_trainer(data, folder, NOISY, method, seed, record_dynamics=True)
            trainer.train()
            history = History.read(trainer.dynamics_folder)
            true_rows = make_trainer(data, folder, CLEAN, method, seed).train_dataset
            true_labels = np.array([label for row in true_rows for label in row["labels"] if label != -100])
            is_wrong = history.given != true_labels
            found = {name: quality(ranking(history), is_wrong) for name, ranking in RANKINGS.items()}
            lines.append({"method": method, "seed": seed, "count": int(is_wrong.sum()), **found})
    with replacing(records_file("tagging_errors.jsonl")) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
