"""What a recorded run says of each training example: one vectorised function for each statistic.

Arrays have the shape `(num_examples,)`. An epoch that did not see an example counts for nothing there. An example
without a class as label, or that no epoch saw, has NaN, or -1 where the values are whole numbers.
"""

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd

from ..errors import InputError
from .history import History

EARLIEST, WINDOW_LENGTH = 2, 3
# Standard errors by which labels must be believed more than by chance.
LEARNED = 5.0


def suspicion_window(history: History) -> tuple[int, int]:
    """The epochs that `suspicion` looks at: three, from the first one on that has learned anything, but not epoch 1.

    An epoch has learned something if it gives examples their label with more probability than it gives that label to
    all examples: the mean difference is more than 5 standard errors. Mostly epoch 2 has, and the window is 2 to 4; a
    slow run has a later one. A run of one epoch has that. Where none has learned anything, it is 2 to 4.

    Returns:
        Numbers of the first and the last epoch, from 1.
    """
    first = min(EARLIEST, history.num_epochs)
    learned = (epoch for epoch in range(first, history.num_epochs + 1) if _learned(history.epochs(epoch, epoch)))
    first = next(learned, first)
    return first, min(first + WINDOW_LENGTH - 1, history.num_epochs)


def suspicion(history: History) -> np.ndarray:
    """1 - mean probability of the given label over an early window: how little it is believed, from 0 to 1.

    NaN where no epoch of the window saw an example.

    Early, because a long run learns its wrong labels. In 30 epochs of plain training on frozen MiniLM features with
    20 % of the labels replaced (docs/results.md, 5 seeds), epochs 2 to 4 found these as well as the model of a 3-epoch
    run made for the purpose: ROC-AUC 88.5 and 88.7 (SST-2), 72.8 and 72.6 (MRPC), 73.3 and 73.2 (CoLA). The mean over
    all epochs had 83.1, 66.3 and 64.7, the last epoch 68.0, 58.6 and 58.8. With 40 % replaced, epochs 1 to 3 were
    better.

    The predictions are in-sample from the second epoch on: they rank labels, but are too sure of themselves.

    Examples:
        >>> history = History(np.log(np.array([[[0.5, 0.5]], [[0.8, 0.2]], [[0.6, 0.4]]])), np.array([1]))
        >>> suspicion(history).round(2).tolist()
        [0.7]
    """
    return 1.0 - confidence(history.epochs(*suspicion_window(history)))


def confidence(history: History) -> np.ndarray:
    """Mean probability of the given label over the epochs.

    Source: Swayamdipta et al., "Dataset Cartography", EMNLP 2020, arXiv 2009.10795, Sec. 2.
    """
    return _nan_reduced(np.nanmean, history.given_probabilities)


def variability(history: History) -> np.ndarray:
    """Standard deviation (of the population) of the probability of the given label over the epochs.

    Source: Swayamdipta et al., "Dataset Cartography", EMNLP 2020, arXiv 2009.10795, Sec. 2.
    """
    return _nan_reduced(np.nanstd, history.given_probabilities)


def correctness(history: History) -> np.ndarray:
    """In how many epochs the given label was the most probable one; -1 without a label.

    Source: Swayamdipta et al., "Dataset Cartography", EMNLP 2020, arXiv 2009.10795, Sec. 2.
    """
    return _counted(history, _is_correct(history).sum(axis=0))


def aum(history: History) -> np.ndarray:
    """Area under the margin: mean over the epochs of log p(given) - log p(largest other).

    The first epoch is left out, as in the authors' replication, unless it is the only one.

    Source: Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS 2020,
    arXiv 2001.10528, Eq. 1-2.
    """
    later = history.epochs(min(2, history.num_epochs), history.num_epochs)
    return _nan_reduced(np.nanmean, _margins(later.log_probs, later))


def forgetting(history: History) -> np.ndarray:
    """How often the answer went from right to wrong between two epochs that saw the example.

    An example that was never right has the number of epochs that saw it, more than any other; -1 without a label.

    Source: Toneva et al., "An Empirical Study of Example Forgetting", ICLR 2019, arXiv 1812.05159, Sec. 3.
    """
    correct, seen = _is_correct(history), history.seen
    events = np.zeros(correct.shape[1], dtype=np.int64)
    before = np.zeros(correct.shape[1], dtype=bool)
    for epoch in range(history.num_epochs):
        events += seen[epoch] & before & ~correct[epoch]
        before = np.where(seen[epoch], correct[epoch], before)
    return _counted(history, np.where(correct.any(axis=0), events, seen.sum(axis=0)))


def first_learned(history: History) -> np.ndarray:
    """Number of the first epoch (from 1) whose answer was right; 0 if none was, -1 without a label."""
    correct = _is_correct(history)
    return _counted(history, np.where(correct.any(axis=0), correct.argmax(axis=0) + 1, 0))


def last_wrong(history: History) -> np.ndarray:
    """Number of the last epoch (from 1) whose answer was wrong; 0 if none was, -1 without a label."""
    wrong = history.seen & ~_is_correct(history)
    last = history.num_epochs - wrong[::-1].argmax(axis=0)
    return _counted(history, np.where(wrong.any(axis=0), last, 0))


def normalized_margin(history: History) -> np.ndarray:
    """(p(given) - p(largest other) + 1) / 2 of the mean probabilities, from 0 (suspicious) to 1.

    Source: Northcutt et al., "Confident Learning", JAIR 2021, arXiv 1911.00068, Sec. 4; as in cleanlab.
    """
    return (_margins(mean_probabilities(history), history) + 1.0) / 2.0


def confidence_weighted_entropy(history: History) -> np.ndarray:
    """log(1 + x) / x with x = (entropy / log C) / p(given) of the mean probabilities; low is suspicious.

    Source: Kuan & Mueller, "Model-agnostic label quality scoring to detect real-world label errors", DataPerf at ICML
    2022; as in cleanlab.
    """
    mean = mean_probabilities(history)
    own = history.of_given(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(mean > 0, mean * np.log(np.maximum(mean, np.finfo(mean.dtype).tiny)), mean * 0).sum(axis=-1)
        x = entropy / np.log(mean.shape[-1]) / np.maximum(own, np.finfo(mean.dtype).tiny)
        return np.where(x > 0, np.log1p(x) / np.where(x > 0, x, 1.0), np.where(np.isnan(x), np.nan, 1.0))


def mean_probabilities(history: History) -> np.ndarray:
    """Mean probabilities over the epochs, `(num_examples, num_labels)`; NaN where no epoch saw an example."""
    return _nan_reduced(np.nanmean, np.exp(history.log_probs))


def confident_joint(history: History) -> np.ndarray:
    """How many examples of each given label (rows) confidently have each label (columns), `(num_labels, num_labels)`.

    An example confidently has label j if p(j) is at least the mean p(j) of the examples labelled j; of several, the one
    with the largest p. A label that no example has is nobody's. Meant for predictions that are out of sample.

    Source: Northcutt et al., "Confident Learning", JAIR 2021, arXiv 1911.00068, Eq. 1.
    """
    confident, known = confident_labels(history), history.is_labelled
    joint = np.zeros((history.log_probs.shape[-1],) * 2, dtype=np.int64)
    rows = np.flatnonzero(known & (confident >= 0))
    np.add.at(joint, (history.given[rows], confident[rows]), 1)
    return joint


def estimated_label_errors(history: History) -> int:
    """How many labels the confident joint takes for wrong: its examples off the diagonal, in an early window."""
    joint = confident_joint(history.epochs(*suspicion_window(history)))
    return int(joint.sum() - np.trace(joint))


def confident_labels(history: History) -> np.ndarray:
    """The label that an example confidently has, see `confident_joint`; -1 for none."""
    mean, known = mean_probabilities(history), history.is_labelled
    known = known & ~np.isnan(mean[:, 0])
    num_labels = mean.shape[1]
    thresholds = np.full(num_labels, np.inf)
    for label in range(num_labels):
        members = known & (history.given == label)
        if members.any():
            thresholds[label] = mean[members, label].mean()
    # As cleanlab does, so that rounding excludes nobody.
    above = np.where(mean >= thresholds - 1e-6, mean, -np.inf)
    return np.where(known & np.isfinite(above.max(axis=1)), above.argmax(axis=1), -1)


STATISTICS: dict[str, Callable[[History], np.ndarray]] = {
    "suspicion": suspicion,
    "confidence": confidence,
    "variability": variability,
    "correctness": correctness,
    "aum": aum,
    "forgetting": forgetting,
    "first_learned": first_learned,
    "last_wrong": last_wrong,
}


def statistics(history: History) -> pd.DataFrame:
    """All statistics of a recorded run, a row for each training example.

    Args:
        history: The run.

    Returns:
        Columns `index`, `text`, `given`, `believed` (the most probable label over the window of `suspicion`), those of
        `STATISTICS`, and `epochs_seen`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="vanilla", record_dynamics=True)
        >>> _ = trainer.train()
        >>> table = statistics(History.read(trainer.dynamics_folder))
        >>> table.sort_values("suspicion", ascending=False)["index"].tolist() != []
        True
    """
    window = history.epochs(*suspicion_window(history))
    mean = mean_probabilities(window)
    table = pd.DataFrame({"index": np.arange(len(history.given))})
    if history.texts is not None:
        table["text"] = history.texts
    table["given"] = np.where(history.is_labelled, history.given, -1)
    table["believed"] = np.where(np.isnan(mean[:, 0]), -1, np.nan_to_num(mean, nan=-1.0).argmax(axis=1))
    for name, statistic in STATISTICS.items():
        table[name] = statistic(history)
    table["epochs_seen"] = history.seen.sum(axis=0)
    return table


def threshold_rows(labels: np.ndarray, num_labels: int, seed: int = 0) -> np.ndarray:
    """Rows to give an artificial extra label, by whose margins `aum_suspects` tells what a wrong label looks like.

    Two runs with seeds 2k and 2k + 1 have disjoint rows, so that together they judge every example.

    Source: Pleiss et al., arXiv 2001.10528, Sec. 4: num_examples / (num_labels + 1) rows.

    Args:
        labels: Given labels `(num_examples,)`.
        num_labels: Labels without the extra one, whose index is `num_labels`.
        seed: Which rows.

    Examples:
        >>> len(threshold_rows(np.zeros(90), num_labels=2))
        30
    """
    count = len(labels) // (num_labels + 1)
    order = np.random.default_rng(seed // 2).permutation(len(labels))
    start = count * (seed % 2)
    return np.sort(order[start : start + count])


def aum_suspects(history: History, rows: np.ndarray, percentile: float = 99.0) -> np.ndarray:
    """Examples whose margin is below that of almost all threshold samples, bool `(num_examples,)`.

    Source: Pleiss et al., arXiv 2001.10528, Sec. 4.

    Args:
        history: A run in which the threshold samples had an extra label.
        rows: The threshold samples; they are not judged.
        percentile: Of their margins; at 99 one per cent of them lie above the bound.

    Raises:
        InputError: If there are no threshold samples.
    """
    if not len(rows):
        raise InputError("`rows` must name the threshold samples, got none. Take those of `threshold_rows`.")
    values = aum(history)
    with np.errstate(invalid="ignore"):
        suspects = values < np.nanpercentile(values[rows], percentile)
    suspects[rows] = False
    return suspects


def _learned(history: History) -> bool:
    """Whether the given labels are more probable than the same labels are for all examples; of one epoch."""
    known = history.is_labelled & history.seen[0]
    if not known.any():
        return False
    probabilities = np.exp(history.log_probs[0, known]).astype(np.float64)
    gain = history.given_probabilities[0, known] - probabilities.mean(axis=0)[history.given[known]]
    # What rounding leaves is no gain.
    return bool(gain.mean() > max(LEARNED * gain.std() / np.sqrt(len(gain)), 1e-6))


def _is_correct(history: History) -> np.ndarray:
    best = np.nan_to_num(history.log_probs, nan=-np.inf).argmax(axis=-1)
    return history.seen & history.is_labelled & (best == history.given)


def _margins(values: np.ndarray, history: History) -> np.ndarray:
    """The given label's value less the largest other's, of values `(…, num_examples, num_labels)`."""
    own = np.where(history.is_labelled, history.given, 0)[:, None]
    others = values.copy()
    np.put_along_axis(others, np.broadcast_to(own, (*values.shape[:-1], 1)), -np.inf, axis=-1)
    return history.of_given(values) - others.max(axis=-1)


def _nan_reduced(reduce: Callable[..., np.ndarray], values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # A column without any value is NaN, as documented.
        warnings.simplefilter("ignore", RuntimeWarning)
        return reduce(values, axis=0, dtype=np.float64)


def _counted(history: History, counts: np.ndarray) -> np.ndarray:
    return np.where(history.is_labelled & history.seen.any(axis=0), counts, -1)
