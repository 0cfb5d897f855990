"""The tables of T1 and T2: LSTSD as a tagger beside its four controls, and how replaced tags are found."""

import json
import math

from lstsd_hf.experiments.report import shown_difference, shown_p_value, shown_spread
from lstsd_hf.experiments.statistics import PairedDifference, holm, mean_and_std, paired_difference

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

Place = tuple[str, float]
# By setting, method and metric: a number for each seed.
Runs = dict[tuple[Place, str, str], dict[int, float]]


def tagging_table() -> str:
    """Every control in every setting, each with LSTSD's difference to it; corrected for all of them together."""
    found = _runs()
    if not found:
        return NOT_RUN
    columns = {metric: differences(found, metric) for metric in METRICS}
    shown = []
    for place, title in PLACES.items():
        for method in ("lstsd", *CONTROLS):
            name = NAMES[TEMPORAL if method == "temporal_ensemble" else method]
            cells = [title, name, str(len(found.get((place, method, "score"), {})))]
            for metric, digits in METRICS.items():
                cells.append(shown_spread(mean_and_std([*found.get((place, method, metric), {}).values()]), digits))
                item, p_value = columns[metric].get((place, method), (None, math.nan))
                beside = ("–", "–") if item is None else (shown_difference(item, SEEDS, digits), shown_p_value(p_value))
                cells += beside if method != "lstsd" else ("", "")
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


def lstsd_as_a_tagger() -> list[tuple[PairedDifference, float]]:
    """LSTSD − vanilla in each setting, with its adjusted p-value."""
    return [item for (_, control), item in differences(_runs(), "score").items() if control == "vanilla"]


def differences(runs: Runs, metric: str) -> dict[tuple[Place, str], tuple[PairedDifference, float]]:
    """LSTSD − each control in each setting, with p-values adjusted for all of them together."""
    found = {}
    for place, control in [(place, control) for place in PLACES for control in CONTROLS]:
        ours, theirs = runs.get((place, "lstsd", metric), {}), runs.get((place, control, metric), {})
        if ours.keys() & theirs.keys():
            found[place, control] = paired_difference(ours, theirs)
    adjusted = holm([item.p_value for item in found.values()])
    return {key: (item, p_value) for (key, item), p_value in zip(found.items(), adjusted, strict=True)}


def _runs() -> Runs:
    """The scores of T1's runs."""
    path = records_file("tagging.jsonl")
    found: Runs = {}
    for line in map(json.loads, path.read_text().splitlines() if path.exists() else []):
        for metric in METRICS:
            key = (line["task"], line["noise"]), line["method"], metric
            found.setdefault(key, {})[line["seed"]] = line[metric]
    return found
