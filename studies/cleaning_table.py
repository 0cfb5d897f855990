"""The table of A6: what becomes of a training whose suspects were dropped or relabelled."""

import json
from collections import defaultdict

import numpy as np

from lstsd_hf.experiments.statistics import paired_difference

from .analysis import TASKS, records_file
from .tables import NOT_RUN, table

SEEDS = 5
ACTIONS = ("dropped", "relabelled")


def cleaning_table() -> str:
    """Per cell and length: the score with the labels as given, and the paired difference of each action."""
    path = records_file("cleaning.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    scores: dict[tuple, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    touched: dict[tuple, list[tuple[int, int]]] = defaultdict(list)
    for line in lines:
        cell = line["rate"], line["task"]
        scores[(*cell, line["epochs"])][line["action"]][line["seed"]] = 100 * line["score"]
        if line["action"] == "dropped" and line["epochs"] == 30:
            touched[cell].append((line["touched"], line["touched_wrong"]))
    cells = sorted(
        (key for key, found in scores.items() if all(len(found[action]) == SEEDS for action in ("as given", *ACTIONS))),
        key=lambda key: (key[0], list(TASKS).index(key[1]), key[2]),
    )
    if not cells:
        return NOT_RUN
    rows = []
    for rate, task, epochs in cells:
        found = scores[rate, task, epochs]
        suspects, wrong = np.mean(touched[rate, task], axis=0)
        differences = [paired_difference(found[action], found["as given"]) for action in ACTIONS]
        rows.append(
            [
                f"{TASKS[task].split(' (')[0]}, {rate:.0%}, {epochs} epochs",
                f"{suspects:.0f} ({wrong / suspects:.0%})",
                f"{np.mean([*found['as given'].values()]):.1f}",
                *(f"{item.mean:+.1f} [{item.low:+.1f}, {item.high:+.1f}]" for item in differences),
            ]
        )
    return table(["cell", "suspects (wrong)", "as given", *ACTIONS], rows)
