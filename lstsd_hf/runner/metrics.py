"""The metrics of a run, from outputs: the task's own by scikit-learn and scipy, and calibration beside them."""

from collections.abc import Callable

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ..calibration import confidence_bins
from ..errors import InputError
from .tasks import Task

CLASSIFICATION_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews_correlation": matthews_corrcoef,
}
CORRELATIONS = {"pearson": pearsonr, "spearmanr": spearmanr}


def metrics_of(task: Task) -> "TaskMetrics":
    """The metrics of a task."""
    return (RegressionMetrics if task.is_regression else ClassificationMetrics)(task)


class TaskMetrics(evaluate.Metric):
    """The metrics of a task, from a model's outputs.

    Unlike `evaluate.load` it needs neither the hub nor a module cache.

    Args:
        task: The task.
        **kwargs: Passed on to `evaluate.Metric`.
    """

    reference_type: str
    beside: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the scores."""
        return [*self.task.metrics, *self.beside]

    def compute(self, *, predictions, references, **kwargs) -> dict[str, float]:
        """The scores; an `InputError` where a diverged model has none."""
        if not np.isfinite(predictions).all():
            raise InputError(
                "The model's outputs must be finite to be scored, got NaN or infinity: the training diverged. Lower "
                "the learning rate."
            )
        return super().compute(predictions=predictions, references=references, **kwargs)

    def __init__(self, task: Task, **kwargs):
        self.task = task
        super().__init__(config_name=task.name, keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description="predictions: outputs (num_examples, num_labels); references: labels (num_examples,).",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value(self.reference_type),
                }
            ),
        )


class RegressionMetrics(TaskMetrics):
    """Correlations of one output with the labels; 0 where either is constant, so that there is none."""

    reference_type = "float64"

    def _compute(self, predictions, references) -> dict[str, float]:
        pair = np.asarray(predictions, dtype=np.float64)[:, 0], np.asarray(references, dtype=np.float64)
        if any(np.ptp(values) == 0 for values in pair):
            return dict.fromkeys(self.task.metrics, 0.0)
        return {name: float(CORRELATIONS[name](*pair).statistic) for name in self.task.metrics}


class ClassificationMetrics(TaskMetrics):
    """The metrics of a task, negative log-likelihood (nats) and expected calibration error, from logits."""

    reference_type = "int64"
    beside = ("nll", "ece")

    def _compute(self, predictions, references) -> dict[str, float]:
        log_probs = log_softmax(np.asarray(predictions, dtype=np.float64), axis=-1)
        labels = np.asarray(references)
        predicted = log_probs.argmax(axis=-1)
        scores = {name: float(CLASSIFICATION_METRICS[name](labels, predicted)) for name in self.task.metrics}
        return scores | {
            # Not scikit-learn's, which cuts probabilities off at 2e-16, and so the loss of who is sure and wrong.
            "nll": float(-log_probs[np.arange(len(labels)), labels].mean()),
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
    gaps = np.bincount(confidence_bins(confidence, num_bins), weights=confidence - correct)
    return float(np.abs(gaps).sum() / len(labels))
