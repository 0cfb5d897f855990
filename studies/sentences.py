"""What follows from the tables, in sentences that the records must bear."""

from collections.abc import Sequence
from typing import Any

from lstsd_hf.experiments.published import BERT, CNN
from lstsd_hf.experiments.published import TASKS as PUBLISHED_TASKS
from lstsd_hf.experiments.report import shown_p_value, shown_spread
from lstsd_hf.experiments.statistics import mean_and_std

from .analysis import (
    NAMES,
    TASKS,
    Comparison,
    cells,
    cnn_cells,
    compare,
    l3_cells,
    majority,
    mlp_cells,
    nll,
    ranking,
    score,
)
from .gpu_tables import against, long_cells
from .settings_tables import defaults, read
from .tables import (
    CNN_SETTINGS,
    CONTROLS,
    NOISY,
    NOT_RUN,
    OF_CNN,
    OF_L3,
    TEMPORAL,
    compared_in_one_family,
    memory_families,
    shown_among,
    table,
    unfinished,
)


def is_cnn_finished(records: str) -> bool:
    """Whether every run with the CNN at a setting, and the control of both, is there."""
    return not unfinished(records, "cnn_tuned")


def cnn_comparisons(records: str) -> tuple[list[Comparison], int]:
    """LSTSD − vanilla with the CNN, and how many comparisons the p-values are adjusted for."""
    return compared_in_one_family(cnn_cells(records), "lstsd")


def full_sentences() -> str:
    """What LSTSD does to full fine-tuning."""
    long, _ = compared_in_one_family(cells("gpu"), "lstsd")
    short, count = compared_in_one_family(cells("gpu_short"), "lstsd-defaults")
    check(not gains(long) and not gains(short), "LSTSD gains nowhere in full fine-tuning of MiniLM")
    small, of_small = compared_in_one_family(cells("l3"), "lstsd")
    small_short = compare(l3_cells(), "lstsd", "vanilla-short", **OF_L3)
    check(gains(small) and not gains(small_short), "with 3 layers LSTSD gains over the same run, not over a short one")
    gained = [f"{item.cell.name} ({item.difference.mean:+.1f} points)" for item in small if item.is_shown]
    lost = [f"{item.cell.name} ({item.difference.mean:+.1f})" for item in short if item.is_shown]
    over_short = {cell.name: against(cell, "vanilla-short").mean for cell in long_cells()}
    after_long = [
        f"{item.cell.name} {item.difference.mean:+.1f} points over the same run without it (p "
        f"{shown_p_value(item.p_value)}), {over_short[item.cell.name]:+.1f} over 3 epochs"
        for item in long
        if item.cell.name in over_short
    ]
    return f"""**In full fine-tuning no gain over a short plain run is shown.** MiniLM, 5 seeds, an NVIDIA
H200. With 3 epochs, as Trainer has them, the defaults of LSTSD lose to vanilla on {" and ".join(lost)}:
{tally(short, "tasks")}, adjusted for {count} comparisons.
With the paper's 50 epochs, weights and E: {"; ".join(after_long)}. No other task has all its seeds yet.
Every row is [below](#minilm-full-fine-tuning-on-a-gpu).

A MiniLM with 3 layers, 6 epochs on CPUs: the paper's LSTSD gains over vanilla on {" and ".join(gained)}:
{tally(small, "tasks")}, adjusted for {of_small} comparisons. Over vanilla with 3 epochs: {tally(small_short, "tasks")}
([table](#minilm-with-3-layers-full-fine-tuning-on-cpus))."""


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


def when_to_use() -> str:
    """The comparisons that decide, and what follows from them."""
    mlp = mlp_cells()
    noisy = [cell for cell in mlp if cell.rate]
    over = {name: compare(mlp, "lstsd", key) for name, key in CONTROLS.items()}
    likelihood = {name: compare(mlp, "lstsd", key, nll) for name, key in CONTROLS.items()}
    in_short = compare(cells("mlp_short"), "lstsd-defaults", "vanilla")
    both_tuned = compare(mlp, "lstsd-tuned", "vanilla-tuned")
    search_lost = [item.cell.name for item in compare(mlp, "vanilla-tuned", "vanilla") if item.verdict[:4] == "loss"]
    stacked = {key: compare(cells("mlp_tuned"), "lstsd", key) for key in ("vanilla", TEMPORAL)}
    plain = compare(noisy, "lstsd", "vanilla", ranking("memory"), ranking("model"), NOISY)
    tuned, short, model, temporal = memory_families(noisy).values()
    check(gains(over["vanilla"]) and not losses(over["vanilla"]), "LSTSD gains over vanilla and loses nowhere")
    noisy_short = [item for item in over["3 epochs"] if item.cell.rate]
    clean_short = [item for item in over["3 epochs"] if not item.cell.rate]
    check(losses(noisy_short) and not gains(noisy_short), "fewer epochs are the better remedy against noise here")
    check(len(in_short) - gains(in_short) - losses(in_short) > 6, "LSTSD adds little to a short run")
    check(losses(over["tuned"]) and losses(both_tuned), "LSTSD does not replace tuning")
    check(
        gains(stacked["vanilla"]) and losses(stacked["vanilla"]), "LSTSD adds to some tuned runs and takes from others"
    )
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
- **With wrong labels, stopping earlier helps more.** LSTSD over vanilla with 3 epochs instead of 30: {
        tally(noisy_short)
    };
  with right ones {tally(clean_short)}. Try that first. To such a short run LSTSD (with its defaults) adds little:
  {tally(in_short)}.
- **It does not replace tuning.** Over vanilla with a searched learning rate and dropout: {tally(over["tuned"])};
  with λ and E searched too: {tally(both_tuned)}. (On {" and ".join(search_lost)} the search itself lost to
  untuned vanilla.) Added to the searched learning rate and dropout it helps some and harms others:
  {tally(stacked["vanilla"])} ([table](#does-lstsd-add-to-a-tuned-baseline)).
- **Two teachers are not shown to beat one.** Over `temporal_ensemble` with the same total weight, 6.4:
  {tally(over["temporal"])};
  at the searched settings {tally(stacked[TEMPORAL])}.
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
            f"The records do not show that {claim}: write anew the sentences that say so, in `studies/sentences.py`, "
            "`studies/summary.py` and on the pages."
        )


def tally(family: Sequence[Comparison], cells_are: str = "settings") -> str:
    """How many gains, losses and neither, with the range of the differences."""
    neither = len(family) - gains(family) - losses(family)
    shown = f"{', '.join(verdicts(family))}, {neither} without a difference shown, of {len(family)} {cells_are}"
    return f"{shown} ({extremes(family, 1)} points)"


def verdicts(family: Sequence[Comparison]) -> tuple[str, str]:
    """The numbers of gains and losses."""
    below = sum(item.is_shown and item.is_below_majority and item.difference.mean > 0 for item in family)
    number = gains(family)
    shown = plural(number, "gain", "gains")
    if below:
        shown += f" ({'' if number == 1 else f'{below} of them '}below the majority class)"
    return shown, plural(losses(family), "loss", "losses")


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


def cost_sentence() -> str:
    """What LSTSD adds to a step, and how fast the command is."""
    bench, overhead = read("bench"), read("overhead")
    (lstsd,) = (row for row in bench["overhead"] if row["method"] == "lstsd")
    added, step = lstsd["added_ms"], overhead["encoder_ms_per_step"]["stock"]
    fast = [row for row in bench["end_to_end"] if row["way"] == "bf16"]
    speeds = ", ".join(f"{row['examples_a_second']['median']:.1f} ({row['task']})" for row in fast)
    device = bench["hardware"]["device"]
    return (
        f"On one core of an {device} (`make bench`, `python -m benchmarks.overhead`): LSTSD adds {added:.2f} ms to a\n"
        f"training step, {lstsd['stub_step']['median'] - 1:.0%} of one of a model that does next to nothing, and "
        f"{added / step:.2%} of one of MiniLM\n(batch {overhead['batch_size']}, {overhead['tokens']} tokens). Plain "
        f"training with `run_glue.py --bf16 True --use_cpu True` is {speeds}\n"
        "times as fast as Hugging Face's example script, which pads to 128 tokens in fp32."
    )
