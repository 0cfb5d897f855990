#!/usr/bin/env python
"""How the rule of `suspicion_window` was chosen: the regret of each threshold, on recorded runs that are no part of A5.

for rate in 3e-4 1e-3; do for noise in 0.1 0.2 0.3 0.4; do for task in mrpc cola "sst2 --max_train_samples 5000"; do
python run_glue.py --task $task --label_noise $noise --model_name_or_path minilm --trainable_layers 0 \
  --per_device_train_batch_size 32 --learning_rate $rate --num_train_epochs 30 --record_dynamics True --method vanilla \
  --seeds 11 12 --output_dir runs/window --save_strategy no; done; done; done
for task in rte cola; do for noise in 0.2 0.4; do  # generated data: slow learners
python run_glue.py --task $task --data synthetic --demo --label_noise $noise --num_train_epochs 14 --method vanilla \
  --record_dynamics True --seed 11 --output_dir runs/slow-$task-$noise --save_strategy no; done; done
python -m studies.window runs/window runs/slow-*
"""

import json
import sys
from pathlib import Path

import numpy as np

from lstsd_hf.dynamics import History
from lstsd_hf.dynamics import measures as m

from .dynamics import quality

THRESHOLDS = (0.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
LAST_START = 12


def regrets(folder: Path) -> list[float]:
    """For each threshold: by how many points of ROC-AUC another window of three epochs would have been better."""
    rows = json.loads((folder / "label_noise.json").read_text())["rows"]
    history = History.read(folder / "dynamics")
    is_wrong = np.isin(np.arange(len(history.given)), rows)
    starts = range(1, min(LAST_START, history.num_epochs - m.WINDOW_LENGTH + 1) + 1)
    windows = [history.epochs(start, start + m.WINDOW_LENGTH - 1) for start in starts]
    scores = [100 * quality(-m.confidence(window), is_wrong)["roc_auc"] for window in windows]
    found = []
    for threshold in THRESHOLDS:
        m.LEARNED = threshold
        first, _ = m.suspicion_window(history)
        found.append(max(scores) - scores[min(first, len(scores)) - 1])
    return found


def main(folders: list[Path]) -> None:
    """Prints the mean and the largest regret of each threshold over all finished runs."""
    runs = [path.parent for folder in folders for path in sorted(folder.rglob("results.json"))]
    table = np.array([regrets(run) for run in runs])
    print(f"{len(runs)} runs\nstandard errors  mean  largest regret")
    for threshold, column in zip(THRESHOLDS, table.T, strict=True):
        print(f"{threshold:15.0f}  {column.mean():4.2f}  {column.max():4.1f}")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
