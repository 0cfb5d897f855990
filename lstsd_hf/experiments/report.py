"""Tables from finished runs: what was measured, how sure it is, and what the paper has."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import replacing
from .published import published_score
from .statistics import PairedDifference, holm, mean_and_std, paired_difference

BASELINE = "vanilla"
# Options of the data in a run's config, where they are not the default.
_DATA_SETTINGS = ("max_seq_length", "data")
_NAMED_SETTINGS = ("max_train_samples", "trainable_layers", "label_noise", "label_noise_seed", "dropout")


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed.

    Attributes:
        label: Method, and its options where several sets of them were run.
        results: Contents of `results.json` by seed.
        folders: The runs' folders by seed.
    """

    label: str
    results: Mapping[int, dict[str, Any]]
    folders: Mapping[int, Path]

    @property
    def first(self) -> dict[str, Any]:
        """One of the results, for what they have in common."""
        return next(iter(self.results.values()))

    def scores(self, name: str) -> dict[int, float]:
        """A number of the last epoch's evaluation by seed; `name` is its key."""
        return {
            seed: result["last_epoch"][name] for seed, result in self.results.items() if name in result["last_epoch"]
        }


@dataclass(frozen=True)
class Section:
    """Groups that can be compared: the same task, model, data and training, different methods.

    Attributes:
        title: What they have in common.
        groups: The baseline first, if it was run.
        metric: The headline metric.
        is_generated: Whether the data are generated.
    """

    title: str
    groups: Sequence[Group]
    metric: str
    is_generated: bool

    @property
    def first_hash(self) -> str:
        """A digest that tells sections of the same title apart."""
        return self.groups[0].first["config_hash"]

    @property
    def baseline(self) -> Group | None:
        """The group of plain fine-tuning, if it was run; the one without a search, if there are several."""
        return next((group for group in self.groups if group.first["method"] == BASELINE), None)


@dataclass(frozen=True)
class Row:
    """A line of a table. Scores are in percent (a correlation x 100).

    Attributes:
        label: Method.
        seeds: How many.
        last: Mean and standard deviation of the headline metric in the last epoch.
        difference: To the baseline, of the last epoch, paired by seed; `None` for the baseline itself or without it.
        adjusted_p: Its p-value, adjusted for the number of comparisons in the section.
        nll: Mean and standard deviation of the negative log-likelihood in nats.
        ece: Mean and standard deviation of the expected calibration error.
        others: The same of scores beside the prediction proper (an averaged model, a last snapshot), by name.
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


def group_runs(found: Iterable[tuple[Path, dict[str, Any]]]) -> list[Section]:
    """Sorts runs into comparable sections and, within these, into groups that differ in the seed only.

    Raises:
        InputError: If runs that should differ in the seed only differ in something else.
    """
    by_setting: dict[str, dict[str, list[tuple[Path, dict[str, Any]]]]] = {}
    for folder, result in found:
        config = result["config"]
        setting = json.dumps(_setting(config), sort_keys=True)
        # A search is part of the method: its runs stand beside those that it started from.
        method = json.dumps(_method(config), sort_keys=True)
        by_setting.setdefault(setting, {}).setdefault(method, []).append((folder, result))
    sections = []
    settings = [json.loads(setting) for setting in by_setting]
    for setting, methods in zip(settings, by_setting.values(), strict=True):
        runs = list(methods.values())
        _check_same_data([member for members in runs for member in members])
        labels = _labels([_method(members[0][1]["config"]) for members in runs])
        groups = [_group(label, members) for label, members in zip(labels, runs, strict=True)]
        groups.sort(
            key=lambda group: (
                group.first["method"] != BASELINE,
                group.first["method"],
                "untuned" in group.first["config"],
                group.label,
            )
        )
        first = groups[0].first
        sections.append(
            Section(_title(setting, settings), groups, first["metrics"][0], bool(first["data"]["generated"]))
        )
    return sorted(sections, key=lambda section: section.title)


def _setting(config: dict[str, Any]) -> dict[str, Any]:
    """All but the method, as it was before a search."""
    setting = {name: value for name, value in config.items() if name not in ("method", "untuned")}
    if "untuned" in config:
        untuned = config["untuned"]
        setting["training"] = {**setting["training"], "learning_rate": untuned["learning_rate"]}
        setting.pop("dropout", None)
        setting |= {"dropout": untuned["dropout"]} if untuned["dropout"] is not None else {}
    return setting


def _method(config: dict[str, Any]) -> dict[str, Any]:
    """The method's options and, after a search, what else was searched."""
    if "untuned" not in config:
        return config["method"]
    searched = {"learning_rate": config["training"]["learning_rate"], "dropout": config.get("dropout")}
    changed = {name: value for name, value in searched.items() if value != config["untuned"][name]}
    return {**config["method"], "searched": True, **changed}


def _check_same_data(members: list[tuple[Path, dict[str, Any]]]) -> None:
    (first_folder, first), *rest = members
    for folder, result in rest:
        for name in ("data", "versions", "metrics"):
            if result[name] != first[name]:
                raise InputError(
                    f"Runs that are averaged or compared must have the same `{name}`, but it is {first[name]} in "
                    f"{first_folder} and {result[name]} in {folder}. Move one of them elsewhere, or run it again."
                )


def _group(label: str, members: list[tuple[Path, dict[str, Any]]]) -> Group:
    seeds: dict[int, Path] = {}
    for folder, result in members:
        if result["seed"] in seeds:
            raise InputError(
                f"Runs that are averaged must differ in the seed, but {seeds[result['seed']]} and {folder} hold the "
                f"same run ({result['config_hash']}) with seed {result['seed']}. Move one of them elsewhere."
            )
        seeds[result["seed"]] = folder
    return Group(label, {result["seed"]: result for _, result in members}, seeds)


def _labels(methods: Sequence[dict[str, Any]]) -> list[str]:
    """A method's name, with the options in which the section's runs of that method differ."""
    labels = []
    for method in methods:
        same = [other for other in methods if other["name"] == method["name"]]
        varying = [name for name in method if any(other.get(name) != method[name] for other in same)]
        varying += ["searched"] if "searched" in method and "searched" not in varying else []
        details = ", ".join(f"{name}={method[name]}" for name in varying)
        labels.append(method["name"] + (f" ({details})" if details else ""))
    return labels


def _title(setting: dict[str, Any], settings: Sequence[dict[str, Any]]) -> str:
    training = setting["training"]
    paths = {other["model"].rstrip("/") for other in settings}
    name = setting["model"].rstrip("/").split("/")[-1]
    # Two folders may have the same last name.
    is_clear = sum(path.split("/")[-1] == name for path in paths) == 1
    parts = [setting["task"].upper(), name if is_clear else setting["model"].rstrip("/")]
    others = [other for other in settings if all(other[name] == setting[name] for name in ("task", "model"))]
    parts += [
        f"{name}={setting[name]}"
        for name in (*_NAMED_SETTINGS, *_DATA_SETTINGS)
        if setting.get(name) is not None
        and (name in _NAMED_SETTINGS or any(other.get(name) != setting[name] for other in others))
    ]
    length = training.get("max_steps", -1)
    parts.append(f"{length} steps" if length > 0 else f"{training['num_train_epochs']:g} epochs")
    # What else tells it from the other sections of the same task and model.
    twins = [
        other["training"]
        for other in others
        if all(other.get(name) == setting.get(name) for name in (*_NAMED_SETTINGS, *_DATA_SETTINGS))
    ]
    for name, value in training.items():
        if name != "num_train_epochs" and any(other.get(name) != value for other in twins):
            parts.append(f"{name}={value}")
    return " · ".join(parts) + (" · GENERATED DATA" if setting["data"] == "synthetic" else "")


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
    columns = ("method", "seeds", "last epoch", "− vanilla [95 % CI]", "p (Holm)", "NLL", "ECE")
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
    lines += [
        "",
        "Mean ± standard deviation over seeds. Differences and the two-sided paired t-test are by seed, p adjusted for "
        f"{sum(row.difference is not None for row in rows)} comparison(s) (Holm). "
        "Paper: single runs on the dev set, with BERT-base or its CNN, 50 epochs.",
    ]
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
    # What is zero when rounded has no sign.
    mean, low, high = (f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}" for value in numbers)
    interval = "" if math.isnan(difference.low) else f" [{low}, {high}]"
    pairs = "" if difference.count == seeds else f" (n={difference.count})"
    return f"{mean}{interval}{pairs}"


def shown_p_value(value: float) -> str:
    """Three digits, `<0.001`, or a dash where there is none."""
    return "–" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


CSV_COLUMNS = (
    *("section", "method", "seeds", "metric", "last_mean", "last_std", "difference"),
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
            numbers = [*row.last, difference.mean, difference.low, difference.high, difference.p_value]
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
