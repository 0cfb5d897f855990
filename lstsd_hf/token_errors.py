"""Which tokens of the training set are probably mislabelled."""

from torch import Tensor

from .context import TrainingContext
from .errors import InputError
from .label_errors import LabelErrorCandidate, least_believed, rank_label_errors


def rank_errors(context: TrainingContext, probabilities: Tensor, written: Tensor) -> list[LabelErrorCandidate]:
    """The training examples, or in a token-level task the labelled tokens, by how little their label is believed.

    Args:
        context: The run.
        probabilities: `(num_examples, num_labels)`.
        written: Which of them have a prediction, bool `(num_examples,)`.

    Raises:
        InputError: If an example has no label that is a class, or the trainer has been given another training set.
    """
    student, index = context.student, context.token_index
    if context.train_dataset is not None and student.train_dataset is not context.train_dataset:
        raise InputError(
            "`train_dataset` must be the training set of the run whose predictions rank its labels, got another one "
            "since. Rank before you replace it, or train on the new one."
        )
    if index is None:
        return rank_label_errors(
            probabilities, written, student.train_dataset, student.processing_class, student.label_names
        )
    texts = index.texts(student)
    return [
        LabelErrorCandidate(
            index=int(index.examples[row]),
            given_label=int(index.labels[row]),
            believed_label=believed,
            given_probability=given,
            text=texts[row],
            token=int(index.positions[row]),
        )
        for row, believed, given in least_believed(probabilities, written, index.labels)
    ]
