"""Figures from finished runs: learning curves, the length of a mini-generation, reliability."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from ..calibration import confidence_bins
from ..files import replacing
from ..runner.results import PREDICTIONS_NAME
from .grouping import Group, Section
from .statistics import mean_and_std

LENGTH_OPTION = "mini_generation_epochs"
NUM_BINS = 10
_SIZE = (8.5, 4.5)
# Bytes; a title may name whole paths, and file systems take 255.
_LONGEST_STEM = 120


def write_figures(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Draws each section's figures as PNG files and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for section in sections:
        whole = re.sub(r"[^\w.=]+", "-", section.title).strip("-")
        cut = whole.encode()[:_LONGEST_STEM].decode(errors="ignore")
        is_unique = [other.title for other in sections].count(section.title) == 1 and cut == whole
        stem = whole if is_unique else f"{cut}-{section.first_hash}"
        figures = {
            "curves": learning_curves(section),
            "length": score_by_length(section),
            "reliability": reliability(section),
        }
        for name, figure in figures.items():
            if figure is not None:
                path = folder / f"{stem}-{name}.png"
                with replacing(path) as temporary:
                    figure.savefig(temporary, format="png", dpi=150)
                plt.close(figure)
                paths.append(path)
    return paths


def learning_curves(section: Section) -> Figure:
    """The headline metric over the epochs, with a band of one standard deviation over seeds."""
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    for group, color in zip(section.groups, _colors(section), strict=True):
        epochs = [entry["epoch"] for entry in group.first["epochs"]]
        curves = np.array(
            [
                [100 * entry[f"eval_{section.metric}"] for entry in result["epochs"]]
                for result in group.results.values()
                if len(result["epochs"]) == len(epochs)
            ]
        )
        mean = curves.mean(axis=0)
        axes.plot(epochs, mean, label=f"{group.label} (n={len(curves)})", linewidth=1.3, color=color)
        if len(curves) > 1:
            deviation = curves.std(axis=0, ddof=1)
            axes.fill_between(epochs, mean - deviation, mean + deviation, alpha=0.15, color=color, lw=0)
    axes.set(xlabel="epoch", ylabel=f"{section.metric} (%)")
    _finish(figure, axes, section)
    return figure


def score_by_length(section: Section) -> Figure | None:
    """The last epoch's score against the epochs in a mini-generation (the paper's Figure 2), where several were run."""
    by_method: dict[str, list[Group]] = {}
    for group in section.groups:
        options = dict(group.first["config"]["method"])
        # One line for each set of the other options.
        if options.pop(LENGTH_OPTION, None) is not None:
            by_method.setdefault(json.dumps(options, sort_keys=True), []).append(group)
    by_method = {
        name: groups
        for name, groups in by_method.items()
        if len({group.first["config"]["method"][LENGTH_OPTION] for group in groups}) > 1
    }
    if not by_method:
        return None
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    for groups in by_method.values():
        name = re.sub(rf"(, )?{LENGTH_OPTION}=\d+|\(\)", "", groups[0].label).strip()
        groups = sorted(groups, key=lambda group: group.first["config"]["method"][LENGTH_OPTION])
        lengths = [group.first["config"]["method"][LENGTH_OPTION] for group in groups]
        spreads = [mean_and_std(list(group.scores(f"eval_{section.metric}").values())) for group in groups]
        means = [100 * mean for mean, _ in spreads]
        deviations = [0.0 if np.isnan(deviation) else 100 * deviation for _, deviation in spreads]
        axes.errorbar(lengths, means, yerr=deviations, marker="o", capsize=3, label=name)
    if section.baseline is not None:
        mean, _ = mean_and_std(list(section.baseline.scores(f"eval_{section.metric}").values()))
        axes.axhline(100 * mean, linestyle="--", color="grey", label="vanilla")
    axes.set(xlabel="epochs in a mini-generation", ylabel=f"{section.metric} (%), last epoch")
    _finish(figure, axes, section)
    return figure


def reliability(section: Section) -> Figure | None:
    """Accuracy against confidence in ten bins, over all seeds, from the last epoch's predictions."""
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    drawn = False
    for group, color in zip(section.groups, _colors(section), strict=True):
        paths = [folder / PREDICTIONS_NAME for folder in group.folders.values()]
        paths = [path for path in paths if path.exists()]
        if paths and "eval_ece" in group.first["last_epoch"]:
            confidence, accuracy = reliability_points(paths)
            axes.plot(confidence, accuracy, marker=".", label=group.label, linewidth=1.0, color=color)
            drawn = True
    if not drawn:
        plt.close(figure)
        return None
    limits = axes.get_xlim()[0], 1.0
    axes.plot(limits, limits, linestyle="--", color="grey", linewidth=0.8)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=limits)
    _finish(figure, axes, section)
    return figure


def reliability_points(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Mean confidence and accuracy of each occupied bin of confidence, over the predictions in several files."""
    confidences, correct = [], []
    for path in paths:
        with np.load(path) as arrays:
            probabilities = softmax(arrays["logits"].astype(np.float64), axis=-1)
            confidences.append(probabilities.max(axis=-1))
            correct.append(probabilities.argmax(axis=-1) == arrays["labels"])
    confidence, hits = np.concatenate(confidences), np.concatenate(correct)
    bins = confidence_bins(confidence, NUM_BINS)
    counts = np.bincount(bins, minlength=NUM_BINS)
    used = counts > 0
    sums = [np.bincount(bins, weights=values, minlength=NUM_BINS) for values in (confidence, hits)]
    return sums[0][used] / counts[used], sums[1][used] / counts[used]


def _colors(section: Section) -> list:
    """Black for the baseline, and a colour of its own for each other group."""
    palette = plt.get_cmap("turbo")(np.linspace(0.05, 0.95, len(section.groups)))
    others = iter(palette)
    return ["black" if group is section.baseline else next(others) for group in section.groups]


def _finish(figure: Figure, axes, section: Section) -> None:
    axes.set_title(section.title, fontsize=9)
    figure.legend(fontsize=7, loc="outside right center")
    axes.grid(alpha=0.3)
