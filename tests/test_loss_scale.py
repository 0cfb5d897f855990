"""The scaling table, row by row."""

import pytest
import torch

from lstsd_hf.loss_scale import BaseLoss, log_divisor, term_scale

B, N, W, G = 4, 10, 3, 5
LABELS = torch.tensor([0, 1, 1, -100, 0])  # B of them count

# By row of the table: what it says of the term, and by what Trainer divides the loss for its log.
ROWS = {
    "own": (BaseLoss(processes=W), W, 1),
    "own, divides by N": (BaseLoss(divides_by_items=True, processes=W), B / N * W, 1),
    "own, no kwargs": (BaseLoss(counts_items=False, processes=W), W, G),
    "smoothing, no kwargs": (BaseLoss(smoothing=0.1, counts_items=False, processes=1), None, G),
    "compute_loss_func": (BaseLoss(is_function=True, processes=W), B / N * W, 1),
    "overridden": (BaseLoss(is_overridden=True, processes=W), 1.0, 1),
    "overridden, no kwargs": (BaseLoss(is_overridden=True, counts_items=False, processes=W), 1.0, G),
    "overridden, scaled": (BaseLoss(is_overridden=True, is_scaled=True, processes=W), B / N, 1),
    "overridden, not scaled": (BaseLoss(is_overridden=True, is_scaled=False, processes=W), 1.0, G),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row(row):
    loss, scale, divisor = ROWS[row]
    if scale is not None:
        assert float(term_scale(loss, len(LABELS), torch.tensor(N), LABELS)) == pytest.approx(scale)
    assert log_divisor(loss, torch.tensor(N), G) == divisor


@pytest.mark.parametrize(("divides", "expected"), [(True, B / N * W), (False, W)])
def test_smoothing_by_the_version_of_transformers(monkeypatch, divides, expected):
    monkeypatch.setattr("lstsd_hf.loss_scale.smoothing_divides_by_items", lambda: divides)
    loss = BaseLoss(smoothing=0.1, processes=W)
    assert float(term_scale(loss, len(LABELS), N, LABELS)) == pytest.approx(expected)


@pytest.mark.parametrize("loss", [row[0] for row in ROWS.values()])
def test_without_a_count_a_mean_is_a_mean(loss):
    """As where the model takes no `**kwargs`: Trainer then divides base loss and terms alike."""
    assert term_scale(loss, B, None, LABELS) == 1.0


def test_examples_count_where_there_are_no_labels():
    assert term_scale(BaseLoss(is_function=True), B, N) == B / N
