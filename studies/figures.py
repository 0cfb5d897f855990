"""The figures of docs/results.md. Each carries a digest of the numbers that it shows."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .analysis import NAMES, by_length, cells, majority, mlp_cells, score, shared_seeds
from .judgement import scores_by_length

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "figures"
MAJORITY = "majority class"
STYLES = {
    "vanilla": ("black", "-"),
    "vanilla-short": ("black", ":"),
    "vanilla-tuned": ("black", "--"),
    "lstsd": ("#d1495b", "-"),
    "lstsd-tuned": ("#d1495b", "--"),
    "anchored": ("#d1495b", "-."),
    "temporal_ensemble-6.4": ("#00798c", "-"),
    "label_smoothing": ("#edae49", "-"),
    MAJORITY: ("gray", (0, (1, 3))),
}
# A line: its name in `STYLES`, x, mean and standard deviation over seeds.
Line = tuple[str, list[float], list[float], list[float]]
Panel = tuple[str, list[Line]]


def noise_panels() -> list[Panel]:
    """The score of each method against the noise, a panel for each task."""
    found = mlp_cells()
    panels = []
    for task in dict.fromkeys(cell.task for cell in found):
        of_task = [cell for cell in found if cell.task == task]
        lines = []
        for name in [name for name in STYLES if any(name in cell.groups for cell in of_task)]:
            used = [cell for cell in of_task if name in cell.groups]
            values = [list(score(cell, cell.groups[name]).values()) for cell in used]
            lines.append((name, [100 * cell.rate for cell in used], *spreads(values)))
        lines.append(constant(of_task[0].task, [100 * cell.rate for cell in of_task]))
        panels.append((of_task[0].name, lines))
    return panels


def course_panels() -> list[Panel]:
    """The score after each epoch, a panel for each task, with a fifth of the labels replaced."""
    panels = []
    for cell in [cell for cell in cells("mlp") if cell.rate == 0.2]:
        lines = []
        for name in [name for name in STYLES if name in cell.groups]:
            courses = [result["epochs"] for result in cell.groups[name].results.values()]
            values = zip(*[[100 * epoch[f"eval_{cell.metric}"] for epoch in course] for course in courses], strict=True)
            lines.append((name, [epoch["epoch"] for epoch in courses[0]], *spreads([list(item) for item in values])))
        lines.append(constant(cell.task, lines[0][1]))
        panels.append((cell.name, lines))
    return panels


def length_panels() -> list[Panel]:
    """The score against the epochs in a mini-generation: the paper's Figure 2, a panel for each task."""
    panels = []
    for cell in [cell for cell in cells("mlp") if cell.rate == 0.2]:
        groups = by_length(cell)
        values = [[score(cell, group)[seed] for seed in shared_seeds(groups)] for group in groups.values()]
        lines = [("lstsd", list(map(float, groups)), *spreads(values))]
        if "vanilla" in cell.groups and groups:
            plain = [score(cell, cell.groups["vanilla"])[seed] for seed in shared_seeds(groups)]
            ends = [float(min(groups)), float(max(groups))]
            lines.append(("vanilla", ends, *spreads([plain, plain])))
        panels.append((cell.name, lines))
    return panels


def duration_panels() -> list[Panel]:
    """The score against the epochs of the run, with `anchored` and without; a panel for each task."""
    return [
        (cell, [(name, list(map(float, scores)), *spreads(list(scores.values()))) for name, scores in methods.items()])
        for cell, methods in scores_by_length().items()
    ]


def constant(task: str, x: list[float]) -> Line:
    """The score of a constant answer."""
    return MAJORITY, x, [round(majority(task), 3)] * len(x), [0.0] * len(x)


def spreads(values: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Means and standard deviations, rounded so that a digest of them is the same everywhere."""
    means = [round(float(np.mean(item)), 3) for item in values]
    return means, [round(float(np.std(item, ddof=1)), 3) if len(item) > 1 else 0.0 for item in values]


FIGURES: dict[str, tuple[Callable[[], list[Panel]], str, str]] = {
    "noise": (noise_panels, "labels replaced (%)", "last epoch"),
    "course": (course_panels, "epoch", ""),
    "duration": (duration_panels, "epochs of the run", "last epoch"),
    "length": (length_panels, "epochs in a mini-generation (E)", "last epoch"),
}


def digest(panels: list[Panel]) -> str:
    """Of the numbers that a figure shows."""
    return hashlib.sha256(json.dumps(panels).encode()).hexdigest()


def stale() -> list[Path]:
    """Figures that are missing or show other numbers."""
    found = []
    for name, (panels_of, _, _) in FIGURES.items():
        path, panels = FOLDER / f"{name}.png", panels_of()
        if panels and (not path.exists() or Image.open(path).text.get("Description") != digest(panels)):
            found.append(path)
    return found


def draw() -> None:
    """Draws the figures that are stale."""
    matplotlib.use("Agg")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in stale():
        panels_of, x_label, y_note = FIGURES[path.stem]
        panels = panels_of()
        figure = drawn(panels, x_label, y_note)
        figure.savefig(path, dpi=110, metadata={"Description": digest(panels), "Software": None})
        plt.close(figure)


def drawn(panels: list[Panel], x_label: str, y_note: str) -> Figure:
    """The panels side by side, with a band of one standard deviation."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.3), layout="constrained", squeeze=False)
    for ax, (title, lines) in zip(axes[0], panels, strict=True):
        for name, x, means, deviations in lines:
            color, style = STYLES[name]
            marker = "o" if len(x) < 15 and name in NAMES else None
            ax.plot(
                x,
                means,
                linestyle=style,
                color=color,
                label=NAMES.get(name, name),
                marker=marker,
                markersize=3,
                linewidth=1.4,
            )
            low, high = np.array(means) - deviations, np.array(means) + deviations
            ax.fill_between(x, low, high, color=color, alpha=0.1, linewidth=0)
        unit = "Matthews corr. × 100" if title.startswith("CoLA") else "accuracy (%)"
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(x_label, fontsize=8)
        ax.set_ylabel(f"{unit}{', ' if y_note else ''}{y_note}", fontsize=8)
        ax.tick_params(labelsize=7)
        if len(lines[0][1]) < 15:
            ax.set_xticks(lines[0][1])
        ax.grid(alpha=0.3)
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=8, loc="outside lower center", ncols=min(6, len(handles)))
    return figure
