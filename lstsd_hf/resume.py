"""May this run go on? What a checkpoint says of its run, and what a resumed run must share with it."""

import json
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .checkpoint import (
    TRAINER_STATE_NAME,
    check_same_run,
    check_whole,
    describe_teacher,
    load_teacher_state,
    newest_whole_checkpoint,
    save_teacher_state,
)
from .errors import InputError
from .fingerprint import describe_dataset
from .problems import PROBLEMS

logger = logging.getLogger(__name__)

# In front of the trainer's own entries in the teacher's file.
_OWN = "trainer."


class ResumableMixin:
    """Checkpoints of a trainer with a teacher: they carry the teacher, and only the same run is resumed from them."""

    _changeable: frozenset[str] = frozenset()
    _described: tuple[Any, dict[str, Any]] | None = None

    def train(self, resume_from_checkpoint=None, *args, allow_teacher_changes: bool = False, **kwargs):
        """The parent's, resuming only from a checkpoint that is whole and of the same run.

        Args:
            resume_from_checkpoint: A checkpoint folder, or `True` for the one in `output_dir` that was finished last
                among those that are whole.
            *args: Passed on to the parent.
            allow_teacher_changes: Lets a resumed run have other options of the same method (those that its config
                names in `changeable`), such as λ and E.
            **kwargs: Passed on to the parent.

        Raises:
            InputError: If there is no whole checkpoint, or it is of a run with other settings or data.
        """
        self._described = None
        config = self.teacher.config
        self._changeable = frozenset(config.changeable if allow_teacher_changes and config is not None else ())
        self.teacher.accepts_changes = bool(self._changeable)
        return super().train(self._checked_checkpoint(resume_from_checkpoint), *args, **kwargs)

    def _checked_checkpoint(self, checkpoint: Any) -> Any:
        """The checkpoint to resume from, whole and of the same run, before the parent overwrites the model with it."""
        is_stateful = self.teacher.is_stateful
        if not (is_stateful or self.teacher.needs_batches):
            return checkpoint
        if checkpoint is True:
            found = newest_whole_checkpoint(Path(self.args.output_dir), is_stateful)
            if found is None:
                raise InputError(
                    f"`output_dir` must contain a whole checkpoint to resume from, found none in "
                    f"{self.args.output_dir}. Leave out `resume_from_checkpoint` to start a new run."
                )
            folder, metadata = found
            if self.is_world_process_zero():
                logger.info(f"Resuming from {folder}.")
        elif checkpoint and is_stateful:
            folder = Path(checkpoint)
            if not folder.is_dir():
                raise InputError(f"`resume_from_checkpoint` must be a checkpoint folder or True, got {folder}.")
            metadata = check_whole(folder, is_stateful)
        else:
            return checkpoint
        if is_stateful and not self.teacher.can_be_resumed:
            raise InputError(
                f"{type(self.teacher).__name__} must define `state_dict` and `load_state_dict` to be resumed, has "
                "neither: what it learned before the interruption would be lost. Define them, or start a new run."
            )
        if metadata:
            check_same_run(metadata, self._run_description(), folder, self._changeable)
        return str(folder)

    def _run_description(self) -> dict[str, Any]:
        """What a resumed run must share with the interrupted one."""
        if self._described is None or self._described[0] is not self.train_dataset:
            self._described = self.train_dataset, describe_dataset(self.train_dataset, self.label_names or ())
        num_labels = getattr(getattr(self.model, "config", None), "num_labels", None)
        description = {**describe_teacher(self.teacher), **self._described[1], "num_labels": num_labels}
        for name, value in description.items():
            _check_is_json(name, value)
        return description

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        state_path = folder / TRAINER_STATE_NAME
        try:
            if self.args.should_save:
                # What an earlier run left there stops counting as whole before its files are overwritten.
                state_path.unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            # torch's writer has no error of its own.
            is_of_writing = not isinstance(error, RuntimeError) or "inline_container" in str(error)
            if not is_of_writing or state_path.exists():
                raise
            raise OSError(
                f"The checkpoint {folder} could not be written: {error}. It will not be taken for whole; earlier "
                "checkpoints are as they were. Free disk space or choose another `output_dir`, and resume with "
                "`resume_from_checkpoint=True`."
            ) from error

    def _save_scaler(self, output_dir: str) -> None:
        # Runs on every rank after model, optimizer and scaler are saved: the teacher's file has digests of these.
        super()._save_scaler(output_dir)
        if not self.teacher.is_stateful:
            return
        problem = self.teacher.problem
        state = self.teacher.state_dict() | {
            f"{_OWN}distilled_steps": self.teacher.distilled_steps,
            f"{_OWN}problem": None if problem is None else problem.name,
        }
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            run = self._run_description() | self._batch_description()
            ranks = range(self.args.world_size) if self.args.world_size > 1 else None
            if ranks and self.args.save_on_each_node:
                ranks = [self.args.process_index]
            save_teacher_state(state, run, self.state, ranks, output_dir)

    def _batch_description(self) -> dict[str, int]:
        # Another number of processes is welcome if the batch stays; `auto_find_batch_size` may have changed it.
        return {"global_batch_size": self.get_total_train_batch_size(self.args)}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.teacher.is_stateful:
            return
        self.teacher.distilled_steps = self._load_teacher(checkpoint)

    def _load_teacher(self, checkpoint: str) -> int:
        """Loads the teacher's state and returns how many steps had distilled."""
        run = self._run_description() | self._batch_description()
        state = load_teacher_state(run, checkpoint, self._changeable)
        distilled_steps = state.pop(f"{_OWN}distilled_steps")
        self.teacher.problem = PROBLEMS.get(state.pop(f"{_OWN}problem"))
        self.teacher.load_state_dict(state, self.args.device)
        return distilled_steps

    def _load_best_model(self) -> None:
        super()._load_best_model()
        # What predicts together with the model must be of the same step.
        if self.teacher.predicts_with_copies:
            self._load_teacher(self.state.best_model_checkpoint)


def _check_is_json(name: str, value: Any) -> None:
    try:
        json.dumps(value)
    except TypeError as error:
        raise InputError(
            f"`{name}` must be something that JSON can hold, so that checkpoints can name it, got {value!r}. Keep "
            "plain numbers, strings, lists and mappings in the teacher's config."
        ) from error
