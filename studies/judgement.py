"""The judgement of `anchored`: the candidate beside its nine controls, in every cell of the protocol's J."""

import itertools
from collections.abc import Iterable, Sequence

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
from .tables import NOT_RUN, TEMPORAL, table, unfinished

CANDIDATE = "anchored"
LONG, SHORT, STOPPED = (
    ("mlp", "mlp_targets", "judged"),
    ("mlp_short", "judged_short"),
    ("mlp_stopped", "judged_stopped"),
)
CONTROLS = ("vanilla", "vanilla-short", "vanilla-stopped", "vanilla-tuned", "lstsd", "lstsd-defaults", TEMPORAL)
CONTROLS += ("elr", "sat")
NUM_CELLS, SEEDS = 17, 10
# Full fine-tuning, where nothing is searched.
FULL = (("judged_l3",), ("judged_l3_short",), ("judged_l3_stopped",))
FULL_CONTROLS = tuple(name for name in CONTROLS if name != "vanilla-tuned")
FULL_SEEDS = 3
# Last epoch of the prototype, another implementation, 10 seeds: its anchor that stays, and vanilla for 3 epochs.
PROTOTYPE = {
    **{("sst2", 0.0): (79.5, 79.5), ("sst2", 0.2): (76.5, 75.5), ("sst2", 0.4): (69.8, 68.2)},
    **{("mrpc", 0.0): (69.5, 70.6), ("mrpc", 0.2): (69.8, 68.5), ("mrpc", 0.4): (60.0, 60.0)},
    **{("cola", 0.0): (8.5, 5.9), ("cola", 0.2): (2.7, 2.7), ("cola", 0.4): (1.5, 0.4)},
}
# Points by which the candidate may be behind the best control and still holds, and in how many cells it must.
MARGIN, LEAST = 0.5, 14
# Points that runs of several lengths may be apart.
PROMISE = 1.0


def judged_cells() -> list[Cell]:
    """The cells that have the candidate and a control, each with the controls that were run."""
    return _with_controls(LONG, SHORT, STOPPED, E=6)


def _with_controls(long: Iterable[str], short: Iterable[str], stopped: Iterable[str], E: int) -> list[Cell]:  # noqa: N803
    found = [cell for cell in _cells(long, E) if CANDIDATE in cell.groups]
    for name, files in (("vanilla-short", short), ("vanilla-stopped", stopped)):
        found = with_control(found, name, {cell.name: cell.groups["vanilla"] for cell in _cells(files, E)})
    return [cell for cell in found if cell.groups.keys() & {*CONTROLS}]


def _cells(files: Iterable[str], E: int) -> list[Cell]:  # noqa: N803
    paths = [path for path in (records_file(f"{name}.jsonl") for name in files) if path.exists()]
    found = [cell_of(section, E) for section in group_runs(map(own_files_named, read_results(paths)))] if paths else []
    order = list(TASKS)
    return sorted(found, key=lambda cell: (order.index(cell.task), cell.rate, cell.name))


def scores_by_length(*, constant: bool = False) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Scores by cell, method and epochs of the run, of the seeds that every length has; cells that miss none.

    Args:
        constant: With a constant learning rate, instead of the judgement's linear decay.
    """
    if constant:
        files = {10: "judged_constant_10", 30: "judged_constant", 60: "judged_constant_60"}
        among = {epochs: _cells((name,), E=6) for epochs, name in files.items()}
    else:
        among = {10: _cells(("judged_10",), E=6), 30: judged_cells(), 60: _cells(("judged_60",), E=6)}
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for cell in among[10]:
        same = {epochs: other for epochs, others in among.items() for other in others if other.name == cell.name}
        if len(same) < len(among) or any({CANDIDATE, "vanilla"} - other.groups.keys() for other in same.values()):
            continue
        for name in ("vanilla", CANDIDATE):
            by_seed = {epochs: score(other, other.groups[name]) for epochs, other in same.items()}
            seeds = sorted(set.intersection(*map(set, by_seed.values())))
            scores = {epochs: [values[seed] for seed in seeds] for epochs, values in by_seed.items()}
            found.setdefault(cell.name, {})[name] = scores
    return found


def complete(among: Iterable[Cell], controls: Sequence[str] = CONTROLS, seeds: int = SEEDS) -> list[Cell]:
    """The cells in which everything was run with all seeds."""
    return [
        cell
        for cell in among
        if all(name in cell.groups and len(cell.groups[name].results) >= seeds for name in (CANDIDATE, *controls))
    ]


def best_control(cell: Cell, values: Values = score) -> str:
    """The control with the best mean among those that were run: the highest score, or the lowest NLL."""
    there = [name for name in CONTROLS if name in cell.groups]
    sign = 1 if values is score else -1
    return max(there, key=lambda name: sign * _mean(cell, name, values))


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
    parts += [_verdict(among), *_beside_controls(among, CONTROLS, SEEDS)]
    if len(done) == NUM_CELLS:
        parts += [_family(done, score, 1), _family(done, nll, 2)]
    return "\n\n".join(parts)


def fully_tuned_cells() -> list[Cell]:
    """The cells of full fine-tuning that have the candidate and a control."""
    return _with_controls(*FULL, E=2)


def full_judgement_tables() -> str:
    """The same for full fine-tuning, without a verdict."""
    among = fully_tuned_cells()
    if not among:
        return NOT_RUN
    return "\n\n".join([*unfinished(*itertools.chain(*FULL)), *_beside_controls(among, FULL_CONTROLS, FULL_SEEDS)])


def _beside_controls(among: list[Cell], controls: tuple[str, ...], seeds: int) -> list[str]:
    """Tables of score and NLL, each with the difference to the best control."""
    parts = []
    for title, values, digits in (("score", score, 1), ("NLL", nll, 2)):
        rows = []
        for cell in among:
            best = best_control(cell, values)
            shown = []
            for name in (CANDIDATE, *controls):
                group = cell.groups.get(name)
                text = shown_spread(mean_and_std([*values(cell, group).values()]), digits) if group else ""
                shown.append(f"**{text}**" if name == best else text)
            difference = paired_difference(values(cell, cell.groups[CANDIDATE]), values(cell, cell.groups[best]))
            rows.append([cell.name, *shown, shown_difference(difference, seeds, digits)])
        parts.append(table([title, *(NAMES[name] for name in (CANDIDATE, *controls)), "− best control"], rows))
    return parts


def ranking_table() -> str:
    """How far each method is from the best of all, the candidate among them, with right labels and with wrong ones."""
    among = complete(judged_cells())
    if not among:
        return NOT_RUN
    kinds = {"right labels": [cell for cell in among if not cell.rate], "wrong": [cell for cell in among if cell.rate]}
    rows = []
    for name in (CANDIDATE, *CONTROLS):
        behind = {cell.name: points_behind(cell, name) for cell in among}
        worst = max(behind, key=behind.__getitem__)
        nll_behind = [_mean(cell, name, nll) - _best(cell, nll) for cell in among]
        row = [NAMES[name]]
        for of_kind in kinds.values():
            row += [f"{close_to_best(of_kind, name)} of {len(of_kind)}"]
            row += [f"{mean_and_std([behind[cell.name] for cell in of_kind])[0]:.1f}"]
        row += [f"{behind[worst]:.1f} ({worst})", f"{mean_and_std(nll_behind)[0]:.2f}", f"{max(nll_behind):.2f}"]
        rows.append((mean_and_std([*behind.values()])[0], row))
    header = [""]
    for kind in kinds:
        header += [f"{kind}: within {MARGIN} of the best", "points behind it, mean"]
    header += ["most of all", "NLL above the best, mean", "most"]
    return table(header, [row for _, row in sorted(rows)])


def close_to_best(among: Iterable[Cell], name: str, controls: Sequence[str] = CONTROLS) -> int:
    """In how many cells a method is within the margin of the best of all."""
    return sum(points_behind(cell, name, controls) <= MARGIN for cell in among)


def points_behind(cell: Cell, name: str, controls: Sequence[str] = CONTROLS) -> float:
    """How far a method's mean score is from the best of all, the candidate among them."""
    return _best(cell, score, controls) - _mean(cell, name, score)


def _mean(cell: Cell, name: str, values: Values) -> float:
    return mean_and_std([*values(cell, cell.groups[name]).values()])[0]


def _best(cell: Cell, values: Values, controls: Sequence[str] = CONTROLS) -> float:
    """The best mean of all methods, the candidate among them."""
    means = [_mean(cell, name, values) for name in (CANDIDATE, *controls)]
    return max(means) if values is score else min(means)


def lengths_table(*, constant: bool = False) -> str:
    """How far the scores of runs of several lengths are apart; see `scores_by_length`."""
    rows, header = [], []
    for cell, methods in scores_by_length(constant=constant).items():
        for name, scores in methods.items():
            spreads = [mean_and_std(values) for values in scores.values()]
            means = [mean for mean, _ in spreads]
            header = ["", "", "n", *(f"{epochs} epochs" for epochs in scores), "furthest apart"]
            shown = [shown_spread(spread, 1) for spread in spreads]
            rows.append(
                [cell, NAMES[name], str(len(next(iter(scores.values())))), *shown, f"{max(means) - min(means):.1f}"]
            )
    return table(header, rows) if rows else NOT_RUN


def constant_rate_table() -> str:
    """The candidate with a constant learning rate against the one with linear decay, in the judgement's cells."""
    linear = {cell.name: cell for cell in judged_cells()}
    pairs = [(linear[cell.name], cell) for cell in _cells(("judged_constant",), E=6)]
    done = [pair for pair in pairs if len(pair[1].groups[CANDIDATE].results) >= SEEDS]
    if not done:
        return NOT_RUN
    tested = {
        values: [paired_difference(*(values(cell, cell.groups[CANDIDATE]) for cell in pair[::-1])) for pair in done]
        for values in (score, nll)
    }
    adjusted = {values: holm([item.p_value for item in items]) for values, items in tested.items()}
    rows, held = [], 0
    for place, (before, now) in enumerate(done):
        row = [now.name]
        for values, digits in ((score, 1), (nll, 2)):
            item = tested[values][place]
            shown = [shown_spread(mean_and_std([*values(now, now.groups[CANDIDATE]).values()]), digits)]
            shown += [shown_difference(item, SEEDS, digits), shown_p_value(adjusted[values][place])]
            row += shown
        rows.append(row)
        held += _mean(now, CANDIDATE, score) >= _mean(before, best_control(before), score) - MARGIN
    header = ["", "score", "− linear decay", "p", "NLL", "− linear decay", "p"]
    spreads = [
        max(means) - min(means)
        for methods in scores_by_length(constant=True).values()
        for means in [[mean_and_std(scores)[0] for scores in methods[CANDIDATE].values()]]
    ]
    kept = sum(spread <= PROMISE for spread in spreads)
    behind = sum(p < SIGNIFICANCE and item.mean < 0 for p, item in zip(adjusted[score], tested[score], strict=True))
    is_recommended = kept == len(spreads) and not behind
    sentence = (
        f"The three lengths end within {PROMISE:.0f} point in {kept} of {len(spreads)} settings, and the constant rate "
        f"is behind linear decay in {behind} of {len(done)}: by the protocol's rule it is "
        f"{'' if is_recommended else '**not** '}recommended. Against the best control of each cell it holds "
        f"({MARGIN} points) in {held}."
    )
    return f"{table(header, rows)}\n\n{sentence}"


def prototype_table() -> str:
    """The prototype's anchor that stays, by another implementation and by this one, and vanilla and the candidate."""
    short = {cell.name: cell.groups["vanilla"] for cell in _cells(SHORT, E=6)}
    candidate = {cell.name: cell for cell in judged_cells()}
    rows, close = [], 0
    for cell in with_control(_cells(("judged_prototype",), E=6), "vanilla-short", short):
        theirs = PROTOTYPE[cell.task, cell.rate]
        row = [cell.name]
        for name, value in zip((CANDIDATE, "vanilla-short"), theirs, strict=True):
            mean, std = mean_and_std([*score(cell, cell.groups[name]).values()])
            row += [f"{value:.1f}", shown_spread((mean, std), 1), f"{mean - value:+.1f}"]
            close += name == CANDIDATE and abs(mean - value) <= std
        follows = mean_and_std([*score(candidate[cell.name], candidate[cell.name].groups[CANDIDATE]).values()])
        rows.append([*row, shown_spread(follows, 1)])
    if not rows:
        return NOT_RUN
    header = ["", "prototype", "`momentum` 1", "difference", "prototype, vanilla, 3 epochs", "here", "difference"]
    sentence = f"In {close} of {len(rows)} settings the means are within one standard deviation of a run."
    return "\n\n".join([*unfinished("judged_prototype"), table([*header, "the candidate (0.9)"], rows), sentence])


def _verdict(among: list[Cell]) -> str:
    """In how many cells the candidate holds, and what that decides."""
    held = [cell for cell in among if _mean(cell, CANDIDATE, score) >= _mean(cell, best_control(cell), score) - MARGIN]
    text = (
        f"Against the best control of each cell the candidate holds ({MARGIN} points) in {len(held)} of the "
        f"{len(among)} cells it was run in; the rule asks for {LEAST} of {NUM_CELLS}."
    )
    if NUM_CELLS - len(among) + len(held) < LEAST:
        text += " **By the protocol's rule it is not the recommended method.**"
    return text


def _family(done: list[Cell], values: Values, digits: int) -> str:
    """The candidate − each control in each cell, corrected for all of them together."""
    tested = [
        [paired_difference(values(cell, cell.groups[CANDIDATE]), values(cell, cell.groups[name])) for name in CONTROLS]
        for cell in done
    ]
    p_values = iter(holm([item.p_value for row in tested for item in row]))
    rows, gains, losses = [], [0] * len(CONTROLS), [0] * len(CONTROLS)
    for cell, row in zip(done, tested, strict=True):
        shown = []
        for place, item in enumerate(row):
            p_value = next(p_values)
            is_shown, is_better = p_value < SIGNIFICANCE, (item.mean > 0) == (values is score)
            gains[place] += is_shown and is_better
            losses[place] += is_shown and not is_better
            mark = "**" if is_shown else ""
            shown.append(f"{mark}{shown_difference(item, SEEDS, digits)}{mark}, p {shown_p_value(p_value)}")
        rows.append([cell.name, *shown])
    rows.append(["gains / losses", *(f"{gain} / {loss}" for gain, loss in zip(gains, losses, strict=True))])
    title = "score, anchored −" if values is score else "NLL, anchored −"
    return table([title, *(NAMES[name] for name in CONTROLS)], rows)
