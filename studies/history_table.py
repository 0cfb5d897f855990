"""The table of A5: how well each statistic of recorded runs finds the labels that were replaced."""

import json
from collections import defaultdict

import numpy as np

from .analysis import TASKS, cells, ranking, records_file
from .tables import NOT_RUN, table

METHODS = {"vanilla": "vanilla", "lstsd": "LSTSD"}
SEEDS, SHORT_EPOCHS = 5, 3
WITHIN = 0.5  # points of ROC-AUC
SHORT, CROSS_FITTED = "model of a 3-epoch run", "cross-fitted logistic regression"
Column = tuple[float, str]  # noise rate and task


def history_table() -> str:
    """Mean ROC-AUC of each ranking, a table for the runs of each method, and whether the default is among the best."""
    path = records_file("dynamics.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not lines:
        return NOT_RUN
    return "\n\n".join(_table(lines, method) for method in METHODS)


def _table(lines: list[dict], method: str) -> str:
    found: dict[str, dict[Column, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        column = line["rate"], line["task"]
        if line["method"] == "vanilla" and line["epochs"] == SHORT_EPOCHS:
            found[SHORT][column].append((line["model"]["roc_auc"], line["model"]["precision_at_count"]))
        elif line["method"] == method:
            for name, value in line.items():
                if isinstance(value, dict):
                    name = "model at the end" if name == "model" else name
                    found[name][column].append((value["roc_auc"], value["precision_at_count"]))
        elif line["method"] == "cross-validation":
            value = line["self-confidence"]
            found[CROSS_FITTED][column].append((value["roc_auc"], value["precision_at_count"]))
    for cell in cells("mlp_short"):
        if cell.rate:
            auc, precision = (
                ranking("model", number)(cell, cell.groups["vanilla"]) for number in ("roc_auc", "precision_at_count")
            )
            pairs = [(auc[seed] / 100, precision[seed] / 100) for seed in sorted(auc)[:SEEDS]]
            found[SHORT][cell.rate, cell.task] = pairs
    columns = sorted(
        {column for name in found for column in found[name]}, key=lambda c: (c[0], list(TASKS).index(c[1]))
    )
    means = {name: {c: 100 * np.mean([auc for auc, _ in own[c]]) for c in columns} for name, own in found.items()}
    rows = [
        [
            f"**{name}**" if name == "suspicion" else name,
            *(f"{means[name][c]:.1f} / {100 * np.mean([p for _, p in own[c]]):.0f}" for c in columns),
        ]
        for name, own in sorted(found.items(), key=lambda item: -np.mean([*means[item[0]].values()]))
    ]
    header = ["ROC-AUC / precision", *(f"{TASKS[task].split(' (')[0]}, {rate:.0%}" for rate, task in columns)]
    of_the_run = [name for name in means if name not in (SHORT, CROSS_FITTED)]
    notes = []
    for others, names in ((of_the_run, "rankings of the same run"), (list(means), "all rankings")):
        behind = {c: max(means[name][c] for name in others) - means["suspicion"][c] for c in columns}
        near = sum(gap <= WITHIN for gap in behind.values())
        notes.append(f"within {WITHIN} points of the best of {names} in {near} of {len(columns)} cells")
    return f"Runs of {METHODS[method]}. `suspicion` is {', and '.join(notes)}.\n\n{table(header, rows)}"
