"""The page: a template, the data, and the plotting library, in one file that loads nothing."""

import base64
import json
import re
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs

from ...calibration import confidence_bins
from ..history import History
from ..measures import mean_probabilities, suspicion_window

# Probabilities over the epochs are kept in so many steps; the page draws them 20 pixels high.
STEPS = 255
BINS = 10
LEAST_IN_BIN = 10


def page(history: History, table: pd.DataFrame, mini_generation_epochs: int | None = None) -> str:
    """The content of `report.html`.

    Args:
        history: The recorded run.
        table: What `statistics` returned of it.
        mini_generation_epochs: E of LSTSD, to show what its two teachers said; `None` for other methods.
    """
    template = files(__package__).joinpath("template.html").read_text(encoding="utf-8")
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    data = _data(history, table) | {"mini_generation_epochs": mini_generation_epochs}
    parts = {"STYLE": style, "DATA": _as_script(data), "PLOTLY": get_plotlyjs(), "SCRIPT": script}
    # In one go: a text of the data may look like the place of another part.
    return re.sub(r"/\*([A-Z]+)\*/", lambda match: parts[match[1]], template)


def _as_script(data: Any) -> str:
    """JSON that cannot end the script element that it stands in, whatever the texts are."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(history: History, table: pd.DataFrame) -> dict[str, Any]:
    known = table[table["suspicion"].notna()].sort_values("suspicion", ascending=False, kind="stable")
    rows = known["index"].to_numpy()
    given = history.given_probabilities[:, rows].T
    # 0 is "not seen".
    steps = np.where(np.isnan(given), 0, 1 + np.round(np.nan_to_num(given) * (STEPS - 1))).astype(np.uint8)
    num_labels = history.log_probs.shape[-1]
    names = history.label_names or [str(label) for label in range(num_labels)]
    first, last = suspicion_window(history)
    numbers = {
        name: [round(float(value), 4) for value in known[name]]
        for name in ("suspicion", "confidence", "variability", "aum")
    }
    whole = {
        name: known[name].astype(int).tolist()
        for name in ("index", "given", "believed", "correctness", "forgetting", "first_learned", "epochs_seen")
    }
    # Log-probabilities may be -inf, which JSON has no word for.
    numbers["aum"] = [value if np.isfinite(value) else (-1e4 if value < 0 else 1e4) for value in numbers["aum"]]
    return {
        "epochs": history.num_epochs,
        "window": [first, last],
        "out_of_sample": history.out_of_sample,
        "labels": names,
        "columns": whole | numbers,
        "texts": known["text"].fillna("").tolist() if "text" in known else [""] * len(known),
        "courses": base64.b64encode(steps.tobytes()).decode(),
        "curves": _curves(history, known),
        "reliability": _reliability(history.epochs(first, last), rows),
        "confusion": np.histogram2d(
            known["given"], known["believed"], bins=(range(num_labels + 1), range(num_labels + 1))
        )[0]
        .astype(int)
        .tolist(),
    }


def _curves(history: History, known: pd.DataFrame) -> dict[str, list[float | None]]:
    """By group: the mean probability of the given label in each epoch."""
    bound = known["suspicion"].quantile(0.9)
    groups = {
        "most suspicious 10 %": known[known["suspicion"] >= bound],
        "others": known[known["suspicion"] < bound],
    }
    curves = {}
    for name, group in groups.items():
        values = history.given_probabilities[:, group["index"].to_numpy()]
        counts = (~np.isnan(values)).sum(axis=1)
        means = np.nansum(values, axis=1) / np.maximum(counts, 1)
        curves[name] = [round(float(mean), 4) if count else None for mean, count in zip(means, counts, strict=True)]
    return curves


def _reliability(history: History, rows: np.ndarray) -> list[list[float]]:
    """A calibration curve: for each bin of the largest mean probability that has enough examples.

    Returns:
        The mean of it, the share of answers equal to the given label, and the number of examples.
    """
    mean = mean_probabilities(history)[rows]
    sure, right = mean.max(axis=1), mean.argmax(axis=1) == history.given[rows]
    bins = confidence_bins(sure, BINS)
    return [
        [round(float(sure[bins == b].mean()), 4), round(float(right[bins == b].mean()), 4), int((bins == b).sum())]
        for b in range(BINS)
        if (bins == b).sum() >= LEAST_IN_BIN
    ]
