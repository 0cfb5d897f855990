"""What the search for `anchored` found on slices of the training splits."""

import json
from typing import Any

from lstsd_hf.experiments.statistics import mean_and_std

from .analysis import TASKS, records_file
from .anchor_variants import epochs_of
from .tables import table

SEARCHED_LENGTHS = (10, 30, 60)


def searched() -> list[dict[str, Any]]:
    """The lines of the search."""
    return [json.loads(line) for line in records_file("anchor_search.jsonl").read_text().splitlines()]


def search_table() -> str:
    """Every variant of the search, by its mean over the slices that all of them have."""
    by: dict[str, dict[tuple[str, float], dict[str, Any]]] = {}
    for line in searched():
        if line["epochs"] == epochs_of(line["variant"]):
            by.setdefault(line["variant"], {})[line["task"], line["noise"]] = line
    shared = set.intersection(*(set(found) for found in by.values() if len(found) >= 10))

    def mean(found: dict[tuple[str, float], dict[str, Any]], name: str) -> float:
        return mean_and_std([mean_and_std(found[cell][name])[0] for cell in sorted(shared)])[0]

    whole = {name: found for name, found in by.items() if shared <= found.keys()}
    rows = [
        [name, f"{mean(found, 'score'):.2f}", f"{mean(found, 'nll'):.3f}"]
        for name, found in sorted(whole.items(), key=lambda item: -mean(item[1], "score"))
    ]
    rows += [[name, "begun only", ""] for name in sorted(by.keys() - whole.keys())]
    return table(["variant", f"mean score over {len(shared)} slices", "mean NLL"], rows)


def search_lengths_table() -> str:
    """What was tried for short runs: scores on slices, with as many seeds as are there."""
    by: dict[tuple[str, int], dict[tuple[str, float], list[float]]] = {}
    for line in searched():
        by.setdefault((line["variant"], line["epochs"]), {})[line["task"], line["noise"]] = line["score"]
    in_full = ("vanilla", "follow-0.9")
    wanted = [(name, epochs) for name in in_full for epochs in SEARCHED_LENGTHS]
    # Of the others the short run, and what was run at every length.
    for name in dict.fromkeys(name for name, epochs in by if epochs == SEARCHED_LENGTHS[0] and name not in in_full):
        at_all = [(name, epochs) for epochs in SEARCHED_LENGTHS]
        wanted += at_all if by.keys() >= {*at_all} else at_all[:1]
    shared = sorted(set.intersection(*(set(by[key]) for key in wanted)))
    names = [TASKS[task] + (f", {100 * rate:.0f} % noise" if rate else "") for task, rate in shared]
    rows = [
        [name, str(epochs), *(f"{mean_and_std(by[name, epochs][cell])[0]:.1f}" for cell in shared)]
        for name, epochs in wanted
    ]
    return table(["variant", "epochs", *names], rows)
