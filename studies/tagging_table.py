"""The tables of T1 and T2: LSTSD as a tagger beside its four controls, and how replaced tags are found."""

import json
import math

from lstsd_hf.experiments.report import shown_difference, shown_p_value, shown_spread
from lstsd_hf.experiments.statistics import holm, mean_and_std, paired_difference

from .analysis import NAMES, records_file
from .tables import NOT_RUN, TEMPORAL, table

SEEDS = 3
PLACES = {
    ("wnut17", 0.0): "WNUT-17, entities, F1",
    ("upos", 0.0): "EWT, parts of speech",
    ("upos", 0.2): "EWT, parts of speech, 20 % noise",
}
CONTROLS = ("vanilla", "vanilla-short", "lstsd-defaults", "temporal_ensemble")
METRICS = {"score": 2, "nll": 3}

Scores = dict[int, float]


def tagging_table() -> str:
    """Every control in every setting, each with LSTSD's difference to it; corrected for all of them together."""
    path = records_file("tagging.jsonl")
    if not path.exists():
        return NOT_RUN
    found: dict[tuple[tuple[str, float], str, str], Scores] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        for metric in METRICS:
            key = (line["task"], line["noise"]), line["method"], metric
            found.setdefault(key, {})[line["seed"]] = line[metric]
    rows = [(place, control) for place in PLACES for control in CONTROLS]
    columns: dict[str, list[tuple[str, str]]] = {metric: _differences(found, rows, metric) for metric in METRICS}
    shown = []
    for place, title in PLACES.items():
        for method in ("lstsd", *CONTROLS):
            name = NAMES[TEMPORAL if method == "temporal_ensemble" else method]
            cells = [title, name, str(len(found.get((place, method, "score"), {})))]
            for metric, digits in METRICS.items():
                cells.append(shown_spread(mean_and_std([*found.get((place, method, metric), {}).values()]), digits))
                cells += columns[metric][rows.index((place, method))] if method != "lstsd" else ("", "")
            shown.append(cells)
    return table(["", "", "n", "score", "LSTSD − it", "p", "NLL", "LSTSD − it", "p"], shown)


def tagging_errors_table() -> str:
    """ROC-AUC and precision of each ranking of the labelled words, means over the seeds."""
    path = records_file("tagging_errors.jsonl")
    if not path.exists():
        return NOT_RUN
    by: dict[str, list[dict]] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        by.setdefault(line["method"], []).append(line)
    names = [name for name, value in by["vanilla"][0].items() if isinstance(value, dict)]

    def mean(method: str, name: str, number: str) -> float:
        return 100 * mean_and_std([line[name][number] for line in by[method]])[0]

    rows = [
        [
            f"**{name}**" if name == "suspicion" else name,
            *(f"{mean(method, name, 'roc_auc'):.1f} / {mean(method, name, 'precision_at_count'):.0f}" for method in by),
        ]
        for name in sorted(names, key=lambda name: -mean("vanilla", name, "roc_auc"))
    ]
    return table(["ROC-AUC / precision", *(NAMES[method] for method in by)], rows)


def _differences(
    found: dict[tuple[tuple[str, float], str, str], Scores], rows: list[tuple[tuple[str, float], str]], metric: str
) -> list[tuple[str, str]]:
    """Difference and adjusted p-value of each comparison; dashes where it was not run."""
    tested = []
    for place, control in rows:
        ours, theirs = found.get((place, "lstsd", metric), {}), found.get((place, control, metric), {})
        tested.append(paired_difference(ours, theirs) if ours.keys() & theirs.keys() else None)
    adjusted = holm([math.nan if item is None else item.p_value for item in tested])
    return [
        ("–", "–") if item is None else (shown_difference(item, SEEDS, METRICS[metric]), shown_p_value(p_value))
        for item, p_value in zip(tested, adjusted, strict=True)
    ]
