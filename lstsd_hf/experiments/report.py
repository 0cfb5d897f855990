"""Tables from finished runs: what was measured, how sure it is, and what the paper has."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import replacing
from ..runner.results import judged_by
from .grouping import Section
from .published import published_score
from .statistics import PairedDifference, holm, mean_and_std, paired_difference


@dataclass(frozen=True)
class Row:
    """A line of a table. Scores are in percent (a correlation x 100).

    Attributes:
        label: Method.
        seeds: How many.
        last: Mean and standard deviation of the headline metric in the last epoch; see `headline` in `runner.results`.
        difference: To the baseline, of the same, paired by seed; `None` for the baseline itself or without it.
        adjusted_p: Its p-value, adjusted for the number of comparisons in the section.
        nll: Mean and standard deviation of the negative log-likelihood in nats.
        ece: Mean and standard deviation of the expected calibration error.
        others: The same of scores beside the prediction proper (an averaged model, a last snapshot, MNLI's mismatched
            split), by name.
        seconds_per_epoch: Mean training time.
        paper: The paper's score for this method, task and kind of model.
    """

    label: str
    seeds: int
    last: tuple[float, float]
    difference: PairedDifference | None
    adjusted_p: float
    nll: tuple[float, float]
    ece: tuple[float, float]
    others: Mapping[str, tuple[float, float]]
    seconds_per_epoch: float
    paper: float | None


def section_rows(section: Section) -> list[Row]:
    """The lines of a section's table."""
    metric = f"eval_{section.metric}"
    baseline = section.baseline
    differences = [
        paired_difference(percent(group.scores(metric)), percent(baseline.scores(metric)))
        if baseline is not None and group is not baseline and group.results.keys() & baseline.results.keys()
        else None
        for group in section.groups
    ]
    adjusted = iter(holm([item.p_value for item in differences if item is not None]))
    rows = []
    for group, difference in zip(section.groups, differences, strict=True):
        first = group.first
        others = {
            name.removeprefix("eval_").removesuffix(f"_{section.metric}"): mean_and_std(
                list(percent(group.scores(name)).values())
            )
            for name in first["last_epoch"]
            if name.endswith(f"_{section.metric}") and name != metric
        }
        for split in first.get("other_splits", {}):
            scores = {seed: result["other_splits"][split][metric] for seed, result in group.results.items()}
            # Scores of the model that the run ended with; the others may be of another epoch.
            name = f"{split.removeprefix('validation_')}{' (saved model)' if 'best_model' in first else ''}"
            others[name] = mean_and_std(list(percent(scores).values()))
        seconds = [result["seconds_per_epoch"] for result in group.results.values() if result["seconds_per_epoch"]]
        rows.append(
            Row(
                label=group.label,
                seeds=len(group.results),
                last=mean_and_std(list(percent(group.scores(metric)).values())),
                difference=difference,
                adjusted_p=math.nan if difference is None else next(adjusted),
                nll=mean_and_std(list(group.scores("eval_nll").values())),
                ece=mean_and_std(list(group.scores("eval_ece").values())),
                others=others,
                seconds_per_epoch=mean_and_std(seconds)[0] if seconds else math.nan,
                paper=None if section.is_generated else published_score(first["model"], first["task"], first["method"]),
            )
        )
    return rows


def percent(scores: Mapping[int, float]) -> dict[int, float]:
    """Scores x 100."""
    return {seed: 100 * score for seed, score in scores.items()}


def to_markdown(sections: Sequence[Section]) -> str:
    """All tables in Markdown."""
    return "\n\n".join(_section_markdown(section) for section in sections) + "\n"


def _section_markdown(section: Section) -> str:
    of_epoch = judged_by(section.groups[0].first).removeprefix("the ")
    columns = ("method", "seeds", of_epoch, "− vanilla [95 % CI]", "p (Holm)", "NLL", "ECE")
    columns += ("also scored", "s/epoch", "paper")
    lines = [f"## {section.title}", "", f"{section.metric}, in % (a correlation × 100)", ""]
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    rows = section_rows(section)
    for row in rows:
        difference = row.difference
        others = "; ".join(f"{name} {shown_spread(value, 2)}" for name, value in row.others.items())
        cells = [
            row.label,
            str(row.seeds),
            f"**{shown_spread(row.last, 2)}**",
            "–" if difference is None else shown_difference(difference, row.seeds),
            shown_p_value(row.adjusted_p),
            shown_spread(row.nll, 3),
            shown_spread(row.ece, 3),
            others or "–",
            _number(row.seconds_per_epoch, 2),
            "–" if row.paper is None else f"{row.paper:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    note = (
        "Mean ± standard deviation over seeds. Differences and the two-sided paired t-test are by seed, p adjusted for "
        f"{sum(row.difference is not None for row in rows)} comparison(s) (Holm)."
    )
    if any(row.paper is not None for row in rows):
        note += " Paper: single runs on the dev set, with BERT-base or its CNN, 50 epochs."
    lines += ["", note]
    return "\n".join(lines)


def shown_spread(value: tuple[float, float], digits: int) -> str:
    """Mean ± standard deviation, without the latter where there is none; a dash without either."""
    mean, deviation = value
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}")


def shown_difference(difference: PairedDifference, seeds: int, digits: int = 2) -> str:
    """Mean difference and interval, with the number of pairs where it is not that of the seeds."""
    numbers = (difference.mean, difference.low, difference.high)
    # Only zero itself has no sign: that of "-0.0" tells that an interval includes zero.
    mean, low, high = (f"{value:+.{digits}f}" if value else f"{0:.{digits}f}" for value in numbers)
    interval = "" if math.isnan(difference.low) else f" [{low}, {high}]"
    pairs = "" if difference.count == seeds else f" (n={difference.count})"
    return f"{mean}{interval}{pairs}"


def shown_p_value(value: float) -> str:
    """Three digits, `<0.001`, or a dash where there is none."""
    return "–" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


CSV_COLUMNS = (
    *("section", "method", "seeds", "metric", "last_mean", "last_std", "pairs", "difference"),
    *("difference_low", "difference_high", "p_value", "p_adjusted", "nll_mean", "nll_std", "ece_mean", "ece_std"),
    *("seconds_per_epoch", "paper"),
)


def to_csv(sections: Sequence[Section]) -> str:
    """All tables in one CSV with the columns `CSV_COLUMNS`; what does not exist is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for section in sections:
        for row in section_rows(section):
            difference = row.difference or PairedDifference(0, math.nan, math.nan, math.nan, math.nan)
            numbers = [
                *row.last,
                difference.count or math.nan,
                difference.mean,
                difference.low,
                difference.high,
                difference.p_value,
            ]
            numbers += [row.adjusted_p, *row.nll, *row.ece, row.seconds_per_epoch]
            numbers.append(math.nan if row.paper is None else row.paper)
            cells = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
            writer.writerow([section.title, row.label, row.seeds, section.metric, *cells])
    return text.getvalue()


def write_report(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Writes `report.md` and `report.csv` and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {folder / "report.md": to_markdown(sections), folder / "report.csv": to_csv(sections)}
    for path, content in contents.items():
        with replacing(path) as temporary:
            temporary.write_text(content)
    return list(contents)
