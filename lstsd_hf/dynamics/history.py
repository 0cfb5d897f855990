"""A recorded run as arrays."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from ..errors import InputError
from .files import EXAMPLES_NAME, epoch_paths, read_epoch, read_examples


class InSampleWarning(UserWarning):
    """A number is made of predictions for examples that the model has trained on, and may mislead."""


@dataclass(frozen=True)
class History:
    """What each epoch of a run said of each training example.

    Attributes:
        log_probs: Log-probabilities `(num_epochs, num_examples, num_labels)`, float32; NaN where an epoch did not
            see an example.
        given: Given labels, int64 `(num_examples,)`; -1 where unknown.
        texts: A text for each example, if known.
        label_names: Names of the labels, if known.
        out_of_sample: Whether models said it that did not train on the examples, as `cross_validate` has it.

    Raises:
        InputError: If there is no epoch, or not a label for each example.

    Examples:
        >>> history = History(np.log(np.array([[[0.9, 0.1]], [[0.2, 0.8]]])), np.array([1]))
        >>> history.given_probabilities.round(1).tolist()
        [[0.1], [0.8]]
    """

    log_probs: np.ndarray
    given: np.ndarray
    texts: list[str | None] | None = None
    label_names: list[str] | None = None
    out_of_sample: bool = False

    def __post_init__(self):
        if self.log_probs.ndim != 3 or not self.log_probs.shape[0]:
            raise InputError(
                "`log_probs` must have the shape (num_epochs, num_examples, num_labels) with at least one epoch, got "
                f"{self.log_probs.shape}."
            )
        if self.given.shape != self.log_probs.shape[1:2]:
            raise InputError(
                f"`given` must have a label for each of {self.log_probs.shape[1]} examples, got {self.given.shape}."
            )

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Reads a folder that a `DynamicsRecorder` wrote.

        Args:
            folder: Such as `<output_dir>/dynamics`.

        Raises:
            InputError: If an epoch is missing, or none is there.
        """
        folder = Path(folder)
        paths = epoch_paths(folder)
        numbers = [int(path.stem.removeprefix("epoch-")) for path in paths]
        if not paths or numbers != [*range(1, len(paths) + 1)]:
            raise InputError(
                f"{folder} must have the files of all epochs from epoch-0001.parquet on, found "
                f"{', '.join(path.name for path in paths) or 'none'}. Train with `record_dynamics=True`."
            )
        epochs = [read_epoch(path) for path in paths]
        if len({epoch.log_probs.shape for epoch in epochs}) > 1:
            raise InputError(f"The epochs in {folder} must be of one run, found {len(epochs)} of different shapes.")
        given = np.max([epoch.given for epoch in epochs], axis=0)
        texts, label_names = (
            read_examples(folder / EXAMPLES_NAME) if (folder / EXAMPLES_NAME).is_file() else (None, None)
        )
        out_of_sample = all(epoch.out_of_sample for epoch in epochs)
        return cls(np.stack([epoch.log_probs for epoch in epochs]), given, texts, label_names, out_of_sample)

    @property
    def num_epochs(self) -> int:
        """Epochs that were recorded."""
        return len(self.log_probs)

    @property
    def seen(self) -> np.ndarray:
        """Which epochs saw which examples, bool `(num_epochs, num_examples)`."""
        return ~np.isnan(self.log_probs[..., 0])

    @property
    def is_labelled(self) -> np.ndarray:
        """Which examples have a class as label, bool `(num_examples,)`."""
        return (self.given >= 0) & (self.given < self.log_probs.shape[-1])

    def of_given(self, values: np.ndarray) -> np.ndarray:
        """Those of values `(…, num_examples, num_labels)` that belong to the given labels, `(…, num_examples)`.

        NaN where an example has no class as label.
        """
        own = np.where(self.is_labelled, self.given, 0)[:, None]
        own = np.broadcast_to(own, (*values.shape[:-1], 1))
        return np.where(self.is_labelled, np.take_along_axis(values, own, axis=-1)[..., 0], np.nan)

    @property
    def given_log_probs(self) -> np.ndarray:
        """Log-probabilities of the given labels, `(num_epochs, num_examples)`; NaN where not seen or not labelled."""
        return self.of_given(self.log_probs)

    @property
    def given_probabilities(self) -> np.ndarray:
        """Probabilities of the given labels, as `given_log_probs`."""
        return np.exp(self.given_log_probs)

    def warn_if_in_sample(self, number: str) -> None:
        """Warns that a number may mislead, unless the predictions are out of sample.

        Args:
            number: What is made of the predictions.
        """
        if not self.out_of_sample:
            warnings.warn(
                f"{number} of a training are in-sample: the model has trained on the examples that it judges. They "
                "rank labels, but may be far off; for a claim use `cross_validate`.",
                InSampleWarning,
                stacklevel=3,
            )

    def epochs(self, first: int, last: int) -> Self:
        """Some epochs alone.

        Args:
            first: Number of the first one, from 1.
            last: Number of the last one.
        """
        return replace(self, log_probs=self.log_probs[first - 1 : last])
