#!/usr/bin/env python
"""Writes TREC's questions (files without header, `label,question`) as files with columns.

python -m studies.trec $TREC_DIR runs/trec
"""

import csv
import sys
from pathlib import Path

SPLITS = {"train": "train", "validation": "test"}


def main(source: Path, target: Path) -> None:
    """Writes `train.csv` and, of the test questions, `validation.csv`."""
    target.mkdir(parents=True, exist_ok=True)
    for name, original in SPLITS.items():
        with (source / f"{original}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        with (target / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("label", "question"), *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
