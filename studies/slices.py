#!/usr/bin/env python
"""Writes a folder like GLUE's TSV release whose training and validation splits are both parts of the training split.

python -m studies.slices $GLUE_DIR runs/slices
"""

import random
import sys
from pathlib import Path

FOLDERS = {"SST-2": 5000, "MRPC": None, "CoLA": None, "RTE": None}
HEADERS = {"SST-2", "MRPC", "RTE"}
SHARE, SEED = 0.15, 0


def main(source: Path, target: Path) -> None:
    """Takes 15 % of the training rows for validation, of SST-2's first 5,000."""
    for folder, limit in FOLDERS.items():
        lines = (source / folder / "train.tsv").read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
        header = [lines.pop(0)] if folder in HEADERS else []
        lines = lines[:limit]
        random.Random(SEED).shuffle(lines)
        count = round(SHARE * len(lines))
        (target / folder).mkdir(parents=True, exist_ok=True)
        for name, rows in (("dev", lines[:count]), ("train", lines[count:])):
            (target / folder / f"{name}.tsv").write_text("\n".join([*header, *rows]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
