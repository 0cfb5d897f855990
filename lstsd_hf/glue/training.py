"""One training run from data to `results.json`."""

import hashlib
import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from torch.utils.data import SequentialSampler
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ..errors import InputError
from ..teachers import TeacherConfig
from ..trainer import LSTSDTrainer
from .metrics import ClassificationMetrics
from .models import load_model
from .results import RESULTS_NAME, SCHEMA_VERSION, epochs_from_log, package_versions, write_json
from .tasks import GlueTask

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
        max_seq_length: Tokens beyond it are cut off.
        max_train_samples: Rows of the training split to use, from its beginning; `None` for all.
    """

    task: GlueTask
    splits: DatasetDict
    data_source: str
    model_name_or_path: str
    teacher: TeacherConfig
    args: TrainingArguments
    max_seq_length: int
    max_train_samples: int | None

    @property
    def config(self) -> dict[str, Any]:
        """What the result depends on, apart from the seed; JSON."""
        training = {name: value for name, value in self.args.to_dict().items() if not name.startswith(_IRRELEVANT)}
        config = {
            "method": {"name": self.teacher.name, **asdict(self.teacher)},
            "task": self.task.name,
            "data": self.data_source,
            "model": self.model_name_or_path,
            "max_seq_length": self.max_seq_length,
            "max_train_samples": self.max_train_samples,
            "training": training,
        }
        return json.loads(json.dumps(config, default=str))

    @property
    def config_hash(self) -> str:
        """Short digest of `config`."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def state(self) -> dict[str, Any]:
        """What tells this run from others in the same folder; JSON."""
        return {"config": self.config, "seed": self.args.seed}

    def default_folder(self, root: Path) -> Path:
        """`<root>/<task>/<model>/<method>/<config hash>-seed<seed>`."""
        model = self.model_name_or_path.rstrip("/").split("/")[-1]
        return root / self.task.name / model / self.teacher.name / f"{self.config_hash}-seed{self.args.seed}"


class GlueTrainer(LSTSDTrainer):
    """Keeps evaluation in the data's order: with length grouping Trainer would reorder predictions too."""

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None


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


def execute(run: GlueRun, folder: Path, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    """Trains, evaluates, saves the model and writes `results.json`.

    Args:
        run: What to run.
        folder: Where everything goes; an existing run there is never mixed with this one.
        resume: Continue an interrupted run there, or start where there is none; a finished one is left as it is.
        overwrite: Delete what is there.

    Returns:
        The content of `results.json`.

    Raises:
        InputError: If the folder holds a run and neither was asked for, or one that cannot be continued.
    """
    if resume and _is_finished(run, folder):
        return json.loads((folder / RESULTS_NAME).read_text())
    checkpoint = _prepare_folder(run, folder, resume, overwrite)
    run.args.output_dir = str(folder)
    start = time.perf_counter()
    set_seed(run.args.seed)
    model, tokenizer = load_model(run.model_name_or_path, run.task)
    tokenized = _tokenize(run, tokenizer)
    trainer = GlueTrainer(
        model=model,
        args=run.args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=_metrics_function(run.task),
        callbacks=[DurationEstimate()],
        teacher=run.teacher,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if not _was_just_evaluated(trainer):
        trainer.evaluate()
    trainer.save_model()
    if "test" in tokenized and run.args.do_predict:
        _write_submission(trainer, tokenized["test"], run.task, folder)
    results = _results(run, trainer, time.perf_counter() - start, resumed=checkpoint is not None)
    if trainer.is_world_process_zero():
        write_json(results, folder / RESULTS_NAME)
    return results


def _is_finished(run: GlueRun, folder: Path) -> bool:
    paths = folder / RESULTS_NAME, folder / RUN_NAME
    return all(path.exists() for path in paths) and json.loads(paths[1].read_text()) == run.state


def _prepare_folder(run: GlueRun, folder: Path, resume: bool, overwrite: bool) -> str | None:
    """The checkpoint to resume from, after the folder has been checked or emptied."""
    with run.args.main_process_first(desc="the run's folder"):
        if not run.args.should_save:
            return _last_complete_checkpoint(folder) if resume else None
        if overwrite and folder.exists():
            _check_is_run(folder)
            shutil.rmtree(folder)
        if (folder / RESULTS_NAME).exists():
            raise InputError(f"{folder} holds a finished run. Use --overwrite to delete it, or another --output_dir.")
        if (folder / RUN_NAME).exists():
            if not resume:
                raise InputError(f"{folder} holds an interrupted run. Use --resume to go on, or --overwrite.")
            if json.loads((folder / RUN_NAME).read_text()) != run.state:
                raise InputError(
                    f"{folder} holds an interrupted run with other settings (see {RUN_NAME} there). Use the same "
                    "settings to resume, or --overwrite."
                )
        elif folder.exists() and any(folder.iterdir()):
            raise InputError(f"`output_dir` must be new, empty or of an earlier run, got {folder}. Choose another.")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(run.state, folder / RUN_NAME)
        return _last_complete_checkpoint(folder) if resume else None


def _check_is_run(folder: Path) -> None:
    if not (folder / RUN_NAME).exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds no run of this program, so --overwrite does not delete it. Choose another.")


def _last_complete_checkpoint(folder: Path) -> str | None:
    # The trainer state is written last, so a checkpoint without it was interrupted while being written.
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]))) if complete else None


def _tokenize(run: GlueRun, tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
    splits = DatasetDict(run.splits)
    if run.max_train_samples is not None:
        splits["train"] = splits["train"].select(range(min(run.max_train_samples, len(splits["train"]))))
    max_length = min(run.max_seq_length, tokenizer.model_max_length)

    def encode(rows: dict[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer(*(rows[name] for name in run.task.text_columns), truncation=True, max_length=max_length)
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        return encoded

    return splits.map(encode, batched=True, keep_in_memory=True, remove_columns=list(run.task.text_columns))


def _metrics_function(task: GlueTask):
    metrics = ClassificationMetrics(task)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return metrics.compute(predictions=prediction.predictions, references=prediction.label_ids)

    return compute_metrics


def _was_just_evaluated(trainer: GlueTrainer) -> bool:
    return any(
        "eval_loss" in entry and entry["step"] == trainer.state.global_step for entry in trainer.state.log_history
    )


def _write_submission(trainer: GlueTrainer, test, task: GlueTask, folder: Path) -> None:
    predictions = np.argmax(trainer.predict(test, metric_key_prefix="test").predictions, axis=-1)
    if not trainer.is_world_process_zero():
        return
    path = folder / f"{task.folder}.tsv"
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write("index\tprediction\n")
        file.writelines(f"{index}\t{task.spelled_label(int(label))}\n" for index, label in enumerate(predictions))
    temporary.replace(path)


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
        "versions": package_versions(),
    }
