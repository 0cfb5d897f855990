"""Trainer events to those of teacher and observers."""

import logging
from collections.abc import Callable, Sequence

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import has_length

from .context import TrainingContext
from .epoch_examples import LoaderWithoutIndices
from .example_index import check_can_be_resumed
from .logs import TrainingLog
from .observers import ObserverGroup
from .schedules import Progress, TrainingPlan

logger = logging.getLogger(__name__)


class TeacherEvents(TrainerCallback):
    """Tells teacher and observers where training is.

    Epochs are counted here rather than read from `state.epoch`, which is fractional after a resume within an epoch;
    and everything happens at an epoch's beginning, because a checkpoint of an epoch's last step never sees its end.

    Args:
        group: Whom to tell.
        check_plan: Raises an error if a run may not have this length.
        log: What is logged of the teacher, looked at once an epoch however seldom something is logged.
        checks: Called before each optimizer step; they raise an error if it must not be made.
        handler: The trainer's callback handler. The other callbacks get the training batches as they are without a
            teacher, so this one must be the first.

    Attributes:
        progress: Where training is, within an epoch; `None` before the first.
    """

    def __init__(
        self,
        group: ObserverGroup,
        check_plan: Callable[[TrainingPlan], None],
        log: TrainingLog,
        checks: Sequence[Callable[[], None]],
        handler: CallbackHandler,
    ):
        self._group = group
        self._check_plan = check_plan
        self._log = log
        self._checks = checks
        self._handler = handler
        self._epochs_begun = 0
        self._global_step = 0
        self.context = TrainingContext()
        self.progress: Progress | None = None

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if state.global_step and self._group.needs_batches and not args.ignore_data_skip:
            check_can_be_resumed(train_dataloader)
        if train_dataloader is not None and self._group.needs_batches:
            self._handler.train_dataloader = LoaderWithoutIndices(train_dataloader)
        if has_length(train_dataloader):
            steps_per_epoch = max(1, -(-len(train_dataloader) // args.gradient_accumulation_steps))
        else:
            steps_per_epoch = state.max_steps
        self.context.plan = plan = TrainingPlan(state.num_train_epochs, steps_per_epoch, state.max_steps)
        self._check_plan(plan)
        self._epochs_begun = state.global_step // steps_per_epoch
        self._global_step = state.global_step
        for member in self._group:
            message = member.on_train_begin()
            if message and state.is_world_process_zero:
                logger.info(message)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._collect_log()
        self._epochs_begun += 1
        self.progress = Progress(self._epochs_begun - 1, self._global_step, self.context.plan)
        for member in self._group:
            member.on_epoch_begin(self.progress)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        for check in self._checks:
            check()

    def on_step_end(self, args, state, control, **kwargs):
        self._global_step = state.global_step
        self.progress = Progress(self._epochs_begun - 1, self._global_step, self.context.plan)
        for member in self._group:
            member.on_step_end(self.progress)

    def on_train_end(self, args, state, control, **kwargs):
        self._collect_log()
        for member in self._group:
            member.on_train_end(Progress(self._epochs_begun, state.global_step, self.context.plan))

    def _collect_log(self) -> None:
        if self._group.teacher.needs_batches:
            self._log.collect(self._global_step, self.context.plan.steps_per_epoch)
            self.context.has_diverged = self._log.has_diverged
