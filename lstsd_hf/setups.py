"""Set-ups that a teacher cannot work in, refused before training."""

from typing import Any

from transformers import Trainer
from transformers.integrations import is_deepspeed_zero3_enabled

from .distributed import num_processes
from .errors import InputError
from .example_index import check_has_indices
from .observers import ObserverGroup


def check_setup(trainer: Any, group: ObserverGroup) -> None:
    """Refuses a set-up that a trainer's teacher or observers cannot work in.

    Args:
        trainer: A trainer with a teacher, about to train.
        group: Its teacher and observers.

    Raises:
        InputError: If they cannot work in it.
        TypeError: If the training set has no indices.
    """
    teacher = trainer.teacher
    if group.needs_batches:
        if trainer.train_dataset is None:
            raise InputError(
                f"`train_dataset` must be given to {type(trainer).__name__}, got None: the examples' positions in it "
                "are what a teacher remembers them by. A `get_train_dataloader` of your own loads from "
                "`self.train_dataset`."
            )
        check_has_indices(trainer.train_dataset)
    if group.needs_batches and trainer.get_tp_size() > 1:
        takers = " and ".join(type(member).__name__ for member in group if member.needs_batches)
        raise InputError(
            f"{takers} cannot work under tensor parallelism, got groups of {trainer.get_tp_size()} "
            "processes. Use DistributedDataParallel (torchrun), or `NoTeacherConfig()` without observers."
        )
    if trainer._storage.sharded and num_processes() > 1:
        _check_can_be_sharded(group)
    if teacher.runs_model:
        _check_weights_are_whole(trainer)
    scores_several = teacher.predicts_as_ensemble or (
        teacher.predicts_with_copies and trainer.compute_metrics is not None
    )
    if scores_several and trainer.args.eval_strategy != "no":
        check_several_can_be_scored(trainer)
    if group.is_stateful and trainer.args.save_strategy != "no":
        _check_best_model_can_be_loaded(trainer)


def check_token_level(trainer: Any, group: ObserverGroup) -> None:
    """Refuses a token-level task that a trainer's teacher, observers or memory cannot work on.

    Args:
        trainer: A trainer with a teacher.
        group: Its teacher and observers.

    Raises:
        InputError: If one of them cannot.
    """
    others = [type(member).__name__ for member in group if member.needs_batches and not member.takes_tokens]
    if others:
        raise InputError(
            f"{' and '.join(others)} cannot work on a token-level task, got logits (batch_size, length, num_labels). "
            "Use a method that can, such as `LSTSDConfig()`, and leave out `record_dynamics`; for plain fine-tuning "
            "use `teacher=NoTeacherConfig()`."
        )
    if trainer._storage.sharded and num_processes() > 1:
        raise InputError(
            "`memory_storage` must not be sharded in a token-level task, whose rows are tokens. Leave it out, or use "
            "'disk' or 'bf16'."
        )
    if trainer.args.n_gpu > 1:
        raise InputError(
            f"A token-level task must have a process for each GPU, got {trainer.args.n_gpu} GPUs for one process. "
            "Start the script by torchrun."
        )


def check_several_can_be_scored(trainer: Any) -> None:
    """Raises an `InputError` unless all predictions of an evaluation come together."""
    options = ("batch_eval_metrics", False), ("eval_do_concat_batches", True), ("predict_with_generate", False)
    for name, wanted in options:
        if getattr(trainer.args, name, wanted) != wanted:
            raise InputError(
                f"`{name}` must be {wanted} with {type(trainer.teacher).__name__}, got {not wanted}: several "
                "predictions are scored in one pass. Leave it out."
            )


def _check_best_model_can_be_loaded(trainer: Any) -> None:
    if trainer.teacher.predicts_with_copies and trainer.args.load_best_model_at_end and trainer.args.save_only_model:
        raise InputError(
            f"`save_only_model` must be False with `load_best_model_at_end` and {type(trainer.teacher).__name__}, got "
            "True: the best model predicts together with the weights that its checkpoint would lack. Leave out one "
            "of the two."
        )


def _check_can_be_sharded(group: ObserverGroup) -> None:
    whole = [type(member).__name__ for member in group if member.needs_whole_tables]
    if whole:
        raise InputError(
            f"`memory_storage` must not be sharded with {' and '.join(whole)}, which needs whole tables on every "
            "process. Leave it out, or use 'disk' or 'bf16'."
        )


def _check_weights_are_whole(trainer: Any) -> None:
    is_zero3 = is_deepspeed_zero3_enabled()
    if trainer.is_fsdp_enabled or is_zero3:
        raise InputError(
            f"{type(trainer.teacher).__name__} must have the model's whole weights on every process, got "
            f"{'DeepSpeed ZeRO-3' if is_zero3 else 'FSDP'}, which shards them. Use DistributedDataParallel "
            "(torchrun without --fsdp), DeepSpeed ZeRO-1 or 2, or a method that keeps predictions only, such as "
            "`LSTSDConfig()`."
        )


def check_comes_first(mixin: type, cls: type) -> None:
    """Raises a `TypeError` if a class has a mixin after the Trainer class that it is to extend."""
    if Trainer in cls.__mro__ and cls.__mro__.index(mixin) > cls.__mro__.index(Trainer):
        raise TypeError(
            f"{mixin.__name__} must come before the Trainer class in the bases of {cls.__name__}: "
            f"`class {cls.__name__}({mixin.__name__}, MyTrainer)`."
        )


def bypassed(trainer: Any) -> TypeError:
    """The error for a `training_step` that does not compute the loss by the trainer."""
    return TypeError(
        f"`training_step` of {type(trainer).__name__} must call `self.compute_loss`, but teacher and observers saw no "
        "batch. Call it, not `super().compute_loss` or the model alone."
    )
