"""Tables of the records, in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lstsd_hf.experiments.published import published_score
from lstsd_hf.experiments.report import shown_difference, shown_p_value, shown_spread
from lstsd_hf.experiments.statistics import PairedDifference, holm, mean_and_std, paired_difference

from .analysis import (
    NAMES,
    Cell,
    Comparison,
    Values,
    by_length,
    cells,
    compare,
    majority,
    nll,
    ranking,
    score,
    shared_seeds,
)
from .cells import planned

TEMPORAL = "temporal_ensemble-6.4"
# By name: the key of a control of A1 in `NAMES`.
CONTROLS = {
    "vanilla": "vanilla",
    "3 epochs": "vanilla-short",
    "stopped early": "vanilla-stopped",
    "tuned": "vanilla-tuned",
    "temporal": TEMPORAL,
    "smoothing": "label_smoothing",
}
NOISY = 6  # cells of A1
# A2's cells and seeds, and what its files of records have the CNN run at.
OF_CNN = {"count": 4, "seeds": 5}
OF_L3 = {"count": 2, "seeds": 5}
CNN_SETTINGS = {"cnn": "the paper's settings", "cnn_fitting": "a rate at which it fits"}
NOT_RUN = "Not run yet."
# By method: its difference to vanilla and the adjusted p-value.
Tested = dict[str, tuple[PairedDifference, float]]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


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
    return [missing(sum(there.values()), sum(wanted.values()))]


def missing(done: int, every: int) -> str:
    """The sentence for runs that are missing."""
    return f"**Unfinished: {done} of {every} runs.** What follows may change."


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
    # The paper has no wrong labels.
    beside = None if cell.rate else PAPERS.get(cell.groups["vanilla"].first["model"])
    rows = []
    for name in names:
        group = cell.groups[name]
        difference = ["–", "–"]
        if name in differences:
            item, p_value = differences[name]
            difference = [shown_difference(item, len(values[name])), shown_p_value(p_value)]
        paper = published_score(*beside.place(cell), name) if beside else None
        rows.append(
            [
                NAMES[name],
                str(len(values[name])),
                shown_spread(mean_and_std([*values[name].values()]), 2),
                *difference,
                *(shown_spread(mean_and_std([*group.scores(f"eval_{key}").values()]), 3) for key in ("nll", "ece")),
                others(cell, name),
                *(["–" if paper is None else f"{paper:.2f}"] if beside else []),
            ]
        )
    header = ["method", "n", metric_name(cell), "− vanilla [95 % CI]", "p (Holm)", "NLL", "ECE", "also scored"]
    return table([*header, *([beside.title] if beside else [])], rows)


@dataclass(frozen=True)
class Beside:
    """The paper's scores, to stand beside one's own.

    Attributes:
        title: Of their column.
        place: From a cell to the model and task that they are for.
    """

    title: str
    place: Callable[[Cell], tuple[str, str]]


PAPERS = {
    "cnn": Beside("paper's CNN", lambda cell: ("cnn", cell.task)),
    "resnet20": Beside("paper, CIFAR-100", lambda cell: ("resnet20", "cifar100")),
}


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
