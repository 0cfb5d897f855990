"""Which training examples are probably mislabelled, by what a memory predicts for them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

LABEL_NAMES = ("label", "labels", "label_ids")


@dataclass(frozen=True)
class LabelErrorCandidate:
    """A training example and how far its label is believed.

    Attributes:
        index: Position in the training set.
        given_label: The label in the training set.
        believed_label: The label with the largest predicted probability.
        given_probability: Predicted probability of the given label.
        text: The example's text columns, joined, or its decoded tokens; `None` where there are neither.
    """

    index: int
    given_label: int
    believed_label: int
    given_probability: float
    text: str | None


def rank_label_errors(
    probabilities: Tensor, written: Tensor, dataset: Any, tokenizer: Any = None
) -> list[LabelErrorCandidate]:
    """Orders examples by the predicted probability of their given label, the smallest first (self-confidence).

    Source: Northcutt et al., "Confident Learning", JAIR 2021, arXiv 1911.00068, Sec. 4. Predictions from training are
    not out of sample: a model that has memorised a wrong label believes it.

    Args:
        probabilities: `(num_examples, num_labels)`.
        written: Which examples have a prediction, bool `(num_examples,)`; the others are left out.
        dataset: The training set; its examples are mappings with a label.
        tokenizer: Decodes `input_ids` where an example has no text.
    """
    # Iterating over a `datasets.Dataset` is much faster than indexing it.
    examples = list(dataset) if hasattr(dataset, "column_names") else [dataset[row] for row in range(len(dataset))]
    labels = torch.tensor([_label_of(example) for example in examples])
    probabilities = probabilities.cpu()
    given = probabilities.gather(1, labels[:, None]).squeeze(1)
    believed = probabilities.argmax(dim=1)
    order = torch.argsort(given, stable=True)
    return [
        LabelErrorCandidate(index, int(labels[index]), int(believed[index]), float(given[index]), text)
        for index in order[written.cpu()[order]].tolist()
        for text in [_text_of(examples[index], tokenizer)]
    ]


def ranking_quality(ranking: Sequence[LabelErrorCandidate], wrong: Collection[int]) -> dict[str, float] | None:
    """How well a ranking finds labels that are known to be wrong.

    Args:
        ranking: Candidates, the most suspicious first.
        wrong: Positions of the examples whose label is wrong.

    Returns:
        `roc_auc`, the probability that a wrong label stands before a right one, and `precision_at_count`, the share of
        wrong labels among the first so many as there are wrong ones; `None` for a ranking without wrong labels, or of
        nothing else.
    """
    wrong = set(wrong)
    is_wrong = [candidate.index in wrong for candidate in ranking]
    count = sum(is_wrong)
    if count in (0, len(is_wrong)):
        return None
    return {
        "roc_auc": float(roc_auc_score(is_wrong, [-candidate.given_probability for candidate in ranking])),
        "precision_at_count": sum(is_wrong[:count]) / count,
    }


def _label_of(example: Mapping[str, Any]) -> int:
    for name in LABEL_NAMES:
        if name in example:
            return int(example[name])
    raise KeyError(f"A training example must have one of {', '.join(LABEL_NAMES)}, found {sorted(example)}.")


def _text_of(example: Mapping[str, Any], tokenizer: Any) -> str | None:
    texts = [value for value in example.values() if isinstance(value, str)]
    if texts:
        return " | ".join(texts)
    if tokenizer is not None and "input_ids" in example:
        return tokenizer.decode(example["input_ids"], skip_special_tokens=True)
    return None
