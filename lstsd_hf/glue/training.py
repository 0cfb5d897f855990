"""One training run from data to `results.json`."""

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from torch.utils.data import SequentialSampler
from transformers import EvalPrediction, TrainerCallback, TrainingArguments, set_seed

from ..checkpoint import newest_whole_checkpoint
from ..errors import InputError
from ..files import replacing
from ..label_errors import LabelErrorCandidate, rank_label_errors, ranking_quality
from ..schedules import TrainingPlan
from ..teachers import TeacherConfig
from ..trainer import LSTSDTrainer
from .metrics import metrics_of
from .preparation import DataOptions, Prepared, prepare
from .results import (
    PREDICTIONS_NAME,
    RESULTS_NAME,
    SCHEMA_VERSION,
    device_name,
    epochs_from_log,
    package_versions,
    write_json,
    write_predictions,
)
from .tasks import TASKS, GlueTask

logger = logging.getLogger(__name__)

RUN_NAME = "run.json"

# Training arguments without influence on the result; the seed names the run beside the hash.
_IRRELEVANT = ("output_dir", "run_name", "seed", "report_to", "disable_tqdm", "do_", "logging_", "save_", "hub_")
_IRRELEVANT += ("push_to_hub", "log_", "dataloader_num", "dataloader_pin", "dataloader_pers", "dataloader_pref")
_IRRELEVANT += ("project", "trackio_", "eval_on_start", "per_device_eval_batch_size", "resume_from_checkpoint")


@dataclass(frozen=True)
class GlueRun:
    """Everything that determines a run.

    Attributes:
        task: The task.
        splits: Raw splits `train`, `validation` and, for predictions, `test`.
        data_source: Where they came from: "hub", "synthetic", "tsv" (GLUE's release), or one's own files.
        model_name_or_path: Model as named on the command line.
        teacher: The method's options.
        args: Training arguments; `output_dir` is set by `folder`.
        options: What is done to the data before training.
        untuned: Where the settings were searched: what the searched training settings were before.
    """

    task: GlueTask
    splits: DatasetDict
    data_source: str
    model_name_or_path: str
    teacher: TeacherConfig
    args: TrainingArguments
    options: DataOptions = field(default_factory=DataOptions)
    untuned: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """What the result depends on, apart from the seed; JSON."""
        training = {name: value for name, value in self.args.to_dict().items() if not name.startswith(_IRRELEVANT)}
        if self.args.world_size > 1:  # several processes make larger batches
            training["world_size"] = self.args.world_size
        defaults = asdict(DataOptions())
        # What was added later is left out where it does nothing, so that the digests of older runs stay.
        options = {
            name: value
            for name, value in asdict(self.options).items()
            if value != defaults[name] or name in ("max_seq_length", "max_train_samples")
        }
        config = {
            "method": {"name": self.teacher.name, **asdict(self.teacher)},
            "task": self.task.name,
            **({} if self.task.name in TASKS else {"text_columns": self.task.text_columns}),
            "data": self.data_source,
            "model": self.model_name_or_path,
            **options,
            **({"untuned": dict(self.untuned)} if self.untuned else {}),
            "training": training,
        }
        return json.loads(json.dumps(config, default=str))

    @property
    def plan(self) -> TrainingPlan:
        """Its length."""
        args, limit, examples = self.args, self.options.max_train_samples, len(self.splits["train"])
        examples = examples if limit is None else min(limit, examples)
        batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        steps = max(1, math.ceil(examples / batch))
        max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps)
        return TrainingPlan(math.ceil(max_steps / steps), steps, max_steps)

    @property
    def config_hash(self) -> str:
        """Short digest of `config`."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def state(self) -> dict[str, Any]:
        """What tells this run from others in the same folder; JSON."""
        return {"config": self.config, "seed": self.args.seed, "data_digest": self.data_digest}

    @cached_property
    def data_digest(self) -> str:
        """Short digest of the labelled splits' rows."""
        return self._digest("train", "validation")

    @cached_property
    def submissions(self) -> dict[str, str]:
        """The submissions that are asked for, each with a short digest of the texts that it answers."""
        tests = [name for name in self.splits if name.startswith("test")] if self.args.do_predict else []
        return {self.task.submission_name(name): self._digest(name) for name in tests}

    def _digest(self, *splits: str) -> str:
        digest = hashlib.sha256()
        for name in splits:
            labels = [] if name.startswith("test") else ["label"]
            columns = self.splits[name].select_columns([*self.task.text_columns, *labels])[:]
            digest.update(json.dumps(columns, sort_keys=True).encode())
        return digest.hexdigest()[:10]

    def default_folder(self, root: Path) -> Path:
        """`<root>/<task>/<model>/<method>/<config hash>-seed<seed>`."""
        model = self.model_name_or_path.rstrip("/").split("/")[-1]
        return root / self.task.name / model / self.teacher.name / f"{self.config_hash}-seed{self.args.seed}"


class GlueTrainer(LSTSDTrainer):
    """Evaluates all rows in the data's order, though with length grouping Trainer would reorder them and with
    `dataloader_drop_last` leave some out; and keeps the logits and labels of the last evaluation in `last_evaluation`.
    """

    last_evaluation: tuple[np.ndarray, np.ndarray] | None = None
    _keeps_predictions = False

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def get_eval_dataloader(self, *args, **kwargs):
        with self._all_rows():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args, **kwargs):
        with self._all_rows():
            return super().get_test_dataloader(*args, **kwargs)

    @contextmanager
    def _all_rows(self) -> Iterator[None]:
        drops_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drops_last

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        # The scores are made of the logits alone; other outputs, such as BART's encoder states, may be large.
        ignored = [*(ignore_keys or ()), *self.outputs_beside_logits(model, inputs)]
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignored)

    def evaluate(self, *args, **kwargs):
        self._keeps_predictions = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._keeps_predictions = False

    def evaluation_loop(self, *args, **kwargs):
        output = super().evaluation_loop(*args, **kwargs)
        if self._keeps_predictions:
            self.last_evaluation = output.predictions, output.label_ids
        return output


class DurationEstimate(TrainerCallback):
    """Says once, after the first steps, how long training will take."""

    WARM_UP_STEPS = 2
    MEASURED_STEPS = 8

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step - self._first_step
        if step == self.WARM_UP_STEPS:
            self._start = time.perf_counter()
        elif step == self.WARM_UP_STEPS + self.MEASURED_STEPS and state.is_world_process_zero:
            seconds = (time.perf_counter() - self._start) / self.MEASURED_STEPS * (state.max_steps - state.global_step)
            logger.info(f"About {seconds / 60:.1f} more minutes of training ({state.max_steps} steps), and evaluation.")

    def on_train_begin(self, args, state, control, **kwargs):
        self._first_step = state.global_step


class EpochTimer(TrainerCallback):
    """Measures the training part of each epoch, the teacher's passes included."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Resumed half-way, an epoch is not measured.
        self._is_whole = float(state.epoch or 0).is_integer()
        self._start = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._is_whole:
            self.seconds.append(time.perf_counter() - self._start)


# What the runner needs as it is.
_FIXED = {
    "remove_unused_columns": True,
    "label_names": None,
    "prediction_loss_only": False,
    "batch_eval_metrics": False,
    "eval_do_concat_batches": True,
}


def check_plan(run: GlueRun) -> None:
    """Raises an `InputError` if method, data and length of the run do not fit, before anything is loaded."""
    for name, value in _FIXED.items():
        if getattr(run.args, name) != value:
            raise InputError(
                f"`{name}` must be {value} here, got {getattr(run.args, name)}: scores and submissions are made of all "
                "predictions. Leave it out, or use `LSTSDTrainer` in a script of your own."
            )
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if getattr(run.args, name) < 1:
            raise InputError(f"`{name}` must be at least 1, got {getattr(run.args, name)}.")
    _check_best_metric(run)
    if run.task.is_regression and run.options.label_noise:
        raise InputError(
            f"`label_noise` replaces labels by others and must be 0 for a regression, got {run.options.label_noise}."
        )
    run.teacher.check_plan(run.plan)


def _check_best_metric(run: GlueRun) -> None:
    name = run.args.metric_for_best_model
    known = ["loss", *metrics_of(run.task).names]
    if name is None:
        return
    name = name.removeprefix("eval_")
    # Copies and ensembles put a name in front.
    ending = name.partition("_")[2] if run.teacher.build().predicts_with_copies else name
    if not {name, ending} & {*known}:
        raise InputError(
            f"`metric_for_best_model` must be one of {', '.join(known)} for {run.task.name}, got {name!r}."
        )


def execute(run: GlueRun, folder: Path, *, resume: bool, overwrite: bool, cache: Path) -> dict[str, Any]:
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
        return json.loads((folder / RESULTS_NAME).read_text())
    checkpoint = _prepare_folder(run, folder, resume, overwrite)
    run.args.output_dir = str(folder)
    start = time.perf_counter()
    set_seed(run.args.seed)
    prepared = prepare(run.task, run.splits, run.model_name_or_path, run.options, run.args, cache)
    timer = EpochTimer()
    with prepared.training_form():
        trainer = GlueTrainer(
            model=prepared.model,
            args=run.args,
            train_dataset=prepared.splits["train"],
            eval_dataset=prepared.splits["validation"],
            data_collator=prepared.collator,
            processing_class=prepared.tokenizer,
            compute_metrics=_metrics_function(run.task),
            callbacks=[DurationEstimate(), timer],
            teacher=run.teacher,
        )
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
        other_splits = {}
        for name, split in prepared.splits.items():
            if name.startswith("test"):
                _write_submission(trainer, split, run.task, folder / run.task.submission_name(name))
            elif name.startswith("validation_"):
                other_splits[name] = _scores(trainer, split)
        label_errors = _find_label_errors(trainer, prepared, run, folder) if run.options.label_noise else None
    trainer.save_model()
    results = _results(run, trainer, time.perf_counter() - start, resumed=checkpoint is not None)
    results["seconds_per_epoch"] = float(np.mean(timer.seconds)) if timer.seconds else None
    if trainer.is_world_process_zero():
        results |= {"label_errors": label_errors} | ({"other_splits": other_splits} if other_splits else {})
        results |= {"best_model": best_model} if best_model else {}
        results |= {"submissions": run.submissions} if run.submissions else {}
        write_predictions(*trainer.last_evaluation, folder / PREDICTIONS_NAME)
        write_json(results, folder / RESULTS_NAME)
    return results


def is_finished(run: GlueRun, folder: Path) -> bool:
    """Whether a folder holds the results of this very run."""
    paths = folder / RESULTS_NAME, folder / RUN_NAME
    if not all(path.exists() for path in paths) or json.loads(paths[1].read_text()) != run.state:
        return False
    submitted = json.loads(paths[0].read_text()).get("submissions", {})
    return all(submitted.get(name) == digest and (folder / name).exists() for name, digest in run.submissions.items())


def _prepare_folder(run: GlueRun, folder: Path, resume: bool, overwrite: bool) -> str | None:
    """The checkpoint to resume from, after the folder has been checked or emptied."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`output_dir` must be a folder, got the file {folder}. Choose another.")
    with run.args.main_process_first(desc="the run's folder"):
        if not run.args.should_save:
            return _checkpoint_to_resume(run, folder) if resume else None
        if overwrite and folder.exists():
            _check_is_run(folder)
            shutil.rmtree(folder)
        if (folder / RESULTS_NAME).exists():
            lacks = " that did not predict this test split" if run.submissions else ""
            raise InputError(
                f"{folder} holds a finished run{lacks}. Use --overwrite to delete it, or another --output_dir."
            )
        # With nothing else there, the earlier run did not begin to train.
        if (folder / RUN_NAME).exists() and len(list(folder.iterdir())) > 1:
            if not resume:
                raise InputError(f"{folder} holds an interrupted run. Use --resume to go on, or --overwrite.")
            if json.loads((folder / RUN_NAME).read_text()) != run.state:
                raise InputError(
                    f"{folder} holds an interrupted run with other settings (see {RUN_NAME} there). Use the same "
                    "settings to resume, or --overwrite."
                )
        elif folder.exists() and not (folder / RUN_NAME).exists() and any(folder.iterdir()):
            raise InputError(f"`output_dir` must be new, empty or of an earlier run, got {folder}. Choose another.")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(run.state, folder / RUN_NAME)
        return _checkpoint_to_resume(run, folder) if resume else None


def _check_is_run(folder: Path) -> None:
    others = sorted(path.parent for path in folder.rglob(RUN_NAME) if path.parent != folder)
    if others:
        raise InputError(
            f"{folder} holds other runs, such as {others[0]}, so --overwrite does not delete it. Choose another "
            "--output_dir, or move them."
        )
    if not (folder / RUN_NAME).exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds no run of this program, so --overwrite does not delete it. Choose another.")


def _checkpoint_to_resume(run: GlueRun, folder: Path) -> str | None:
    """The newest whole checkpoint; none where a run was interrupted before its first one was whole."""
    found = newest_whole_checkpoint(folder, run.teacher.build().is_stateful)
    return str(found[0]) if found is not None else None


def _metrics_function(task: GlueTask):
    metrics = metrics_of(task)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return metrics.compute(predictions=prediction.predictions, references=prediction.label_ids)

    return compute_metrics


def _is_scored(trainer: GlueTrainer) -> bool:
    last_step = trainer.state.global_step
    return any("eval_loss" in entry and entry["step"] == last_step for entry in trainer.state.log_history)


def _scores(trainer: GlueTrainer, split) -> dict[str, float]:
    return _without_times(trainer.predict(split, metric_key_prefix="eval").metrics)


def _predict_again(trainer: GlueTrainer) -> dict[str, float]:
    """The scores of the model as it is now, whose predictions are kept; without a log entry."""
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    trainer.last_evaluation = output.predictions, output.label_ids
    return _without_times(output.metrics)


def _without_times(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith(("_runtime", "_per_second"))}


def _write_submission(trainer: GlueTrainer, test, task: GlueTask, path: Path) -> None:
    predictions = trainer.predict(test, metric_key_prefix="test").predictions
    if not trainer.is_world_process_zero():
        return
    labels = predictions[:, 0].tolist() if task.is_regression else np.argmax(predictions, axis=-1).tolist()
    with replacing(path) as temporary, temporary.open("w") as file:
        file.write("index\tprediction\n")
        file.writelines(f"{index}\t{task.spelled_label(label)}\n" for index, label in enumerate(labels))


def _find_label_errors(trainer: GlueTrainer, prepared: Prepared, run: GlueRun, folder: Path) -> dict[str, Any]:
    """Records the replaced labels and how well the trained model and, where there is one, the memory find them."""
    rows = prepared.noisy_rows
    record = {"rate": run.options.label_noise, "seed": run.options.label_noise_seed, "rows": rows}
    logits = torch.as_tensor(trainer.predict(prepared.splits["train"], metric_key_prefix="train").predictions).float()
    sources = {"model": (logits.softmax(dim=-1), torch.ones(len(logits), dtype=torch.bool))}
    if trainer.teacher.memory is not None:
        sources["memory"] = trainer.teacher.example_probabilities()
    rankings = {name: rank_label_errors(*source, prepared.train) for name, source in sources.items()}
    if trainer.is_world_process_zero():
        write_json(record, folder / "label_noise.json")
        _write_ranking(rankings.get("memory", rankings["model"]), run, folder / "label_errors.jsonl")
    found = {name: ranking_quality(ranking, rows) for name, ranking in rankings.items()}
    return {"count": len(rows), "memory": None, **found}


def _write_ranking(ranking: Sequence[LabelErrorCandidate], run: GlueRun, path: Path) -> None:
    names, true_labels = run.task.label_names, run.splits["train"]["label"][:]
    with replacing(path) as temporary, temporary.open("w") as file:
        for candidate in ranking:
            line = asdict(candidate) | {
                "given_label": names[candidate.given_label],
                "believed_label": names[candidate.believed_label],
                "true_label": names[true_labels[candidate.index]],
            }
            file.write(json.dumps(line) + "\n")


def _results(run: GlueRun, trainer: GlueTrainer, seconds: float, resumed: bool) -> dict[str, Any]:
    epochs = epochs_from_log(trainer.state.log_history)
    memory = trainer.teacher.memory
    return {
        "schema_version": SCHEMA_VERSION,
        "task": run.task.name,
        "method": run.teacher.name,
        "model": run.model_name_or_path,
        "data": {
            "source": run.data_source,
            "generated": run.data_source == "synthetic",
            "digest": run.data_digest,
            "train_examples": len(trainer.train_dataset),
            "validation_examples": len(trainer.eval_dataset),
        },
        "seed": run.args.seed,
        "config": run.config,
        "config_hash": run.config_hash,
        "metrics": list(run.task.metrics),
        "epochs": epochs,
        "last_epoch": epochs[-1],
        "best_epoch": max(epochs, key=lambda epoch: epoch[f"eval_{run.task.headline_metric}"]),
        "distilled_steps": trainer.teacher.distilled_steps,
        "coverage": memory.coverage if memory is not None else None,
        "seconds": seconds,
        "resumed": resumed,
        "device": device_name(trainer.args.device),
        "versions": package_versions(),
    }
