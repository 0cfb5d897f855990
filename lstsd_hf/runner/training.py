"""One training run from data to `results.json`."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from transformers import EvalPrediction, set_seed

from ..dynamics.measures import estimated_label_errors
from ..dynamics.recorder import DynamicsRecorder
from ..errors import InputError
from ..label_errors import example_texts
from .cross_validation import judge_labels
from .held_out import KeepsBest
from .metrics import metrics_of
from .outputs import find_label_errors, results_of, write_submission
from .results import (
    PREDICTIONS_NAME,
    RESULTS_NAME,
    TRAINING_ROWS_NAME,
    read_result,
    without_times,
    write_json,
    write_predictions,
)
from .run import Run
from .run_folder import LOCK_NAME, is_finished, prepare_folder, take_folder
from .tasks import Task
from .trainer import DurationEstimate, EpochTimer, RunTrainer


def execute(run: Run, folder: Path, *, resume: bool, overwrite: bool, cache: Path) -> dict[str, Any]:
    """Trains, evaluates, saves the model, the predictions and, last, `results.json`.

    Args:
        run: What to run.
        folder: Where everything goes; an existing run there is never mixed with this one.
        resume: Continue an interrupted run there, or start where there is none; a finished one is left as it is.
        overwrite: Delete what is there.
        cache: Folder for tokens and hidden states, shared by all runs.

    Returns:
        The content of `results.json`.

    Raises:
        InputError: If the folder holds a run and neither was asked for, or one that cannot be continued.
    """
    if resume and is_finished(run, folder):
        return read_result(folder / RESULTS_NAME)
    lock = FileLock(folder / LOCK_NAME)
    try:
        take_folder(run, folder, resume, overwrite, lock)
        if resume and is_finished(run, folder):  # by a process that was waited for
            return read_result(folder / RESULTS_NAME)
        return _train(run, folder, prepare_folder(run, folder, resume), cache)
    finally:
        lock.release()


def _train(run: Run, folder: Path, checkpoint: str | None, cache: Path) -> dict[str, Any]:
    run.args.output_dir = str(folder)
    start = time.perf_counter()
    set_seed(run.args.seed)
    prepared = run.prepare(cache)
    if run.args.gradient_checkpointing and not prepared.model.supports_gradient_checkpointing:
        raise InputError(
            f"`gradient_checkpointing` needs a model that can do it, got {type(prepared.model).__name__}. Leave it out."
        )
    timer = EpochTimer()
    keeps_best = KeepsBest(folder, prepared.splits.pop("held_out")) if run.options.held_out_share else None
    with prepared.training_form():
        untrained = copy.deepcopy(prepared.model) if run.cross_validate else None
        trainer = RunTrainer(
            model=prepared.model,
            args=run.args,
            train_dataset=prepared.splits["train"] if prepared.training_set is None else prepared.training_set,
            eval_dataset=prepared.splits["validation"],
            compute_metrics=metrics_function(run.task),
            callbacks=[DurationEstimate(), timer, *([keeps_best] if keeps_best else []), *prepared.callbacks],
            teacher=run.taught,
            memory_storage=run.memory_storage,
            texts=run.texts(prepared.train),
            **prepared.trainer_options,
            cache_dir=cache,
            observers=[DynamicsRecorder(texts=example_texts(prepared.train))] if run.record_dynamics else (),
        )
        if keeps_best:
            keeps_best.trainer = trainer
        trainer.train(resume_from_checkpoint=checkpoint)
        best_model = None
        if run.args.load_best_model_at_end:
            # The scores stay those of the last epoch; the predictions are those of the model that is saved.
            best_model = {"step": trainer.state.best_global_step, **_predict_again(trainer)}
        elif not _is_scored(trainer):
            trainer.evaluate()
        elif trainer.last_evaluation is None:
            # Interrupted after its last evaluation, a run has the scores in its log, but no predictions.
            _predict_again(trainer)
        if keeps_best:
            # As above, but chosen without the validation split.
            keeps_best.restore()
            best_model = {"step": keeps_best.step, "held_out_loss": keeps_best.loss, **_predict_again(trainer)}
        other_splits = {}
        for name, split in prepared.splits.items():
            if name.startswith("test"):
                write_submission(trainer, split, run.task, folder / run.task.submission_name(name))
            elif name.startswith("validation_"):
                other_splits[name] = _scores(trainer, split)
    if run.options.held_out_share and trainer.is_world_process_zero():
        write_json(list(prepared.rows.positions), folder / TRAINING_ROWS_NAME)
    trainer.save_model()
    seconds = time.perf_counter() - start
    with prepared.training_form():
        out_of_sample = judge_labels(prepared, untrained, run, folder) if run.cross_validate else None
        label_errors = (
            find_label_errors(trainer, prepared, run, folder, out_of_sample) if run.options.label_noise else None
        )
    results = results_of(run, trainer, seconds, resumed=checkpoint is not None)
    results["seconds_per_epoch"] = float(np.mean(timer.seconds)) if timer.seconds else None
    if trainer.is_world_process_zero():
        results |= {"label_errors": label_errors} | ({"other_splits": other_splits} if other_splits else {})
        results |= {"best_model": best_model} if best_model else {}
        if out_of_sample is not None:
            results["cross_validation"] = {"label_errors": estimated_label_errors(out_of_sample)}
        results |= {"submissions": run.submissions} if run.submissions else {}
        write_predictions(*trainer.last_evaluation, folder / PREDICTIONS_NAME)
        write_json(results, folder / RESULTS_NAME)
    return results


def metrics_function(task: Task) -> Callable[[EvalPrediction], dict[str, float]]:
    """A task's scores in the form of `compute_metrics`."""
    metrics = metrics_of(task)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return metrics.compute(predictions=prediction.predictions, references=prediction.label_ids)

    return compute_metrics


def _is_scored(trainer: RunTrainer) -> bool:
    last_step = trainer.state.global_step
    return any("eval_loss" in entry and entry["step"] == last_step for entry in trainer.state.log_history)


def _scores(trainer: RunTrainer, split) -> dict[str, float]:
    return without_times(trainer.predict(split, metric_key_prefix="eval").metrics)


def _predict_again(trainer: RunTrainer) -> dict[str, float]:
    """The scores of the model as it is now, whose predictions are kept; without a log entry."""
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    trainer.last_evaluation = output.predictions, output.label_ids
    return without_times(output.metrics)
