"""May this run go on? What a checkpoint says of its run, and what a resumed run must share with it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
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
from .distributed import batch_factor, gather_objects
from .errors import InputError
from .fingerprint import describe_dataset
from .observers import entries_below
from .problem_types import PROBLEM_TYPES
from .schedules import TrainingPlan

logger = logging.getLogger(__name__)

# In front of the trainer's own entries in the teacher's file.
_OWN = "trainer."
_FITTED = "fitted."


class ResumableMixin:
    """Checkpoints of a trainer with a teacher: they carry the teacher, and only the same run is resumed from them."""

    _changeable: frozenset[str] = frozenset()
    _described: tuple[Any, dict[str, Any]] | None = None
    # Options that were left out, as fitted to the run's length; those of the checkpoint until training begins.
    _fitted: Mapping[str, Any] = {}

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
        self._fitted = {}
        return super().train(self._checked_checkpoint(resume_from_checkpoint), *args, **kwargs)

    def _checked_checkpoint(self, checkpoint: Any) -> Any:
        """The checkpoint to resume from, whole and of the same run, before the parent overwrites the model with it."""
        is_stateful = self._group.is_stateful
        if not (is_stateful or self._group.needs_batches):
            return checkpoint
        if checkpoint is True:
            found = newest_whole_checkpoint(Path(self.args.output_dir), is_stateful)
            if found is None:
                raise InputError(
                    f"No valid checkpoint found in output directory ({self.args.output_dir}): `output_dir` must "
                    "contain a whole one to resume from. Leave out `resume_from_checkpoint` to start a new run."
                )
            folder, metadata = found
            if self.is_world_process_zero():
                logger.info(f"Resuming from {folder}.")
        elif checkpoint and is_stateful:
            folder = Path(checkpoint)
            if not folder.is_dir():
                is_text = f", and not the text {checkpoint!r}" if str(checkpoint).lower() == "true" else ""
                raise InputError(
                    f"Can't find a valid checkpoint at {folder}: `resume_from_checkpoint` must be a checkpoint folder "
                    f"or True{is_text}."
                )
            metadata = check_whole(folder, is_stateful)
        else:
            return checkpoint
        if is_stateful:
            self._group.check_can_be_resumed()
        if metadata:
            self._changeable |= self._written_out(metadata["numbers"])
            config = self.teacher.config
            could_change = () if config is None else config.changeable
            check_same_run(metadata, self._run_description(), folder, self._changeable, could_change)
        return str(folder)

    def _written_out(self, numbers: Mapping[str, Any]) -> set[str]:
        """Options that the interrupted run fitted to its length, and that are given now as they came out."""
        fitted, config = entries_below(numbers, f"{_OWN}{_FITTED}"), self.teacher.config
        return {name for name, value in fitted.items() if getattr(config, name, None) == value}

    def _run_description(self) -> dict[str, Any]:
        """What a resumed run must share with the interrupted one."""
        if self._described is None or self._described[0] is not self.train_dataset:
            self._described = self.train_dataset, describe_dataset(self.train_dataset, self.label_names or ())
        num_labels = getattr(getattr(self.model, "config", None), "num_labels", None)
        description = {
            **describe_teacher(self.teacher),
            "observers": self._group.stateful_names,
            **self._described[1],
            "num_labels": num_labels,
        }
        for name, value in description.items():
            _check_is_json(name, value)
        return description

    def _run_epoch(self, *args, **kwargs):
        # In an epoch that the length of the run cuts short, Trainer makes a step before it looks whether one is left.
        if self._group.takes_part and self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

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
        if self._group.is_stateful:
            self._save_teacher(output_dir)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self._group.is_stateful:
            # What comes next makes the checkpoint whole and deletes older ones: not before every process has written.
            self.accelerator.wait_for_everyone()

    def _save_teacher(self, output_dir: str) -> None:
        """Writes the state of teacher and observers into a checkpoint; called on every process."""
        kind, index = self._context.problem_type, self._context.token_index
        mine = self._example_losses.is_usual
        # An unusual loss that one process has seen is unusual for all.
        found = [usual for usual in gather_objects(None if mine is None else bool(mine)) if usual is not None]
        own = {
            "distilled_steps": self.distilled_steps,
            "steps_per_epoch": self._context.plan.steps_per_epoch,
            "problem_type": None if kind is None else kind.name,
            "labels_are_shifted": None if index is None else index.is_shifted,
            "base_loss_is_usual": all(found) if found else None,
        }
        own |= {f"{_FITTED}{name}": value for name, value in self._fitted.items()}
        state = self._group.state_dict() | {f"{_OWN}{name}": value for name, value in own.items()}
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            run = self._run_description() | self._batch_description()
            ranks = range(self.args.world_size) if self.args.world_size > 1 else None
            if ranks and self.args.save_on_each_node:
                ranks = [self.args.process_index]
            save_teacher_state(state, run, self.state, ranks, output_dir)

    def _batch_description(self) -> dict[str, int]:
        # Another number of processes is welcome if the batch stays; `auto_find_batch_size` may have changed it.
        size = self.get_total_train_batch_size(self.args) * batch_factor(self.args) // self.args.world_size
        return {"global_batch_size": size}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self._group.is_stateful:
            return
        own, state = self._saved_state(checkpoint)
        self.distilled_steps, self._steps_per_epoch = own["distilled_steps"], own["steps_per_epoch"]
        self._context.problem_type = PROBLEM_TYPES.get(own["problem_type"])
        if own["labels_are_shifted"] is not None:
            self._number_tokens(own["labels_are_shifted"])
        if own["base_loss_is_usual"] is not None:
            self._example_losses.is_usual = torch.tensor(own["base_loss_is_usual"], device=self.args.device)
        self._fitted = entries_below(own, _FITTED)
        self._group.load_state_dict(state)

    def _saved_state(self, checkpoint: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The trainer's own entries in the teacher's file, and those of teacher and observers."""
        run = self._run_description() | self._batch_description()
        state = load_teacher_state(run, checkpoint, self._changeable)
        own = {name.removeprefix(_OWN): state.pop(name) for name in list(state) if name.startswith(_OWN)}
        return own, state

    def _check_plan(self, plan: TrainingPlan) -> None:
        """Whether the run may have this length; called when training begins, after a checkpoint was loaded."""
        if self._steps_per_epoch not in (None, plan.steps_per_epoch):
            raise InputError(
                f"An epoch must have as many optimizer steps as when the checkpoint was saved: it had "
                f"{self._steps_per_epoch}, now it has {plan.steps_per_epoch}. Resume with as many processes and the "
                "same batches, or start a new run."
            )
        config = self.teacher.config
        if config is None:
            return
        config.check_plan(plan)
        options, fitted = asdict(config), asdict(config.fitted_to(plan))
        saved, self._fitted = self._fitted, {name: fitted[name] for name in fitted if fitted[name] != options[name]}
        for name, value in saved.items():
            if name not in self._changeable and value != fitted[name]:
                raise InputError(
                    f"`{name}` must be what it was when the checkpoint was saved: it was {value}, now it is "
                    f"{fitted[name]}, fitted to another number of epochs. Give `{name}={value}` to the method's "
                    "config, resume with the same number of epochs, or start a new run."
                )

    def _load_best_model(self) -> None:
        super()._load_best_model()
        # What predicts together with the model must be of the same step.
        if self.teacher.predicts_with_copies:
            self._group.load_state_dict(self._saved_state(self.state.best_model_checkpoint)[1], teacher_only=True)


def _check_is_json(name: str, value: Any) -> None:
    try:
        json.dumps(value)
    except TypeError as error:
        raise InputError(
            f"`{name}` must be something that JSON can hold, so that checkpoints can name it, got {value!r}. Keep "
            "plain numbers, strings, lists and mappings in the teacher's config."
        ) from error
