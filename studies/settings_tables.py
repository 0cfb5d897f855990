"""Tables of the settings that were searched, and of what a run costs."""

import json
import math
from typing import Any

from lstsd_hf.experiments.records import read_results
from lstsd_hf.experiments.report import shown_difference, shown_p_value
from lstsd_hf.experiments.statistics import holm, paired_difference

from .analysis import (
    OWN_FILES,
    PRESENT_DEFAULT,
    SIGNIFICANCE,
    TASKS,
    VANILLA,
    cells,
    default_scores,
    records_file,
)
from .cells import planned
from .tables import NOT_RUN, results, table


def rate_table() -> str:
    """The runs by which the second learning rate of the CNN was chosen."""
    runs = [result for _, result in read_results([records_file("cnn_rates.jsonl")])]
    rows = [
        [
            f"{run['config']['training']['learning_rate']:g}",
            f"{run['last_epoch']['loss']:.3f}",
            f"{100 * run['last_epoch']['eval_accuracy']:.2f}",
        ]
        for run in sorted(runs, key=lambda run: run["config"]["training"]["learning_rate"])
    ]
    return table(["learning rate", "training loss", "accuracy"], rows)


def searches() -> str:
    """What the searches found."""
    rows = []
    for path in sorted(records_file("").glob("*.sweeps.jsonl")):
        studies = [json.loads(line) for line in path.read_text().splitlines()]
        rates = {study["study"]: study["config"].get("label_noise", 0.0) for study in studies}
        for study in sorted(studies, key=lambda study: (study["task"], rates[study["study"]], study["method"])):
            best = study["best"]["params"].items()
            found = ", ".join(f"{name} as it was" if value is None else f"{name} {value:g}" for name, value in best)
            scores = [f"{100 * value:.2f}" for value in (study["trials"][0]["score"], study["best"]["score"])]
            kind = " asymmetric" if study["config"].get("label_noise_kind") == "asymmetric" else ""
            noise = f"{100 * rates[study['study']]:.0f} %{kind}"
            name = TASKS["trec" if study["task"] == OWN_FILES else study["task"]]
            task = [f"`{path.name.split('.')[0]}`", name, noise]
            trials = f"{study['budget']} ({distinct_settings(study)})"
            rows.append([*task, study["method"], trials, found, *scores])
    header = [
        "records",
        "task",
        "noise",
        "method",
        "trials (distinct)",
        "found",
        "held-out score, untuned",
        "held-out score, found",
    ]
    return table(header, rows) if rows else NOT_RUN


def distinct_settings(study: dict[str, Any]) -> int:
    """How many settings the trials tried; no dropout named is that of the MLP, 0.1."""
    settings = [{**trial["params"], "dropout": trial["params"].get("dropout") or 0.1} for trial in study["trials"]]
    return len({json.dumps(setting, sort_keys=True) for setting in settings})


def defaults() -> str:
    """The candidates for LSTSD's defaults, the best first."""
    path = records_file("defaults.jsonl")
    if not path.exists():
        return NOT_RUN
    found, wanted = read_results([path]), sum(planned("defaults").values())
    if len(found) < wanted:
        return f"**Unfinished: {len(found)} of {wanted} runs.**"
    scores = default_scores(found)
    means = {candidate: sum(values.values()) / len(values) for candidate, values in scores.items()}
    candidates = sorted(means.keys() - {VANILLA}, key=lambda candidate: -means[candidate])
    others = [candidate for candidate in candidates if candidate != PRESENT_DEFAULT]
    differences = [paired_difference(scores[candidate], scores[PRESENT_DEFAULT]) for candidate in others]
    tested = dict(zip(others, zip(differences, holm([item.p_value for item in differences]), strict=True), strict=True))
    rows = []
    for candidate in [*candidates, VANILLA]:
        short, long, rule = candidate
        names = ["vanilla", "–"] if candidate == VANILLA else [f"{short:g}", f"{long:g}"]
        compared = ["–", "–"]
        if candidate in tested:
            difference, p_value = tested[candidate]
            compared = [shown_difference(difference, difference.count), shown_p_value(p_value)]
        rows.append([*names, rule, str(len(scores[candidate])), f"{means[candidate]:.2f}", *compared])
    header = ["λS", "λL", "E", "cells", "mean held-out score", "− earlier defaults [95 % CI]", "p (Holm)"]
    best = candidates[0]
    verdict = "No candidate is shown to be better than the earlier defaults: they stay."
    if best in tested and tested[best][1] < SIGNIFICANCE:
        verdict = "The first candidate is shown to be better than the earlier defaults: it replaces them."
    return f"{verdict}\n\n{table(header, rows)}"


def cell_costs() -> str:
    """What the runs cost."""
    rows = []
    for file in ("mlp", "mlp_short", "mlp_tuned", "cnn", "cnn_tuned", "cnn_fitting", "top_layer", "full"):
        for cell in cells(file):
            seconds = [result["seconds"] for result in results(cell)]
            mean = f"{sum(seconds) / len(seconds):.0f}"
            rows.append([f"`{file}`", cell.name, str(len(seconds)), mean, f"{sum(seconds) / 60:.0f}"])
    return table(["records", "cell", "runs", "seconds a run", "minutes in all"], rows)


def read(name: str) -> Any:
    """A measurement in a JSON file."""
    return json.loads(records_file(f"{name}.json").read_text())


def method_costs() -> str:
    """Passes, memory and disk of each method, and the time of an epoch."""
    (timed,) = cells("timing_mrpc_minilm")
    seconds = {name: group.first["seconds_per_epoch"] for name, group in timed.groups.items()}
    rows = []
    for name, item in read("method_costs")["figures"].items():
        passes = [f"{item[f'passes_{kind}_gradient']:.2f}".rstrip("0").rstrip(".") for kind in ("with", "without")]
        sizes = [size(item["bytes_in_memory"]), size(item["bytes_on_disk"])]
        rows.append([f"`{name}`", *passes, *sizes, f"{seconds[name]:.1f}" if name in seconds else "–"])
    header = ["method", "extra passes with gradient", "extra passes without", "memory", "disk", "s/epoch"]
    return table(header, rows)


def size(count: float) -> str:
    """Bytes in kB or MB."""
    if not count:
        return "0"
    exponent = 2 if count >= 1e6 else 1
    return f"{count / math.pow(1000, exponent):.1f} {('kB', 'MB')[exponent - 1]}"
