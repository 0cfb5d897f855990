"""Trainer events to teacher events."""

import logging

from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from .schedules import Progress, TrainingPlan
from .teachers import Teacher

logger = logging.getLogger(__name__)


class TeacherMemoryCallback(TrainerCallback):
    """Tells a teacher where training is.

    Epochs are counted here rather than read from `state.epoch`, which is fractional after a resume within an epoch;
    and everything happens at an epoch's beginning, because a checkpoint of an epoch's last step never sees its end.

    Args:
        teacher: The teacher to tell.
    """

    def __init__(self, teacher: Teacher):
        self.teacher = teacher
        self._plan: TrainingPlan | None = None
        self._epochs_begun = 0

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if has_length(train_dataloader):
            steps_per_epoch = max(1, -(-len(train_dataloader) // args.gradient_accumulation_steps))
        else:
            steps_per_epoch = state.max_steps
        self._plan = TrainingPlan(state.num_train_epochs, steps_per_epoch, state.max_steps)
        self._epochs_begun = state.global_step // steps_per_epoch
        message = self.teacher.on_train_begin(self._plan)
        if message and state.is_world_process_zero:
            logger.info(message)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.teacher.on_epoch_begin(self._progress(self._epochs_begun, state))
        self._epochs_begun += 1

    def on_step_end(self, args, state, control, **kwargs):
        self.teacher.on_step_end(self._progress(self._epochs_begun - 1, state))

    def on_train_end(self, args, state, control, **kwargs):
        self.teacher.on_train_end(self._progress(self._epochs_begun, state))

    def _progress(self, epoch: int, state) -> Progress:
        return Progress(epoch, state.global_step, self._plan)
