"""What the statistics say of a history."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstsd_hf.dynamics import History, measures, statistics, to_cleanlab
from lstsd_hf.errors import InputError
from tests.helpers import HAND, history_of


def test_statistics_by_hand():
    nan = math.nan

    def same(found, wanted):
        np.testing.assert_allclose(found, wanted, atol=1e-6)

    same(measures.suspicion(HAND), [1 - 1.7 / 3, 0.9, 0.1, 1 - 0.45, nan, nan])
    same(measures.confidence(HAND), [0.56, 0.1, 0.9, 1.6 / 3, nan, nan])
    spread = math.sqrt(sum((value - 0.56) ** 2 for value in (0.2, 0.6, 0.3, 0.8, 0.9)) / 5)
    gap = math.sqrt(sum((value - 1.6 / 3) ** 2 for value in (0.6, 0.3, 0.7)) / 3)
    same(measures.variability(HAND), [spread, 0, 0, gap, nan, nan])
    same(measures.correctness(HAND), [3, 0, 5, 2, -1, -1])
    same(measures.forgetting(HAND), [1, 5, 0, 1, -1, -1])
    same(measures.first_learned(HAND), [2, 0, 1, 2, -1, -1])
    same(measures.last_wrong(HAND), [3, 5, 0, 4, -1, -1])
    margins = [math.log(value / (1 - value)) for value in (0.6, 0.3, 0.8, 0.9)]
    gaps = [math.log(value / (1 - value)) for value in (0.6, 0.3, 0.7)]
    same(measures.aum(HAND), [sum(margins) / 4, -math.log(9), math.log(9), sum(gaps) / 3, nan, nan])
    same(measures.normalized_margin(HAND), [0.56, 0.1, 0.9, 1.6 / 3, nan, nan])
    # Thresholds: the mean of label 0 over its examples is (0.1 + 0.9) / 2, of label 1 (0.56 + 0.533) / 2.
    assert measures.confident_labels(HAND).tolist() == [1, 1, 0, -1, -1, -1]
    assert measures.confident_joint(HAND).tolist() == [[1, 1], [0, 1]]
    table = statistics(HAND)
    assert table["believed"].tolist() == [1, 1, 0, 0, 1, -1]
    assert table["epochs_seen"].tolist() == [5, 5, 5, 3, 5, 0]


def test_a_label_that_no_example_has():
    history = History(np.log(np.full((2, 3, 3), 1 / 3)), np.array([0, 1, 1]))
    assert measures.confident_joint(history)[2].tolist() == [0, 0, 0]
    assert measures.confident_joint(history).sum() == 3


@pytest.mark.parametrize(("epochs", "window"), [(1, (1, 1)), (2, (2, 2)), (3, (2, 3)), (4, (2, 4)), (30, (2, 4))])
def test_the_window_of_a_short_run(epochs, window):
    history = history_of([[0.5] * epochs], [1])
    assert measures.suspicion_window(history) == window


@pytest.mark.parametrize(
    ("knows_from", "window"), [(1, (2, 4)), (2, (2, 4)), (3, (3, 5)), (6, (6, 8)), (9, (9, 10)), (99, (2, 4))]
)
def test_the_window_waits_until_something_is_learned(knows_from, window):
    """Before, an epoch may be sure of itself, and of one label in particular."""
    random, given = np.random.default_rng(0), np.arange(200) % 2
    ones = random.uniform(0.5, 0.9, (10, 200))
    for epoch in range(10):
        if epoch + 1 >= knows_from:
            ones[epoch] += np.where(given == 1, 0.08, -0.08)
    history = History(np.log(np.stack([1 - ones, ones], axis=-1)), given)
    assert measures.suspicion_window(history) == window
    # Rows that were not seen, or have no label, say nothing.
    rows = np.arange(200)
    partly = np.where((rows < 50)[:, None], np.nan, history.log_probs)
    assert measures.suspicion_window(History(partly, np.where(rows < 150, given, -1))) == window


def test_a_perfect_epoch_has_learned():
    history = history_of([[0.5, 0.5, 1 - 1e-9], [0.5, 0.5, 1e-9]], [1, 0])
    assert measures.suspicion_window(history) == (3, 3)


def naive(history):
    """The published definitions, one example at a time."""
    for row, label in enumerate(history.given):
        seen = [np.exp(epoch[row]) for epoch in history.log_probs if not np.isnan(epoch[row][0])]
        own = [float(values[label]) for values in seen]
        right = [int(values.argmax()) == label for values in seen]
        yield {
            "confidence": sum(own) / len(own),
            "variability": math.sqrt(sum((value - sum(own) / len(own)) ** 2 for value in own) / len(own)),
            "correctness": sum(right),
            "forgetting": sum(a and not b for a, b in itertools.pairwise(right)) if any(right) else len(own),
        }


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 6), st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**31), st.floats(0, 0.8), st.floats(0.1, 5)
)
def test_statistics_are_those_of_a_naive_loop(epochs, examples, labels, seed, gaps, scale):
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.normal(size=(epochs, examples, labels)) * scale)
    log_probs = logits.log_softmax(-1).numpy()
    # The last epoch sees all.
    log_probs[:-1][random.random((epochs - 1, examples)) < gaps] = np.nan
    history = History(log_probs, random.integers(0, labels, examples))
    table = statistics(history)
    for row, wanted in enumerate(naive(history)):
        for name, value in wanted.items():
            assert table[name][row] == pytest.approx(value, abs=1e-9), name
    assert table["suspicion"].dropna().between(0, 1).all()
    assert (table["first_learned"] <= epochs).all()
    assert ((table["last_wrong"] == 0) == (table["correctness"] == table["epochs_seen"])).all()


@pytest.mark.filterwarnings("ignore::lstsd_hf.dynamics.InSampleWarning")
def test_cleanlab_agrees():
    cleanlab_rank = pytest.importorskip("cleanlab.rank")
    from cleanlab.count import compute_confident_joint

    random = np.random.default_rng(0)
    log_probs = torch.tensor(random.normal(size=(1, 200, 3))).log_softmax(-1).numpy()
    history = History(log_probs, np.concatenate([[0, 1, 2], random.integers(0, 3, 197)]))
    arguments = to_cleanlab(history)
    joint = compute_confident_joint(**arguments, calibrate=False)
    # cleanlab puts at least 1 into each diagonal entry.
    assert joint.tolist() == measures.confident_joint(history).tolist()
    for ours, theirs in (
        (measures.confidence, cleanlab_rank.get_self_confidence_for_each_label),
        (measures.normalized_margin, cleanlab_rank.get_normalized_margin_for_each_label),
        (measures.confidence_weighted_entropy, cleanlab_rank.get_confidence_weighted_entropy_for_each_label),
    ):
        np.testing.assert_allclose(ours(history), theirs(**arguments), rtol=1e-6, atol=1e-9)


def test_threshold_samples():
    first, second = (measures.threshold_rows(np.zeros(90), 2, seed) for seed in (0, 1))
    assert len(first) == len(second) == 30
    assert not set(first) & set(second)
    history = history_of([[0.5, 0.9], [0.5, 0.2], [0.5, 0.4], [0.5, 0.3]], [1, 1, 1, 1])
    assert measures.aum_suspects(history, np.array([2, 3]), percentile=50).tolist() == [False, True, False, False]
    with pytest.raises(InputError, match="`rows` must name the threshold samples, got none"):
        measures.aum_suspects(history, np.array([], dtype=int))
