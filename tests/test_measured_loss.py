"""What only the value of a base loss tells: kind by kind, from logits whose mean loss is known."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lstsd_hf.loss_scale import BaseLoss, term_scale
from lstsd_hf.measured_loss import measured
from lstsd_hf.problem_types import PROBLEM_TYPES

LOGITS, LABELS = torch.tensor([[1.0, -1.0], [0.5, 0.0]]), torch.tensor([0, 1])
MEAN = nn.functional.cross_entropy(LOGITS, LABELS)
SMOOTHED = nn.functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.2)
OWN, PASSED_ON = BaseLoss(processes=3), BaseLoss(is_overridden=True, processes=3)
SMOOTHING = {"smoothing": 0.2, "processes": 1}


def seen(loss, value, items=6, labels=LABELS, is_models=True):
    value = torch.as_tensor(value)
    batch = SimpleNamespace(
        student_logits=LOGITS,
        labels=labels,
        indices=torch.arange(2),
        problem_type=PROBLEM_TYPES["single_label_classification"],
    )
    return measured(loss, value, {"loss": value if is_models else value.clone(), "logits": LOGITS}, batch, items)


@pytest.mark.parametrize(
    ("loss", "value", "changes"),
    [
        (OWN, 3 * MEAN, {}),
        (OWN, 3 * MEAN * 2 / 6, {"divides_by_items": True}),
        (OWN, 0.0, {}),
        (OWN, float("nan"), {}),
        (PASSED_ON, MEAN, {}),
        (PASSED_ON, 3 * MEAN, {"is_overridden": False}),
        (PASSED_ON, 1.7 * MEAN, {}),  # class weights
        (replace(PASSED_ON, **SMOOTHING), SMOOTHED * 2 / 6, {"is_overridden": False}),
        (replace(PASSED_ON, **SMOOTHING), MEAN, {}),
        # Rounded, as a model in bf16 computes it.
        (PASSED_ON, (3 * MEAN).bfloat16(), {"is_overridden": False}),
    ],
)
def test_what_is_found(loss, value, changes):
    found = seen(loss, value)
    assert found == replace(loss, is_measured=True, **changes)
    # What was found is not looked at again.
    assert seen(found, 100 * MEAN) is found


@pytest.mark.parametrize("loss", [OWN, PASSED_ON])
@pytest.mark.parametrize(
    ("value", "items", "labels"),
    [
        (3 * MEAN, None, LABELS),
        (3 * MEAN, 6, None),
        (torch.stack([MEAN, MEAN]), 6, LABELS),  # DataParallel
        (MEAN, torch.tensor([[6], [6]]), LABELS),
    ],
)
def test_what_does_not_tell(loss, value, items, labels):
    assert seen(loss, value, items, labels) is loss


@pytest.mark.parametrize("value", [MEAN, 3 * MEAN, MEAN * 2 / 6, 3 * MEAN * 2 / 6])
def test_a_loss_of_ones_own_is_what_it_is_taken_for(value):
    """Half a squared error is no squared error that was divided."""
    assert seen(PASSED_ON, value, is_models=False) is PASSED_ON


def test_a_step_of_one_micro_batch_tells_nothing_of_others():
    assert seen(OWN, 3 * MEAN, items=2) is OWN
    smoothing = replace(PASSED_ON, **SMOOTHING)
    # The first after a resume, say.
    accumulates = replace(smoothing, accumulates=True)
    assert seen(accumulates, SMOOTHED, items=2) is accumulates
    # Without accumulation each step is one, so there is nothing to wait for.
    assert seen(smoothing, SMOOTHED, items=2).is_measured


@pytest.mark.parametrize("labels", [LABELS.int(), LABELS - 1, LABELS + 2, torch.tensor([0, -100])])
def test_labels_that_only_a_loss_of_ones_own_takes(labels):
    assert seen(PASSED_ON, 5 * MEAN, labels=labels).is_overridden


def test_the_scale_follows():
    assert term_scale(seen(PASSED_ON, MEAN), 2, 6, LABELS) == 1.0
    assert term_scale(seen(PASSED_ON, 3 * MEAN), 2, 6, LABELS) == 3.0
