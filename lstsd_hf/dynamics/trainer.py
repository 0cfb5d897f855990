"""A trainer that may have recorded its training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..label_errors import LabelErrorCandidate
from ..observers import Observer
from ..token_errors import rank_errors
from .recorder import DynamicsRecorder


def with_recorder(observers: Sequence[Observer], record_dynamics: bool) -> list[Observer]:
    """Observers, with one that records the training if asked for."""
    if isinstance(observers, Observer):
        raise TypeError(f"`observers` must be a list, got one {type(observers).__name__}. Give `[observer]`.")
    return [*observers, DynamicsRecorder()] if record_dynamics else [*observers]


class RecordedTrainingMixin:
    """What a trainer knows of its recorded training."""

    @property
    def _recorder(self) -> DynamicsRecorder | None:
        return next((member for member in self._group if isinstance(member, DynamicsRecorder)), None)

    @property
    def dynamics_folder(self) -> Path | None:
        """Where a `DynamicsRecorder` among the observers writes; `None` without one."""
        recorder = self._recorder
        return None if recorder is None else recorder.folder

    def rank_label_errors(self) -> list[LabelErrorCandidate]:
        """The training examples by how little their given label was believed, the least believed first.

        In a token-level task the labelled tokens.
        With a recorded training, by the mean probability over an early window of epochs, which finds more wrong labels
        (`lstsd_hf.dynamics.suspicion`); else by what the teacher's memory says at the end.

        Raises:
            InputError: If there are no predictions: nothing was recorded and the teacher keeps none, or no epoch ended.
        """
        if self.dynamics_folder is None:
            return self.teacher.rank_label_errors()
        return rank_errors(self._context, *self.recorded_probabilities())

    def recorded_probabilities(self) -> tuple[Tensor, Tensor]:
        """What the recorded training said of each training example in an early window of epochs.

        Returns:
            Mean probabilities `(num_examples, num_labels)` and which examples have them, bool `(num_examples,)`.

        Raises:
            InputError: If no epoch was recorded.
        """
        recorder = self._recorder
        # What the folder holds before training is another run's.
        if recorder is None or recorder.memory is None or recorder.memory.epoch == 0:
            raise InputError(
                "An epoch must have been recorded by this trainer, found none. Train with `record_dynamics=True`, for "
                "at least an epoch; a folder of an earlier run is read by `lstsd_hf.dynamics.History.read`."
            )
        # One process may ask alone, so they do not talk to each other here; the one that writes knows its files.
        fault = recorder.fault_of_files() if self._student.writes_files else None
        if fault is not None:
            raise InputError(f"{fault} Give each trainer an `output_dir` of its own.")
        from . import History
        from .measures import mean_probabilities, suspicion_window

        history = History.read(recorder.folder)
        probabilities = torch.from_numpy(mean_probabilities(history.epochs(*suspicion_window(history))))
        return probabilities.nan_to_num(), ~probabilities.isnan().any(dim=1)
