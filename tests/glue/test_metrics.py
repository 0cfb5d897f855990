import math

import numpy as np
import pytest

from lstsd_hf.errors import InputError
from lstsd_hf.glue.tasks import TASKS, get_task
from lstsd_hf.runner.metrics import ClassificationMetrics, expected_calibration_error, metrics_of

LOGITS = np.log([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]])
LABELS = np.array([0, 1, 0, 1])


def test_metrics_by_hand():
    nll = -(math.log(0.9) + math.log(0.6) + math.log(0.3) + math.log(0.2)) / 4
    scores = ClassificationMetrics(TASKS["mrpc"]).compute(predictions=LOGITS, references=LABELS)
    assert scores["accuracy"] == 0.5
    assert scores["f1"] == 0.5
    assert scores["nll"] == pytest.approx(nll)
    # Each example alone in its bin: gaps 0.1, 0.4, 0.7, 0.8.
    assert scores["ece"] == pytest.approx((0.1 + 0.4 + 0.7 + 0.8) / 4)


def test_who_is_sure_and_wrong_pays_in_full():
    logits = np.array([[100.0, 0.0], [0.0, 5.0]])
    scores = ClassificationMetrics(TASKS["mrpc"]).compute(predictions=logits, references=np.array([1, 1]))
    assert scores["nll"] == pytest.approx((100.0 + math.log1p(math.exp(-5.0))) / 2)


def test_matthews_by_hand():
    logits = np.array([[0.0, 1.0]] * 3 + [[1.0, 0.0]] * 2)
    labels = np.array([1, 1, 0, 0, 1])  # TP 2, FP 1, TN 1, FN 1
    scores = ClassificationMetrics(TASKS["cola"]).compute(predictions=logits, references=labels)
    assert scores["matthews_correlation"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))
    assert list(scores) == ["matthews_correlation", "accuracy", "nll", "ece"]


def test_calibration_error_averages_within_a_bin():
    probabilities = np.array([[0.81, 0.19], [0.85, 0.15], [0.83, 0.17], [0.84, 0.16]])
    labels = np.array([0, 0, 0, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(abs(0.8325 - 0.75))


def test_calibration_error_of_certain_and_right_predictions_is_zero():
    assert expected_calibration_error(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])) == 0.0


def test_correlations_by_hand():
    scores = metrics_of(TASKS["stsb"]).compute(
        predictions=[[1.0], [2.0], [4.0], [3.0]], references=[1.0, 2.0, 3.0, 8.0]
    )
    # Deviations (-1.5, -0.5, 1.5, 0.5) and (-2.5, -1.5, -0.5, 4.5); ranks 1 2 4 3 and 1 2 3 4.
    assert scores["pearson"] == pytest.approx((3.75 + 0.75 - 0.75 + 2.25) / math.sqrt(5.0 * 29.0))
    assert scores["spearmanr"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    constant = metrics_of(TASKS["stsb"]).compute(predictions=[[1.0], [1.0]], references=[1.0, 2.0])
    assert constant == {"pearson": 0.0, "spearmanr": 0.0}


def test_a_missing_class_in_the_labels_is_no_error():
    scores = ClassificationMetrics(TASKS["rte"]).compute(predictions=LOGITS[:2], references=[0, 0])
    assert scores["accuracy"] == 0.5


@pytest.mark.parametrize("name", ["rte", "stsb"])
def test_a_diverged_model_is_not_scored(name):
    task = get_task(name)
    outputs = np.zeros((3, task.num_outputs))
    outputs[1, 0] = np.nan
    with pytest.raises(InputError, match="The model's outputs must be finite to be scored, got NaN"):
        metrics_of(task).compute(predictions=outputs, references=[0, 1, 1])
