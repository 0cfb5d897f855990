"""The tables of the neighbouring methods: beside A1's methods and controls, with the same seeds."""

from collections.abc import Iterable

from lstsd_hf.experiments.records import read_results
from lstsd_hf.experiments.report import shown_difference, shown_p_value, shown_spread
from lstsd_hf.experiments.statistics import holm, mean_and_std, paired_difference

from .analysis import (
    NAMES,
    SIGNIFICANCE,
    TASKS,
    Cell,
    Values,
    cells,
    mlp_cells,
    nll,
    records_file,
    score,
    with_control,
)
from .settings_tables import read
from .tables import NOT_RUN, TEMPORAL, table, unfinished

GATED = "regulated_lstsd"
BESIDE = ("vanilla", "vanilla-short", "lstsd", TEMPORAL)
CONTROLS = BESIDE[:2]


def teachers_table() -> str:
    """The teachers of `kd`: what they score themselves."""
    path = records_file("teachers.jsonl")
    runs = [result for _, result in read_results([path])] if path.exists() else []
    runs.sort(key=lambda run: (run["model"], list(TASKS).index(run["task"]), run["config"].get("label_noise", 0.0)))
    rows = [
        [
            TASKS[run["task"]],
            f"{100 * run['config'].get('label_noise', 0.0):.0f} %",
            run["model"].split("/")[-1],
            f"{100 * run['last_epoch']['eval_' + run['metrics'][0]]:.1f}",
            f"{run['last_epoch']['eval_nll']:.2f}",
        ]
        for run in runs
    ]
    return table(["task", "wrong labels", "teacher", "score", "NLL"], rows) if rows else NOT_RUN


def neighbours(records: str, methods: Iterable[str]) -> str:
    """The scores of some methods, and their differences to vanilla of the same length and of 3 epochs.

    Args:
        records: The methods' file of records, in A1's cells.
        methods: Keys of `NAMES`.
    """
    own, methods = cells(records), list(methods)
    among = [cell for cell in mlp_cells() if cell.name in {other.name for other in own}]
    for method in methods:
        groups = {cell.name: cell.groups[method] for cell in own if method in cell.groups}
        among = with_control(among, method, groups)
    among = [cell for cell in among if {*BESIDE, *methods} <= cell.groups.keys()]
    if not among:
        return NOT_RUN
    seeds = {seed for cell in own for seed in cell.groups[methods[0]].results}

    def scores(cell: Cell, name: str, values: Values = score) -> dict[int, float]:
        return {seed: value for seed, value in values(cell, cell.groups[name]).items() if seed in seeds}

    parts = unfinished(records)
    for title, values, digits in (("score", score, 1), ("NLL", nll, 2)):
        names = [*BESIDE, *methods]
        rows = [
            [cell.name, *(shown_spread(mean_and_std([*scores(cell, name, values).values()]), digits) for name in names)]
            for cell in among
        ]
        parts.append(table([title, *(NAMES[name] for name in names)], rows))
    for control in CONTROLS:
        tested = [
            [paired_difference(scores(cell, method), scores(cell, control)) for method in methods] for cell in among
        ]
        p_values = iter(holm([item.p_value for row in tested for item in row]))
        rows = []
        for cell, row in zip(among, tested, strict=True):
            shown = []
            for item in row:
                p_value = next(p_values)
                mark = "**" if p_value < SIGNIFICANCE else ""
                shown.append(f"{mark}{shown_difference(item, len(seeds), 1)}{mark}, p {shown_p_value(p_value)}")
            rows.append([cell.name, *shown])
        parts.append(table([f"− {NAMES[control]}", *(NAMES[method] for method in methods)], rows))
    return "\n\n".join(parts)


# Run later than the others of their cell: their seconds cannot be compared.
ON_ANOTHER_MACHINE = ("kd", "tskd-free")


def savings_table() -> str:
    """What leaving examples out saves: rows trained on, seconds of an epoch, and the score."""
    found = cells("l3_gated")
    if not found:
        return NOT_RUN
    rows = []
    for cell in found:
        vanilla = cell.groups["vanilla"]
        for name, group in cell.groups.items():
            spread = shown_spread(mean_and_std([*score(cell, group).values()]), 1)
            shares, seconds = [], []
            for seed, run in group.results.items():
                last = run["last_epoch"]
                shares.append(last["samples_used"] / last["samples_seen"] if "samples_seen" in last else 1.0)
                seconds.append(run["seconds_per_epoch"] / vanilla.results[seed]["seconds_per_epoch"])
            time = "–" if name in ON_ANOTHER_MACHINE else shown_spread(mean_and_std(seconds), 2)
            rows.append([NAMES[name], str(len(shares)), spread, shown_spread(mean_and_std(shares), 2), time])
    header = ["method", "n", "score", "share of rows trained on", "seconds of an epoch, ratio to vanilla"]
    return "\n\n".join([*unfinished("l3_gated"), table(header, rows)])


def backward_table() -> str:
    """What leaving rows out saves in the backward pass alone."""
    rows = []
    for name, item in read("backward_share")["figures"].items():
        ratios = [f"{item[part]['median']:.2f}" for part in ("backward", "epochs")]
        rows.append([NAMES.get(name, name), f"{item['share_of_rows']:.2f}", *ratios])
    return table(["method", "share of rows", "seconds of backward passes", "seconds of epochs"], rows)
