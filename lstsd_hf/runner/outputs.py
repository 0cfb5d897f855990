"""What a run writes beside its model: submissions, found label errors, results."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..dynamics.history import History
from ..files import replacing
from ..label_errors import LabelErrorCandidate, rank_label_errors, ranking_quality
from ..memory import ShardedMemory
from .preparation import Prepared, Rows
from .results import SCHEMA_VERSION, device_name, epochs_from_log, package_versions, write_json
from .run import Run
from .tasks import Task
from .trainer import RunTrainer

# Which ranking of the labels is written where there are several.
_BEST_FIRST = ("cross_validation", "history", "memory", "model")


def write_submission(trainer: RunTrainer, test, task: Task, path: Path) -> None:
    """Predicts a test split and writes the answers in the form of GLUE's submissions; every process must call it."""
    predictions = trainer.predict(test, metric_key_prefix="test").predictions
    if not trainer.is_world_process_zero():
        return
    labels = predictions[:, 0].tolist() if task.is_regression else np.argmax(predictions, axis=-1).tolist()
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("index\tprediction\n")
        file.writelines(f"{index}\t{task.spelled_label(label)}\n" for index, label in enumerate(labels))


def find_label_errors(
    trainer: RunTrainer, prepared: Prepared, run: Run, folder: Path, out_of_sample: History | None
) -> dict[str, Any]:
    """Records the replaced labels, and how well the trained model and whatever else was kept find them."""
    rows, positions = prepared.rows.noisy_rows, prepared.rows.positions
    options = run.options
    record = {"rate": options.label_noise, "seed": options.label_noise_seed, "kind": options.label_noise_kind}
    record["rows"] = [positions[row] for row in rows]
    logits = torch.as_tensor(trainer.predict(prepared.splits["train"], metric_key_prefix="train").predictions).float()
    sources = {"model": (logits.softmax(dim=-1), torch.ones(len(logits), dtype=torch.bool))}
    is_sharded = isinstance(trainer.teacher.memory, ShardedMemory)
    if not is_sharded and trainer.teacher.remembered_probabilities() is not None:
        sources["memory"] = trainer.teacher.example_probabilities()
    if run.record_dynamics:
        sources["history"] = trainer.recorded_probabilities()
    if out_of_sample is not None:
        probabilities = torch.from_numpy(np.exp(out_of_sample.log_probs[0]))
        sources["cross_validation"] = probabilities, torch.ones(len(probabilities), dtype=torch.bool)
    rankings = {name: rank_label_errors(*source, prepared.train) for name, source in sources.items()}
    if trainer.is_world_process_zero():
        write_json(record, folder / "label_noise.json")
        best = next(rankings[name] for name in _BEST_FIRST if name in rankings)
        _write_ranking(best, prepared.rows, run.task, folder / "label_errors.jsonl")
    found = {name: ranking_quality(ranking, rows) for name, ranking in rankings.items()}
    return {"count": len(rows), "memory": None, **found}


def _write_ranking(ranking: Sequence[LabelErrorCandidate], rows: Rows, task: Task, path: Path) -> None:
    names = task.label_names
    with replacing(path) as temporary, temporary.open("w") as file:
        for candidate in ranking:
            line = asdict(candidate) | {
                "index": rows.positions[candidate.index],
                "given_label": names[candidate.given_label],
                "believed_label": names[candidate.believed_label],
                "true_label": names[rows.true_labels[candidate.index]],
            }
            file.write(json.dumps(line) + "\n")


def results_of(run: Run, trainer: RunTrainer, seconds: float, resumed: bool) -> dict[str, Any]:
    """The content of `results.json`, but for what only some runs have.

    Args:
        run: The run.
        trainer: Its trainer, after training.
        seconds: How long training and evaluation took.
        resumed: Whether it went on from a checkpoint.
    """
    epochs = epochs_from_log(trainer.state.log_history)
    memory = trainer.teacher.memory
    return {
        "schema_version": SCHEMA_VERSION,
        "task": run.task.name,
        "method": run.teacher.name,
        "model": run.model_name_or_path,
        **({"model_digest": run.model_digest} if run.model_digest else {}),
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
        "distilled_steps": trainer.distilled_steps,
        "coverage": memory.coverage if memory is not None else None,
        "seconds": seconds,
        "resumed": resumed,
        "device": device_name(trainer.args.device),
        "versions": package_versions(),
    }
