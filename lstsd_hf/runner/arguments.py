"""What can be told of training arguments before anything is loaded."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.utils import is_liger_kernel_available

from ..errors import InputError

# numpy's limit.
MAX_SEED = 2**32 - 1


def check_arguments(args: TrainingArguments, seeds: Iterable[int], folders: Iterable[Path]) -> None:
    """Raises an `InputError` if a run with these arguments could not begin.

    Args:
        args: The arguments.
        seeds: The seeds of the runs.
        folders: Where files will be written.
    """
    for name, values in (("seed", seeds), ("data_seed", [args.data_seed])):
        for value in values:
            if value is not None and not 0 <= value <= MAX_SEED:
                raise InputError(f"`{name}` must be from 0 to {MAX_SEED}, got {value}.")
    if not 0 <= args.label_smoothing_factor <= 1:
        raise InputError(f"`label_smoothing_factor` must be from 0 to 1, got {args.label_smoothing_factor}.")
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise InputError(
            "`use_liger_kernel` needs the package liger-kernel, found none: `pip install liger-kernel`, or leave it "
            "out."
        )
    if args.fsdp and args.world_size == 1:
        raise InputError("`fsdp` needs several processes, got 1: start with torchrun, or leave it out.")
    _check_trackers(args.report_to)
    _check_optimization(args)
    for folder in folders:
        _check_writable(folder)


def _check_trackers(names: Iterable[str]) -> None:
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise InputError(
                f"`report_to` must be none, all, or of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}, got {name!r}."
            )
        # Flyte is not among those that transformers looks for.
        if name != "flyte" and name not in get_available_reporting_integrations():
            raise InputError(f"`report_to` must name an installed tracker, got {name!r}. Install it, or leave it out.")


def _check_optimization(args: TrainingArguments) -> None:
    try:
        # Optimizers that look at the model's modules raise an error about the missing model.
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args)
    except ImportError as error:
        raise InputError(f"`optim` must name an installed optimizer, got {args.optim.value!r}: {error}") from error
    except ValueError:
        return
    if not optimizer_class.__module__.startswith("torch.optim"):
        return
    try:
        options = {"weight_decay": args.weight_decay} | options
        optimizer = optimizer_class([torch.nn.Parameter(torch.zeros(1))], **options)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"`learning_rate`, `weight_decay`, `adam_…` and `optim_args` must be what {args.optim.value} takes: {error}"
        ) from error
    try:
        get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(100),
            num_training_steps=100,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
    except (ValueError, TypeError) as error:
        raise InputError(
            f"`lr_scheduler_kwargs` must be what {args.lr_scheduler_type.value} takes, got "
            f"{args.lr_scheduler_kwargs}: {error}"
        ) from error


def _check_writable(folder: Path) -> None:
    existing = folder.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} is a file")
        with tempfile.TemporaryDirectory(dir=existing, prefix=".lstsd_hf-"):
            pass
    except OSError as error:
        raise InputError(f"A folder for runs must be writable, got {folder}: {error}. Choose another.") from error
