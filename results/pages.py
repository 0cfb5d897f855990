"""The text around the numbers: docs/results.md and the measured parts of README.md and docs/methods.md."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from analysis import (
    FOLDER,
    NAMES,
    PRESENT_DEFAULT,
    SIGNIFICANCE,
    TASKS,
    VANILLA,
    Cell,
    Comparison,
    Values,
    by_length,
    cells,
    cnn_cells,
    compare,
    default_scores,
    majority,
    mlp_cells,
    nll,
    ranking,
    score,
    shared_seeds,
)
from cells import planned

from lstsd_hf.experiments.published import BERT, CNN, published_score
from lstsd_hf.experiments.published import TASKS as PUBLISHED_TASKS
from lstsd_hf.experiments.records import read_results
from lstsd_hf.experiments.report import shown_difference, shown_p_value, shown_spread
from lstsd_hf.experiments.statistics import PairedDifference, holm, mean_and_std, paired_difference

TEMPORAL = "temporal_ensemble-6.4"
# By name: the key of a control of A1 in `NAMES`.
CONTROLS = {
    "vanilla": "vanilla",
    "3 epochs": "vanilla-short",
    "tuned": "vanilla-tuned",
    "temporal": TEMPORAL,
    "smoothing": "label_smoothing",
}
NOISY = 6  # cells of A1
# A2's cells and seeds, and what its files of records have the CNN run at.
OF_CNN = {"count": 4, "seeds": 5}
CNN_SETTINGS = {"cnn": "the paper's settings", "cnn_fitting": "a rate at which it fits"}
NOT_RUN = "Not run yet."
# By method: its difference to vanilla and the adjusted p-value.
Tested = dict[str, tuple[PairedDifference, float]]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


# ---- docs/results.md ----


def results_blocks() -> dict[str, str]:
    """Every row of every table."""
    mlp, tuned = mlp_cells(), cells("mlp_tuned")
    noisy = [cell for cell in mlp if cell.rate]
    return {
        "primary": family(mlp, "lstsd", "vanilla"),
        "against-tuned": family(mlp, "lstsd", "vanilla-tuned"),
        "against-short": family(mlp, "lstsd", "vanilla-short"),
        "short": family(cells("mlp_short"), "lstsd-defaults", "vanilla"),
        "against-temporal": family(mlp, "lstsd", TEMPORAL),
        "against-smoothing": family(mlp, "lstsd", "label_smoothing"),
        "tuned-against-tuned": family(mlp, "lstsd-tuned", "vanilla-tuned"),
        "nll": family(mlp, "lstsd", "vanilla", values=nll),
        "nll-controls": family_columns(
            {NAMES[name]: compare(mlp, "lstsd", name, nll) for name in list(CONTROLS.values())[1:]}, 3
        ),
        "mlp": cell_tables("mlp", mlp),
        "memory-against-model": family(
            noisy, "lstsd", "vanilla", ranking("memory"), second_values=ranking("model"), count=NOISY
        ),
        "memory-against-others": family_columns(memory_families(noisy), 2),
        "label-errors": label_error_tables(noisy),
        "length": length_table(mlp),
        "stacked": family(tuned, "lstsd", "vanilla"),
        "stacked-temporal": family(tuned, "lstsd", TEMPORAL),
        "mlp-tuned": cell_tables("mlp_tuned", tuned),
        "cnn": cell_tables_in_one_family("cnn"),
        "cnn-against-tuned": family(cnn_cells("cnn"), "lstsd", "vanilla-tuned", **OF_CNN),
        "cnn-against-temporal": family(cnn_cells("cnn"), "lstsd", TEMPORAL, **OF_CNN),
        "cnn-rates": rate_table(),
        "cnn-fitting": cell_tables_in_one_family("cnn_fitting"),
        "cnn-fitting-against-tuned": family(cnn_cells("cnn_fitting"), "lstsd", "vanilla-tuned", **OF_CNN),
        "cnn-fitting-against-temporal": family(cnn_cells("cnn_fitting"), "lstsd", TEMPORAL, **OF_CNN),
        "top-layer": cell_tables("top_layer", cells("top_layer")),
        "full": cell_tables("full", cells("full")),
        "gpu": full_tables("gpu"),
        "gpu-short": full_tables("gpu_short"),
        "l3": full_tables("l3"),
        "defaults": defaults(),
        "searches": searches(),
        "single-seed-glue": single_seed_table(cells("single_seed_glue")),
        "single-seed-mrpc": single_seed_table(cells("single_seed_mrpc_minilm")),
        "single-seed-cnn": single_seed_table(cells("single_seed_mrpc_cnn")),
        "cells": cell_costs(),
    }


def memory_families(noisy: list[Cell]) -> dict[str, list[Comparison]]:
    """How LSTSD's memory finds replaced labels, beside other rankings that cost as little."""
    own, model, memory = {"count": NOISY}, ranking("model"), ranking("memory")
    return {
        "vanilla, tuned: model": compare(noisy, "lstsd", "vanilla-tuned", memory, model, **own),
        "vanilla, 3 epochs: model": compare(noisy, "lstsd", "vanilla-short", memory, model, **own),
        "LSTSD: model": compare(noisy, "lstsd", "lstsd", memory, model, **own),
        "temporal ensembling, weight 6.4: memory": compare(noisy, "lstsd", TEMPORAL, memory, memory, **own),
    }


def family(
    among: list[Cell],
    first: str,
    second: str,
    values: Values = score,
    second_values: Values | None = None,
    **options: int,
) -> str:
    """A line for each comparison of a family."""
    is_score, digits = values is score, 3 if values is nll else 2
    rows = [
        [
            item.cell.name,
            str(item.difference.count),
            *([f"{majority(item.cell.task):.1f}"] if is_score else []),
            shown_spread(item.second, digits),
            shown_spread(item.first, digits),
            shown_difference(item.difference, item.difference.count, digits),
            shown_p_value(item.p_value),
            *([item.verdict] if is_score else []),
        ]
        for item in compare(among, first, second, values, second_values, **options)
    ]
    names = [NAMES[second], NAMES[first]]
    if second_values is not None:
        names = [f"{names[0]}: model", f"{names[1]}: memory"]
    header = ["", "n", *(["majority"] if is_score else []), *names, "difference [95 % CI]"]
    header += ["p (Holm)", *(["verdict"] if is_score else [])]
    return table(header, rows) if rows else NOT_RUN


def family_columns(families: dict[str, list[Comparison]], digits: int) -> str:
    """A column for each family, a line for each cell: differences only."""
    found = {name: family for name, family in families.items() if family}
    if not found:
        return NOT_RUN
    rows = [
        [item.cell.name, *(shown_among(family, item.cell, digits) for family in found.values())]
        for item in next(iter(found.values()))
    ]
    return table(["", *[f"− {name}" for name in found]], rows)


def shown_among(family: Sequence[Comparison], cell: Cell, digits: int) -> str:
    """A cell's difference in a table that holds several families."""
    (item,) = [item for item in family if item.cell is cell]
    return f"{shown_difference(item.difference, item.difference.count, digits)}, p {shown_p_value(item.p_value)}"


def cell_tables(records: str, among: list[Cell]) -> str:
    """Every method of every cell, corrected for the number of methods in the cell."""
    return cell_sections([records], [(cell, adjusted_in_one_family([cell])[0]) for cell in among])


def cell_tables_in_one_family(records: str) -> str:
    """The same for the CNN, corrected for the number of methods in all cells together."""
    among = cnn_cells(records)
    sections = cell_sections([records, "cnn_tuned"], list(zip(among, adjusted_in_one_family(among), strict=True)))
    return f"{cnn_sentence(records)}\n\n{sections}" if is_cnn_finished(records) else sections


def is_cnn_finished(records: str) -> bool:
    """Whether every run with the CNN at a setting, and the control of both, is there."""
    return not unfinished(records, "cnn_tuned")


def cnn_comparisons(records: str) -> tuple[list[Comparison], int]:
    """LSTSD − vanilla with the CNN, and how many comparisons the p-values are adjusted for."""
    return compared_in_one_family(cnn_cells(records), "lstsd")


def compared_in_one_family(among: list[Cell], method: str) -> tuple[list[Comparison], int]:
    """A method − vanilla, and how many comparisons the p-values are adjusted for: all methods of all cells."""
    tested = adjusted_in_one_family(among)
    found = []
    for cell, own in zip(among, tested, strict=True):
        if method in own:
            spreads = (mean_and_std([*score(cell, cell.groups[name]).values()]) for name in (method, "vanilla"))
            found.append(Comparison(cell, *spreads, *own[method]))
    return found, sum(map(len, tested))


def full_tables(records: str) -> str:
    """Every method of full fine-tuning, corrected for the number of methods in all cells together."""
    among = cells(records)
    return cell_sections([records], list(zip(among, adjusted_in_one_family(among), strict=True)))


def full_sentences() -> str:
    """What LSTSD does to full fine-tuning."""
    long, _ = compared_in_one_family(cells("gpu"), "lstsd")
    short, count = compared_in_one_family(cells("gpu_short"), "lstsd-defaults")
    check(not gains(long) and not gains(short), "LSTSD gains nowhere in full fine-tuning")
    lost = [f"{item.cell.name} ({item.difference.mean:+.1f})" for item in short if item.is_shown]
    after_long = [
        f"{item.cell.name} ({item.difference.mean:+.1f} points, p {shown_p_value(item.p_value)})" for item in long
    ]
    return f"""**In full fine-tuning no gain is shown.** MiniLM, 5 seeds, an NVIDIA H200. With 3 epochs, as Trainer has
them, the defaults of LSTSD lose to vanilla on {" and ".join(lost)}: {tally(short, "tasks")},
adjusted for {count} comparisons. With the paper's 50 epochs, weights and E only {" and ".join(after_long)} was run.
Every row: [docs/results.md](docs/results.md#minilm-full-fine-tuning-on-a-gpu)."""


def cnn_sentence(records: str) -> str:
    """What LSTSD did to the CNN."""
    family, count = cnn_comparisons(records)
    constant = [
        item.cell.name
        for item in family
        # Records have six digits.
        if max(abs(item.first[0] - majority(item.cell.task)), item.first[1]) < 1e-3
    ]
    ends = f" On {' and '.join(constant)} it ends with the constant answer, with every seed." if constant else ""
    tuned, temporal = (
        tally(compare(cnn_cells(records), "lstsd", control, **OF_CNN), "tasks")
        for control in ("vanilla-tuned", TEMPORAL)
    )
    return (
        f"LSTSD over vanilla with the CNN at {CNN_SETTINGS[records]}: {tally(family, 'tasks')}, adjusted for all "
        f"{count} comparisons of methods and tasks.{ends} Over vanilla with a searched learning rate and dropout: "
        f"{tuned}; over temporal ensembling of the same total weight: {temporal}."
    )


def cell_sections(records: Sequence[str], tested: Sequence[tuple[Cell, Tested]]) -> str:
    """A table for each cell, after what is missing."""
    if not tested:
        return NOT_RUN
    tables = [f"### {title(cell)}\n\n{cell_table(cell, own)}" for cell, own in tested]
    return "\n\n".join([*unfinished(*records), *tables])


def unfinished(*records: str) -> list[str]:
    """A sentence if runs are missing that the protocol plans."""
    there = {(file, cell.task, cell.rate): len(results(cell)) for file in records for cell in cells(file)}
    wanted = {(file, *cell): count for file in records for cell, count in planned(file).items()}
    if all(there.get(cell, 0) >= count for cell, count in wanted.items()):
        return []
    done, every = sum(there.values()), sum(wanted.values())
    return [f"**Unfinished: {done} of {every} runs.** Adjusted p-values will change."]


def results(cell: Cell) -> list[dict[str, Any]]:
    """Every run of a cell."""
    return [result for group in cell.groups.values() for result in group.results.values()]


def adjusted_in_one_family(among: Sequence[Cell]) -> list[Tested]:
    """Each method's difference to vanilla in each cell, with p-values corrected for the number of all of them."""
    found = [
        {
            name: paired_difference(score(cell, cell.groups[name]), score(cell, cell.groups["vanilla"]))
            for name in NAMES
            if name in cell.groups and name != "vanilla"
        }
        for cell in among
    ]
    p_values = iter(holm([difference.p_value for own in found for difference in own.values()]))
    return [{name: (difference, next(p_values)) for name, difference in own.items()} for own in found]


def title(cell: Cell) -> str:
    """Its name and the score of a constant answer."""
    return f"{cell.name} (majority class: {majority(cell.task):.1f})"


def cell_table(cell: Cell, differences: Tested) -> str:
    """A line for each method of a cell."""
    names = [name for name in NAMES if name in cell.groups]
    values = {name: score(cell, cell.groups[name]) for name in names}
    is_cnn = cell.groups["vanilla"].first["model"] == "cnn"
    rows = []
    for name in names:
        group = cell.groups[name]
        difference = ["–", "–"]
        if name in differences:
            item, p_value = differences[name]
            difference = [shown_difference(item, len(values[name])), shown_p_value(p_value)]
        paper = published_score("cnn", cell.task, name) if is_cnn else None
        rows.append(
            [
                NAMES[name],
                str(len(values[name])),
                shown_spread(mean_and_std([*values[name].values()]), 2),
                *difference,
                *(shown_spread(mean_and_std([*group.scores(f"eval_{key}").values()]), 3) for key in ("nll", "ece")),
                others(cell, name),
                *(["–" if paper is None else f"{paper:.2f}"] if is_cnn else []),
            ]
        )
    header = ["method", "n", metric_name(cell), "− vanilla [95 % CI]", "p (Holm)", "NLL", "ECE", "also scored"]
    return table([*header, *(["paper's CNN"] if is_cnn else [])], rows)


def metric_name(cell: Cell) -> str:
    """As a column's title."""
    return "accuracy" if cell.metric == "accuracy" else "Matthews corr. × 100"


def others(cell: Cell, name: str) -> str:
    """Scores beside the prediction proper: the F1 score, an averaged model, a last snapshot."""
    group = cell.groups[name]
    also = {
        "F1": "eval_f1",
        "averaged model": f"eval_ema_{cell.metric}",
        "last snapshot": f"eval_student_{cell.metric}",
    }
    found = {title: list(group.scores(key).values()) for title, key in also.items()}
    return (
        "; ".join(
            f"{title} {shown_spread(mean_and_std([100 * value for value in values]), 2)}"
            for title, values in found.items()
            if values
        )
        or "–"
    )


def label_error_tables(noisy: list[Cell]) -> str:
    """How well each method's model and memory find replaced labels."""
    parts = []
    for cell in noisy:
        rows = []
        for name in [name for name in NAMES if name in cell.groups]:
            group = cell.groups[name]
            row = [NAMES[name], str(len(group.results))]
            for source in ("model", "memory"):
                for number in ("roc_auc", "precision_at_count"):
                    is_there = group.first["label_errors"][source] is not None
                    found = ranking(source, number)(cell, group).values() if is_there else []
                    row.append(shown_spread(mean_and_std([*found]), 1) if is_there else "–")
            rows.append(row)
        header = ["method", "n", "model: ROC-AUC", "precision", "memory: ROC-AUC", "precision"]
        parts.append(f"### {cell.name}: which labels are wrong?\n\n{table(header, rows)}")
    return "\n\n".join(parts) or NOT_RUN


def length_table(mlp: list[Cell]) -> str:
    """The paper's Figure 2."""
    found = [cell for cell in mlp if len(by_length(cell)) > 1]
    rows = []
    for length in sorted(set().union(*[by_length(cell) for cell in found])):
        row = [str(length)]
        for cell in found:
            groups = by_length(cell)
            values = [score(cell, groups[length])[seed] for seed in shared_seeds(groups)] if length in groups else []
            row.append(f"{shown_spread(mean_and_std(values), 2)} (n={len(values)})" if values else "–")
        rows.append(row)
    return table(["E", *[cell.name for cell in found]], rows) if rows else NOT_RUN


def rate_table() -> str:
    """The runs by which the second learning rate of the CNN was chosen."""
    runs = [result for _, result in read_results([FOLDER / "cnn_rates.jsonl"])]
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
    for path in sorted(FOLDER.glob("*.sweeps.jsonl")):
        studies = [json.loads(line) for line in path.read_text().splitlines()]
        rates = {study["study"]: study["config"].get("label_noise", 0.0) for study in studies}
        for study in sorted(studies, key=lambda study: (study["task"], rates[study["study"]], study["method"])):
            found = ", ".join(f"{name} {value:g}" for name, value in study["best"]["params"].items())
            scores = [f"{100 * value:.2f}" for value in (study["trials"][0]["score"], study["best"]["score"])]
            noise = f"{100 * rates[study['study']]:.0f} %"
            task = [f"`{path.name.split('.')[0]}`", TASKS[study["task"]], noise]
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
    path = FOLDER / "defaults.jsonl"
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


def single_seed_table(among: list[Cell]) -> str:
    """Runs with one seed."""
    rows = []
    for cell in among:
        for name in [name for name in NAMES if name in cell.groups]:
            last = cell.groups[name].first["last_epoch"]
            numbers = [f"{last['eval_nll']:.3f}", f"{last['eval_ece']:.3f}"]
            value = f"{100 * last[f'eval_{cell.metric}']:.2f}"
            rows.append([cell.name, NAMES[name], value, *numbers, others(cell, name)])
    return table(["task", "method", "score", "NLL", "ECE", "also scored"], rows)


def cell_costs() -> str:
    """What the runs cost."""
    rows = []
    for file in ("mlp", "mlp_short", "mlp_tuned", "cnn", "cnn_tuned", "cnn_fitting", "top_layer", "full"):
        for cell in cells(file):
            seconds = [result["seconds"] for result in results(cell)]
            mean = f"{sum(seconds) / len(seconds):.0f}"
            rows.append([f"`{file}`", cell.name, str(len(seconds)), mean, f"{sum(seconds) / 60:.0f}"])
    return table(["records", "cell", "runs", "seconds a run", "minutes in all"], rows)


# ---- README.md ----


def readme_blocks() -> dict[str, str]:
    """The measured parts of README."""
    return {"full": full_sentences(), "when-to-use": when_to_use(), "cost": cost_sentence(), "paper": paper_table()}


def when_to_use() -> str:
    """The comparisons that decide, and what follows from them."""
    mlp = mlp_cells()
    noisy = [cell for cell in mlp if cell.rate]
    over = {name: compare(mlp, "lstsd", key) for name, key in CONTROLS.items()}
    likelihood = {name: compare(mlp, "lstsd", key, nll) for name, key in CONTROLS.items()}
    in_short = compare(cells("mlp_short"), "lstsd-defaults", "vanilla")
    both_tuned = compare(mlp, "lstsd-tuned", "vanilla-tuned")
    search_lost = [item.cell.name for item in compare(mlp, "vanilla-tuned", "vanilla") if item.verdict[:4] == "loss"]
    plain = compare(noisy, "lstsd", "vanilla", ranking("memory"), ranking("model"), NOISY)
    tuned, short, model, temporal = memory_families(noisy).values()
    check(gains(over["vanilla"]) and not losses(over["vanilla"]), "LSTSD gains over vanilla and loses nowhere")
    noisy_short = [item for item in over["3 epochs"] if item.cell.rate]
    clean_short = [item for item in over["3 epochs"] if not item.cell.rate]
    check(losses(noisy_short) and not gains(noisy_short), "fewer epochs are the better remedy against noise")
    check(len(in_short) - gains(in_short) - losses(in_short) > 6, "LSTSD adds little to a short run")
    check(losses(over["tuned"]) and losses(both_tuned), "LSTSD does not replace tuning")
    check(not gains(over["temporal"]), "two teachers are not shown to beat one")
    check(losses(short) == len(short), "a short plain run ranks labels better")
    shown = ("vanilla", "3 epochs", "tuned", "temporal")
    with_cnn, _ = cnn_comparisons("cnn")
    check(losses(with_cnn) and not gains(with_cnn), "LSTSD loses with the CNN at the paper's settings")
    check("they stay" in defaults(), "no other setting is better than the defaults")
    rows = [
        [
            item.cell.name,
            f"{majority(item.cell.task):.1f}",
            shown_spread(item.second, 1),
            shown_spread(item.first, 1),
            *(shown_among(over[name], item.cell, 1) for name in shown),
        ]
        for item in over["vanilla"]
    ]
    header = ["", "majority", "vanilla", "LSTSD", *(f"LSTSD − {NAMES[CONTROLS[name]]}" for name in shown)]
    return f"""{table(header, rows)}

- **It reduces overfitting in a run that is too long.** Against the same run without it: {tally(over["vanilla"])}.
  Label smoothing does not do the same: LSTSD over it {tally(over["smoothing"])}.
- **With wrong labels, stopping earlier helps more.** LSTSD over vanilla with 3 epochs in the place of 30: {
        tally(noisy_short)
    };
  with right ones {tally(clean_short)}. Try that first. To such a short run LSTSD (with its defaults) adds little:
  {tally(in_short)}.
- **It does not replace tuning.** Over vanilla with a searched learning rate and dropout: {tally(over["tuned"])};
  with λ and E searched too: {tally(both_tuned)}. (On {" and ".join(search_lost)} the search itself lost to
  untuned vanilla.)
- **Two teachers are not shown to beat one.** Over `temporal_ensemble` with the same total weight, 6.4:
  {tally(over["temporal"])}.
- **Likelihood.** In how many of {len(likelihood["vanilla"])} settings its NLL is lower / higher: {
        "; ".join(f"{NAMES[CONTROLS[name]]} {losses(family)} / {gains(family)}" for name, family in likelihood.items())
    }.
- **For finding wrong labels, a short plain run is better.** In how many of {
        len(plain)
    } noisy settings LSTSD's memory ranks
  them better / worse (ROC-AUC) than: vanilla's model {both(plain)} ({extremes(plain, 1)} points), after 3 epochs {
        both(short)
    },
  tuned {both(tuned)}; LSTSD's own model {both(model)}; the memory of that temporal ensemble {both(temporal)}."""


def check(holds: Any, claim: str) -> None:
    """Raises a `ValueError` if the records no longer say what a sentence does."""
    if not holds:
        raise ValueError(
            f"The records do not show that {claim}: write the sentences of `when_to_use`, and those above them in "
            "README, anew."
        )


def tally(family: Sequence[Comparison], cells_are: str = "settings") -> str:
    """How many gains, losses and neither, with the range of the differences."""
    below = sum(item.is_shown and item.is_below_majority and item.difference.mean > 0 for item in family)
    counts = [plural(gains(family), "gain", "gains"), plural(losses(family), "loss", "losses")]
    counts[0] += f" ({below} of them below the majority class)" if below else ""
    neither = len(family) - gains(family) - losses(family)
    shown = f"{', '.join(counts)}, {neither} without a difference shown, of {len(family)} {cells_are}"
    return f"{shown} ({extremes(family, 1)} points)"


def plural(number: int, one: str, several: str) -> str:
    """A number of things."""
    return f"{number} {one if number == 1 else several}"


def gains(family: Sequence[Comparison]) -> int:
    """How many differences above zero were shown."""
    return sum(item.is_shown and item.difference.mean > 0 for item in family)


def losses(family: Sequence[Comparison]) -> int:
    """How many differences below zero were shown."""
    return sum(item.is_shown and item.difference.mean < 0 for item in family)


def both(family: Sequence[Comparison]) -> str:
    """Gains / losses."""
    return f"{gains(family)} / {losses(family)}"


def extremes(family: Sequence[Comparison], digits: int) -> str:
    """The smallest and the largest difference."""
    means = [item.difference.mean for item in family]
    return f"{min(means):+.{digits}f} to {max(means):+.{digits}f}" if means else NOT_RUN


def paper_table() -> str:
    """The paper's figures for BERT-base and its CNN, and ours for the latter where all seeds have been run."""
    rows = [
        [f"{kind}, {NAMES[method]}: the paper", *[f"{value:.2f}" for value in published[method]]]
        for kind, published in (("BERT-base", BERT), ("CNN", CNN))
        for method in ("vanilla", "lstsd")
    ]
    for records, setting in CNN_SETTINGS.items():
        ours = {cell.task: cell for cell in cells(records)}
        for method in ("vanilla", "lstsd"):
            shown = []
            for task in PUBLISHED_TASKS:
                values = list(score(ours[task], ours[task].groups[method]).values()) if task in ours else []
                shown.append(shown_spread(mean_and_std(values), 2) if len(values) == OF_CNN["seeds"] else "–")
            rows.append([f"CNN, {NAMES[method]}: ours at {setting}", *shown])
    rows.append(["the majority class", *[f"{majority(task):.2f}" for task in PUBLISHED_TASKS]])
    header = ["", *[TASKS[task].split(" (")[0] for task in PUBLISHED_TASKS]]
    sentences = [cnn_sentence(records) for records in CNN_SETTINGS if is_cnn_finished(records)]
    return "\n\n".join([table(header, rows), f"Ours: n = {OF_CNN['seeds']}; SST-2 with 5,000 rows.", *sentences])


def read(name: str) -> Any:
    """A measurement in a JSON file."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def cost_sentence() -> str:
    """What LSTSD adds to a step."""
    overhead = read("overhead")
    added, encoder = overhead["added_ms_per_step"], overhead["encoder_ms_per_step"]
    return (
        f"LSTSD adds {added['median']:.2f} ms to a training step of a model that does next to nothing (quartiles\n"
        f"{added['quartile_1']:.2f} and {added['quartile_3']:.2f}; batch {overhead['batch_size']}, one CPU thread): "
        f"{100 * added['median'] / encoder['stock']:.3f} % of a MiniLM step of {overhead['tokens']} tokens.\n"
        f"Directly, as medians of a few such steps, too noisy to tell: {encoder['stock']:,.0f} ms with stock Trainer, "
        f"{encoder['lstsd']:,.0f} ms\nwith LSTSD."
    )


# ---- docs/methods.md ----


def methods_blocks() -> dict[str, str]:
    """The measured parts of docs/methods.md."""
    return {"costs": method_costs()}


def method_costs() -> str:
    """Passes, memory and disk of each method, and the time of an epoch."""
    (timed,) = cells("timing_mrpc_minilm")
    seconds = {name: group.first["seconds_per_epoch"] for name, group in timed.groups.items()}
    rows = []
    for name, item in read("method_costs")["figures"].items():
        passes = [f"{item[f'passes_{kind}_gradient']:.2f}".rstrip("0").rstrip(".") for kind in ("with", "without")]
        sizes = [size(item["bytes_in_memory"]), size(item["bytes_on_disk"])]
        rows.append([f"`{name}`", *passes, *sizes, f"{seconds[name]:.1f}"])
    header = ["method", "extra passes with gradient", "extra passes without", "memory", "disk", "s/epoch"]
    return table(header, rows)


def size(count: float) -> str:
    """Bytes in kB or MB."""
    if not count:
        return "0"
    exponent = 2 if count >= 1e6 else 1
    return f"{count / math.pow(1000, exponent):.1f} {('kB', 'MB')[exponent - 1]}"
