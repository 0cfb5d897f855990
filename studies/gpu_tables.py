"""G1's comparisons of LSTSD's 50 epochs of full fine-tuning with what could be done instead."""

from lstsd_hf.experiments.report import shown_difference, shown_p_value
from lstsd_hf.experiments.statistics import PairedDifference, paired_difference

from .analysis import NAMES, Cell, cells, compare, score, with_control
from .gpu_cells import GPU_TASKS
from .tables import NOT_RUN, TEMPORAL, table

SEEDS = 5
CONTROLS = ("vanilla-short", "vanilla-tuned", "lstsd-defaults", TEMPORAL, "mean_teacher", "label_smoothing")


def long_cells() -> list[Cell]:
    """The cells of 50 epochs with right labels and all seeds of LSTSD, each with its controls of other lengths."""
    found = [
        cell
        for cell in cells("gpu")
        if not cell.rate and "lstsd" in cell.groups and len(cell.groups["lstsd"].results) >= SEEDS
    ]
    for name, file in (("vanilla-short", "gpu_short"), ("vanilla-tuned", "gpu_tuned")):
        found = with_control(found, name, {cell.name: cell.groups["vanilla"] for cell in cells(file)})
    return found


def against(cell: Cell, control: str) -> PairedDifference:
    """LSTSD − a control."""
    return paired_difference(score(cell, cell.groups["lstsd"]), score(cell, cell.groups[control]))


def gpu_against_controls() -> str:
    """A line for each task, a column for each control that was run; p-values where every task is there."""
    among = long_cells()
    there = [name for name in CONTROLS if any(name in cell.groups for cell in among)]
    if not there:
        return NOT_RUN
    adjusted = {
        name: {
            item.cell.name: item.p_value for item in compare(among, "lstsd", name, count=len(GPU_TASKS), seeds=SEEDS)
        }
        for name in there
    }
    rows = []
    for cell in among:
        row = [cell.name]
        for name in there:
            shown = shown_difference(against(cell, name), SEEDS) if name in cell.groups else "–"
            p_value = adjusted[name].get(cell.name)
            row.append(shown if p_value is None else f"{shown}, p {shown_p_value(p_value)}")
        rows.append(row)
    return table(["LSTSD −", *(NAMES[name] for name in there)], rows)
