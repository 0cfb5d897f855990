"""Figures for papers and READMEs; the page draws its own."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..history import History
from ..measures import suspicion_window


def data_map(table: pd.DataFrame) -> Figure:
    """Confidence over variability, coloured by correctness.

    Source: Swayamdipta et al., "Dataset Cartography", EMNLP 2020, arXiv 2009.10795, Figure 1.

    Args:
        table: What `statistics` returned.
    """
    known = table[table["suspicion"].notna()]
    figure = Figure(figsize=(6, 5))
    axes = figure.add_subplot()
    shown = axes.scatter(
        known["variability"], known["confidence"], c=known["correctness"] / known["epochs_seen"], s=6, cmap="coolwarm_r"
    )
    figure.colorbar(shown, label="share of epochs with the given label as answer")
    axes.set(xlabel="variability", ylabel="confidence", ylim=(-0.02, 1.02))
    return figure


def learning_curves(history: History, table: pd.DataFrame) -> Figure:
    """Mean probability of the given label over the epochs: of the most suspicious tenth, and of the others.

    Args:
        history: The recorded run.
        table: What `statistics` returned of it.
    """
    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    bound = table["suspicion"].quantile(0.9)
    epochs = np.arange(1, history.num_epochs + 1)
    for name, members in (
        ("the most suspicious 10 %", table["suspicion"] >= bound),
        ("the others", table["suspicion"] < bound),
    ):
        if members.any():
            axes.plot(epochs, np.nanmean(history.given_probabilities[:, members], axis=1), label=name)
    first, last = suspicion_window(history)
    axes.axvspan(first - 0.5, last + 0.5, alpha=0.1, label="epochs that suspicion looks at")
    axes.set(xlabel="epoch", ylabel="mean probability of the given label", ylim=(0, 1))
    axes.legend()
    return figure
