"""The judgement of `anchored`: the candidate beside its nine controls, in every cell of the protocol's J."""

import json
from collections.abc import Iterable
from typing import Any

from lstsd_hf.experiments.grouping import group_runs
from lstsd_hf.experiments.records import read_results
from lstsd_hf.experiments.report import shown_difference, shown_p_value, shown_spread
from lstsd_hf.experiments.statistics import holm, mean_and_std, paired_difference

from .analysis import (
    NAMES,
    SIGNIFICANCE,
    TASKS,
    Cell,
    Values,
    cell_of,
    nll,
    own_files_named,
    records_file,
    score,
    with_control,
)
from .tables import NOT_RUN, TEMPORAL, table

CANDIDATE = "anchored"
LONG, SHORT, STOPPED = (
    ("mlp", "mlp_targets", "judged"),
    ("mlp_short", "judged_short"),
    ("mlp_stopped", "judged_stopped"),
)
CONTROLS = ("vanilla", "vanilla-short", "vanilla-stopped", "vanilla-tuned", "lstsd", "lstsd-defaults", TEMPORAL)
CONTROLS += ("elr", "sat")
NUM_CELLS, SEEDS = 17, 10
# Points by which the candidate may be behind the best control and still holds, and in how many cells it must.
MARGIN, LEAST = 0.5, 14


def judged_cells() -> list[Cell]:
    """The cells that have the candidate, each with the controls that were run."""
    found = [cell for cell in _cells(LONG, E=6) if CANDIDATE in cell.groups]
    for name, files in (("vanilla-short", SHORT), ("vanilla-stopped", STOPPED)):
        found = with_control(found, name, {cell.name: cell.groups["vanilla"] for cell in _cells(files, E=6)})
    return found


def _cells(files: Iterable[str], E: int) -> list[Cell]:  # noqa: N803
    paths = [path for path in (records_file(f"{name}.jsonl") for name in files) if path.exists()]
    found = [cell_of(section, E) for section in group_runs(map(own_files_named, read_results(paths)))] if paths else []
    order = list(TASKS)
    return sorted(found, key=lambda cell: (order.index(cell.task), cell.rate, cell.name))


def complete(among: Iterable[Cell]) -> list[Cell]:
    """The cells in which everything was run with all seeds."""
    return [
        cell
        for cell in among
        if all(name in cell.groups and len(cell.groups[name].results) >= SEEDS for name in (CANDIDATE, *CONTROLS))
    ]


def best_control(cell: Cell, values: Values = score) -> str:
    """The control with the best mean among those that were run: the highest score, or the lowest NLL."""
    there = [name for name in CONTROLS if name in cell.groups]
    sign = 1 if values is score else -1
    return max(there, key=lambda name: sign * mean_and_std([*values(cell, cell.groups[name]).values()])[0])


def judgement_tables() -> str:
    """Scores and NLL of the candidate and its controls, and the differences to the best one."""
    among = judged_cells()
    if not among:
        return NOT_RUN
    done, parts = complete(among), []
    if len(done) < NUM_CELLS:
        parts.append(
            f"**Unfinished: {len(done)} of {NUM_CELLS} cells are complete.** Where a place is empty, runs are missing. "
            "No p-values are given before all are there."
        )
    parts.append(_verdict(among))
    for title, values, digits in (("score", score, 1), ("NLL", nll, 2)):
        names = [CANDIDATE, *CONTROLS]
        rows = []
        for cell in among:
            best = best_control(cell, values)
            shown = []
            for name in names:
                group = cell.groups.get(name)
                text = shown_spread(mean_and_std([*values(cell, group).values()]), digits) if group else ""
                shown.append(f"**{text}**" if name == best else text)
            difference = paired_difference(values(cell, cell.groups[CANDIDATE]), values(cell, cell.groups[best]))
            rows.append([cell.name, *shown, shown_difference(difference, SEEDS, digits)])
        parts.append(table([title, *(NAMES[name] for name in names), "− best control"], rows))
    if len(done) == NUM_CELLS:
        parts += [_family(done, score, 1), _family(done, nll, 2)]
    return "\n\n".join(parts)


def _verdict(among: list[Cell]) -> str:
    """In how many cells the candidate holds, and what that decides."""

    def mean(cell: Cell, name: str) -> float:
        return mean_and_std([*score(cell, cell.groups[name]).values()])[0]

    held = [cell for cell in among if mean(cell, CANDIDATE) >= mean(cell, best_control(cell)) - MARGIN]
    text = (
        f"Against the best control of each cell the candidate holds ({MARGIN} points) in {len(held)} of the "
        f"{len(among)} cells it was run in; the rule asks for {LEAST} of {NUM_CELLS}."
    )
    if NUM_CELLS - len(among) + len(held) < LEAST:
        text += " That cannot be reached any more: **by the protocol's rule it is not the recommended method.**"
    return text


def _family(done: list[Cell], values: Values, digits: int) -> str:
    """The candidate − each control in each cell, corrected for all of them together."""
    tested = [
        [paired_difference(values(cell, cell.groups[CANDIDATE]), values(cell, cell.groups[name])) for name in CONTROLS]
        for cell in done
    ]
    p_values = iter(holm([item.p_value for row in tested for item in row]))
    rows = []
    for cell, row in zip(done, tested, strict=True):
        shown = []
        for item in row:
            p_value = next(p_values)
            mark = "**" if p_value < SIGNIFICANCE else ""
            shown.append(f"{mark}{shown_difference(item, SEEDS, digits)}{mark}, p {shown_p_value(p_value)}")
        rows.append([cell.name, *shown])
    title = "score, anchored −" if values is score else "NLL, anchored −"
    return table([title, *(NAMES[name] for name in CONTROLS)], rows)


def search_table() -> str:
    """Every variant of the search, by its mean over the slices that all of them have."""
    lines = [json.loads(line) for line in records_file("anchor_search.jsonl").read_text().splitlines()]
    by: dict[str, dict[tuple[str, float], dict[str, Any]]] = {}
    for line in lines:
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
