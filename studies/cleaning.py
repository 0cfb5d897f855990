#!/usr/bin/env python
"""Drops or relabels what recorded runs suspect and trains again, into records/cleaning.jsonl; what is there is kept.

python -m studies.cleaning runs/dynamics
"""

import copy
import itertools
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from lstsd_hf.dynamics import History, InSampleWarning, drop_suspects, relabel
from lstsd_hf.glue.run import GlueRun
from lstsd_hf.runner.preparation import Prepared
from lstsd_hf.runner.trainer import RunTrainer
from lstsd_hf.runner.training import metrics_function

from .analysis import records_file
from .dynamics import prepared_cell, recorded_folders

EPOCHS = (3, 30)
ACTIONS = ("as given", "dropped", "relabelled")


def score(run: GlueRun, prepared: Prepared, rows: list[dict[str, Any]], epochs: int) -> float:
    """The headline metric of vanilla's last epoch on other training rows."""
    args = copy.copy(run.args)
    args.num_train_epochs, args.output_dir = epochs, "runs/cleaning"
    args.eval_strategy = args.save_strategy = args.logging_strategy = "no"
    trainer = RunTrainer(
        model=copy.deepcopy(prepared.model),
        args=args,
        train_dataset=rows,
        eval_dataset=prepared.splits["validation"],
        data_collator=prepared.collator,
        compute_metrics=metrics_function(run.task),
        teacher="vanilla",
    )
    trainer.train()
    return trainer.evaluate()[f"eval_{run.task.headline_metric}"]


def lines_of(folder: Path, done: set[tuple]) -> Iterator[dict[str, Any]]:
    """A line for each cell, seed, action and length that is missing."""
    for path, result, noise in recorded_folders(folder):
        cell = {"task": result["task"], "rate": noise["rate"], "seed": result["seed"]}
        if result["method"] != "vanilla" or len(result["epochs"]) != max(EPOCHS):
            continue
        missing = [item for item in itertools.product(EPOCHS, ACTIONS) if (*cell.values(), *item) not in done]
        if not missing:
            continue
        run, prepared = prepared_cell(*cell.values())
        train = prepared.splits["train"]
        rows = [train[row] for row in range(len(train))]
        history = History.read(path / "dynamics")
        if history.given.tolist() != [row["labels"] for row in rows]:
            raise ValueError(f"{path} was recorded with other labels.")
        is_wrong = np.isin(np.arange(len(rows)), noise["rows"])
        with warnings.catch_warnings():
            # What becomes of the estimate is the question.
            warnings.simplefilter("ignore", InSampleWarning)
            kept, dropped = drop_suspects(rows, history)
            corrected, changed = relabel(rows, history)
        data = {
            "as given": (rows, []),
            "dropped": (kept, dropped["index"]),
            "relabelled": (corrected, changed["index"]),
        }
        for epochs, action in missing:
            trained_on, touched = data[action]
            if (epochs, action) == (max(EPOCHS), "as given"):
                found = result["last_epoch"][f"eval_{run.task.headline_metric}"]
            else:
                found = score(run, prepared, trained_on, epochs)
            counts = {"touched": len(touched), "touched_wrong": int(is_wrong[list(touched)].sum())}
            yield cell | {"epochs": epochs, "action": action, **counts, "score": found}


def main(folder: Path) -> None:
    """Appends the missing records as they come."""
    transformers.logging.set_verbosity_error()
    path = records_file("cleaning.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {tuple(line[name] for name in ("task", "rate", "seed", "epochs", "action")) for line in lines}
    for line in lines_of(folder, done):
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
