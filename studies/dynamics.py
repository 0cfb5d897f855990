#!/usr/bin/env python
"""How well each statistic of recorded runs finds the labels that were replaced, into records/dynamics.jsonl.

python -m studies.cells dynamics | xargs -P 2 -d '\\n' -n 1 sh -c
python -m studies.dynamics runs/dynamics
"""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from transformers import set_seed

from lstsd_hf.dynamics import History
from lstsd_hf.dynamics import measures as m
from lstsd_hf.files import replacing
from lstsd_hf.glue import cli
from lstsd_hf.glue.run import GlueRun
from lstsd_hf.runner.preparation import Prepared

from .analysis import records_file
from .cells import CELLS

FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)


def window(first: int, last: int):
    """Mean probability of the given label over some epochs, negative: more is more suspicious."""
    return lambda history: -m.confidence(history.epochs(first, min(last, history.num_epochs)))


def never_last(values: np.ndarray, num_epochs: int) -> np.ndarray:
    """Epoch numbers in which 0, never, counts as later than any."""
    return np.where(values == 0, num_epochs + 1, values)


def early(statistic):
    """A statistic of the window of `suspicion`, negative."""
    return lambda history: -statistic(history.epochs(*m.suspicion_window(history)))


# More is more suspicious.
RANKINGS = {
    "suspicion": m.suspicion,
    "epochs 2-4": window(2, 4),
    "epochs 1-3": window(1, 3),
    "epoch 1": window(1, 1),
    "all epochs (confidence)": lambda history: -m.confidence(history),
    "last epoch": lambda history: window(history.num_epochs, history.num_epochs)(history),
    "variability": m.variability,
    "correctness": lambda history: -m.correctness(history),
    "AUM": lambda history: -m.aum(history),
    "AUM, epochs 2-4": lambda history: -m.aum(history.epochs(1, min(4, history.num_epochs))),
    "forgetting": m.forgetting,
    "first learned": lambda history: never_last(m.first_learned(history), history.num_epochs),
    "last wrong": m.last_wrong,
    "normalized margin, same window": early(m.normalized_margin),
    "weighted entropy, same window": early(m.confidence_weighted_entropy),
}


def quality(values: np.ndarray, is_wrong: np.ndarray) -> dict[str, float]:
    """ROC-AUC, and the share of wrong labels among the first so many as there are wrong ones."""
    first = np.argsort(-values, kind="stable")[: is_wrong.sum()]
    return {"roc_auc": float(roc_auc_score(is_wrong, values)), "precision_at_count": float(is_wrong[first].mean())}


def recorded_folders(folder: Path) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """Folder, results and label noise of each finished run; what is no task of GLUE is TREC."""
    for path in sorted(folder.rglob("results.json")):
        result, noise = (json.loads((path.parent / name).read_text()) for name in ("results.json", "label_noise.json"))
        if result["data"]["generated"]:
            raise ValueError(f"{path} is of generated data, which must not stand in a table of results.")
        yield path.parent, result | {"task": "trec" if result["task"] == "custom" else result["task"]}, noise


def recorded_runs(folder: Path) -> Iterator[dict[str, Any]]:
    """A line for each finished run with recorded dynamics."""
    for path, result, noise in recorded_folders(folder):
        history = History.read(path / "dynamics")
        is_wrong = np.isin(np.arange(len(history.given)), noise["rows"])
        yield {
            "task": result["task"],
            "rate": noise["rate"],
            "method": result["method"],
            "epochs": history.num_epochs,
            "seed": result["seed"],
            "count": len(noise["rows"]),
            "window": m.suspicion_window(history),
            "model": result["label_errors"]["model"],
            **{name: quality(ranking(history), is_wrong) for name, ranking in RANKINGS.items()},
        }


def prepared_cell(task: str, rate: float, seed: int = 1) -> tuple[GlueRun, Prepared]:
    """A cell's run of vanilla, its data and its model before training."""
    command = next(item for item in CELLS["dynamics"]() if (item.task, item.rate) == (task, rate))
    parsed = cli.parse([*shlex.split(str(command))[2:], "--use_cpu", "True"])
    run = next(item.run for item in cli.plan(parsed) if item.run.args.seed == seed)
    set_seed(seed)
    return run, run.prepare(Path(parsed.run.cache_dir))


def out_of_sample() -> Iterator[dict[str, Any]]:
    """A line for each cell: a logistic regression on the frozen features, cross-fitted over five folds.

    Its strength of regularisation is the one with the least cross-fitted log-loss against the given, noisy, labels.
    """
    for task, rate in sorted({(command.task, command.rate) for command in CELLS["dynamics"]()}):
        _, prepared = prepared_cell(task, rate)
        train = prepared.splits["train"]
        features = np.stack([train[row]["features"].numpy() for row in range(len(train))])
        given = np.array(train.labels)
        is_wrong = np.isin(np.arange(len(given)), prepared.rows.noisy_rows)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        fits = [
            cross_val_predict(
                LogisticRegression(C=strength, max_iter=2000), features, given, cv=folds, method="predict_proba"
            )
            for strength in STRENGTHS
        ]
        best = min(fits, key=lambda probabilities: log_loss(given, probabilities))
        yield {
            "task": task,
            "rate": rate,
            "method": "cross-validation",
            "count": int(is_wrong.sum()),
            "self-confidence": quality(-best[np.arange(len(given)), given], is_wrong),
        }


def main(folder: Path) -> None:
    """Writes the records."""
    path = records_file("dynamics.jsonl")
    lines = [*recorded_runs(folder), *out_of_sample()]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(lines)} lines in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
