"""The first lines of README and of docs/results.md: when LSTSD helps, when not, and what to take instead."""

from collections.abc import Sequence

from lstsd_hf.experiments.report import shown_p_value
from lstsd_hf.experiments.statistics import mean_and_std

from .analysis import SIGNIFICANCE, Comparison, cells, cnn_cells, compare, mlp_cells, score
from .image_tables import lstsd_on_pictures
from .judgement import (
    CANDIDATE,
    CONTROLS,
    FULL_CONTROLS,
    FULL_SEEDS,
    MARGIN,
    NUM_CELLS,
    close_to_best,
    complete,
    fully_tuned_cells,
    judged_cells,
)
from .sentences import check, cnn_comparisons, gains, losses
from .tables import OF_CNN, TEMPORAL, compared_in_one_family
from .tagging_table import lstsd_as_a_tagger


def honest_lines(docs: str = "") -> str:
    """When LSTSD helps, when not, and what to take instead, in five lines.

    Args:
        docs: The way to the folder of the pages, from the page that the lines stand on.
    """
    long, tuned, temporal = (compare(mlp_cells(), "lstsd", key) for key in ("vanilla", "vanilla-tuned", TEMPORAL))
    check(gains(long) and not losses(long), "LSTSD gains over vanilla and loses nowhere")
    check(losses(tuned) and not gains(temporal), "LSTSD replaces neither tuning nor a simpler teacher")
    wrong, right = against_short_runs()
    check(losses(wrong) > gains(wrong), "with wrong labels a short run is more often better")
    short, _ = compared_in_one_family(cells("gpu_short"), "lstsd-defaults")
    check(not gains(short), "its defaults gain nowhere in full fine-tuning for 3 epochs")
    lost = [f"{item.cell.name} ({item.difference.mean:+.1f} points)" for item in short if item.is_shown]
    below = sum(item.is_shown and item.is_below_majority for item in long)
    lines = [
        f"**It calms a run that is too long** (30 epochs on frozen features of texts): {shown(long)} than the same run "
        f"without it. {below} of these gains end below the majority class.",
        f"**Try 3 plain epochs first.** With wrong labels these 30 epochs with LSTSD are {shown(wrong)} than 3 plain "
        f"ones, with right labels {shown(right)}. In full fine-tuning for 3 epochs LSTSD's defaults add nothing, and "
        f"lose on {' and '.join(lost)}, of {len(short)} tasks.",
        f"**It replaces neither tuning nor a simpler teacher**: {shown(tuned)} than tuned vanilla, {shown(temporal)} "
        "than temporal ensembling with the same total weight.",
        losses_elsewhere(),
        instead(docs),
    ]
    return "\n".join(f"- {line}" for line in lines)


def shown(family: Sequence[Comparison]) -> str:
    """In how many settings a difference was shown, and of which sign."""
    return f"better in {gains(family) or 'none'} and worse in {losses(family) or 'none'} of {len(family)} settings"


def against_short_runs() -> tuple[list[Comparison], list[Comparison]]:
    """LSTSD − vanilla with 3 epochs in the judgement's cells: those with wrong labels, and those with right ones."""
    family = compare(judged_cells(), "lstsd", "vanilla-short", count=NUM_CELLS)
    return [item for item in family if item.cell.rate], [item for item in family if not item.cell.rate]


def losses_elsewhere() -> str:
    """Where LSTSD loses: other data and other models."""
    twenty, eighty = lstsd_on_pictures()
    check(max(twenty[0].mean, eighty[0].mean) < 0, "LSTSD is behind on pictures")
    at_papers, _ = cnn_comparisons("cnn")
    check(losses(at_papers) and not gains(at_papers), "LSTSD loses with the CNN at the paper's settings")
    tuned = compare(cnn_cells("cnn"), "lstsd", "vanilla-tuned", **OF_CNN)
    check(losses(tuned) and not gains(tuned), "LSTSD with the CNN loses to tuned vanilla")
    tags = lstsd_as_a_tagger()
    lost = sum(p_value < SIGNIFICANCE and item.mean < 0 for item, p_value in tags)
    check(lost and max(item.mean for item, _ in tags) < 0, "LSTSD is behind as a tagger")
    return (
        f"**It fell behind elsewhere**: on pictures with a ResNet by {-twenty[0].mean:.0f} points (20 epochs, p "
        f"{shown_p_value(twenty[1])}; 80 epochs of a quarter of the pictures, p {shown_p_value(eighty[1])}); with the "
        f"paper's CNN on {losses(at_papers)} of {len(at_papers)} tasks, and on {losses(tuned)} against a tuned run; as "
        f"a tagger in all {len(tags)} settings, shown in {lost}."
    )


def instead(docs: str) -> str:
    """What to take instead, by kind of model and labels."""
    among = complete(judged_cells())
    wrong, right = ([cell for cell in among if bool(cell.rate) == is_wrong] for is_wrong in (True, False))
    names = (CANDIDATE, *CONTROLS)
    check(
        close_to_best(right, "lstsd") > max(close_to_best(right, name) for name in names if name != "lstsd"),
        "LSTSD leads with right labels",
    )
    check(
        close_to_best(wrong, "elr") == max(close_to_best(wrong, name) for name in names), "ELR leads with wrong labels"
    )
    on_cola = [mean_and_std([*score(cell, cell.groups["elr"]).values()])[0] for cell in among if cell.task == "cola"]
    check(on_cola and max(map(abs, on_cola)) < 1, "ELR learns nothing on CoLA")
    fully = complete(fully_tuned_cells(), FULL_CONTROLS, FULL_SEEDS)
    noisy = [cell for cell in fully if cell.rate]
    over_elr, over_short = (
        compare(noisy, "lstsd", name, count=len(noisy), seeds=FULL_SEEDS) for name in ("elr", "vanilla-short")
    )
    ahead = [item.difference.mean for item in over_short]
    check(
        min(item.difference.mean for item in over_elr) > 0,
        "ELR is behind LSTSD in every noisy setting of full fine-tuning",
    )
    check(min(ahead) > 0, "LSTSD is ahead of 3 epochs in every noisy setting of full fine-tuning")
    check(not gains(over_short), "LSTSD is not shown to be ahead of 3 epochs in full fine-tuning")
    close = {name: close_to_best(fully, name, FULL_CONTROLS) for name in (CANDIDATE, *FULL_CONTROLS)}
    check(max(close.values()) == close["lstsd"] == close[CANDIDATE], "LSTSD and anchored lead in full fine-tuning")
    return (
        f"**For a long run**, of [ten methods compared]({docs}results.md#the-judgement-of-anchored): on frozen "
        f"features take `lstsd` with right labels (within {MARGIN} points of the best in "
        f"{close_to_best(right, 'lstsd')} of {len(right)} settings) and [`elr`]({docs}methods/elr.md) with wrong ones "
        f"({close_to_best(wrong, 'elr')} of {len(wrong)}). "
        "Do not trust ELR's probabilities; on CoLA it learns nothing. "
        f"In [full fine-tuning]({docs}results.md#fully-fine-tuned) of a 3-layer MiniLM (10 epochs, 3 seeds) take "
        f"`lstsd` or [`anchored`]({docs}methods/anchored.md) ({close['lstsd']} of {len(fully)} each). "
        f"With wrong labels LSTSD is there {min(ahead):.1f} to {max(ahead):.1f} points ahead of 3 plain "
        "epochs too, which 3 seeds do not show after correction."
    )
