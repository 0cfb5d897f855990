"""The metrics of a run, from logits: GLUE's own by scikit-learn, and calibration beside them."""

from collections.abc import Callable

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef

from .tasks import GlueTask

GLUE_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews_correlation": matthews_corrcoef,
}


class ClassificationMetrics(evaluate.Metric):
    """GLUE's metrics of a task, negative log-likelihood (nats) and expected calibration error, from logits.

    Unlike `evaluate.load("glue", …)` it needs neither the hub nor a module cache.

    Args:
        task: The task.
        **kwargs: Passed on to `evaluate.Metric`.
    """

    def __init__(self, task: GlueTask, **kwargs):
        self.task = task
        super().__init__(config_name=task.name, keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="GLUE metrics of a task with negative log-likelihood and expected calibration error.",
            citation="",
            inputs_description="predictions: logits (num_examples, num_labels); references: class indices.",
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        log_probs = log_softmax(np.asarray(predictions, dtype=np.float64), axis=-1)
        labels = np.asarray(references)
        predicted = log_probs.argmax(axis=-1)
        scores = {name: float(GLUE_METRICS[name](labels, predicted)) for name in self.task.metrics}
        classes = range(log_probs.shape[1])
        return scores | {
            "nll": float(log_loss(labels, np.exp(log_probs), labels=classes)),
            "ece": expected_calibration_error(np.exp(log_probs), labels),
        }


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width confidence bins, weighted by their size.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599, Eq. 3.

    Args:
        probabilities: `(num_examples, num_labels)`.
        labels: Class indices `(num_examples,)`.
        num_bins: Bins on (0, 1], closed on the right.
    """
    confidence = probabilities.max(axis=-1)
    correct = probabilities.argmax(axis=-1) == labels
    bins = np.ceil(confidence * num_bins).astype(int)
    gaps = np.bincount(bins, weights=confidence - correct)
    return float(np.abs(gaps).sum() / len(labels))
