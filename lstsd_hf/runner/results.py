"""What a finished run leaves behind: `results.json` by a published schema, and the summary table."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..files import replacing

SCHEMA_VERSION = 3
RESULTS_NAME = "results.json"
PREDICTIONS_NAME = "predictions.npz"
TRAINING_ROWS_NAME = "training_rows.json"
# What Trainer itself logs beside a training loss; the rest is the parts of the loss and what methods log.
OF_TRAINER = ("epoch", "step", "grad_norm", "learning_rate", "num_input_tokens_seen", "num_tokens", "train_")
PACKAGES = ("lstsd-hf", "transformers", "torch", "accelerate", "datasets", "tokenizers")


def results_schema() -> dict[str, Any]:
    """The JSON schema of `results.json`."""
    return json.loads(resources.files(__package__).joinpath("results.schema.json").read_text())


def read_result(path: Path) -> dict[str, Any]:
    """The content of a `results.json`.

    Raises:
        InputError: If it is another file, damaged, or of another version of the package.
    """
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise _not_a_result(path, f"a damaged file ({error})") from error
    if not isinstance(result, dict):
        raise _not_a_result(path, f"a {type(result).__name__}")
    check_version(result.get("schema_version", SCHEMA_VERSION), path)
    for name in results_schema()["required"]:
        if name not in result:
            raise _not_a_result(path, f"a file without `{name}`")
    return result


def _not_a_result(path: Path, found: str) -> InputError:
    return InputError(
        f"{path} must be a result as run_glue.py writes it, got {found}. Run it again with --overwrite, or move it "
        "elsewhere."
    )


def check_version(version: Any, path: Path) -> None:
    """Raises an `InputError` unless a result is of this version of the schema.

    Args:
        version: Its version.
        path: Where it is.
    """
    if version != SCHEMA_VERSION:
        raise InputError(
            f"`schema_version` of {path} must be {SCHEMA_VERSION}, got {version}: another version of lstsd_hf wrote "
            "it. Run it again with --overwrite, or move it elsewhere."
        )


def without_times(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores without how long it took to have them."""
    return {name: value for name, value in scores.items() if not name.endswith(("_runtime", "_per_second"))}


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: metadata.version(name) for name in PACKAGES}


def device_name(device: torch.device) -> str:
    """The GPU's name, or the kind of processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes a JSON file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def write_predictions(logits: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Writes the validation split's `logits` `(num_examples, num_labels)` and `labels`, in the data's order."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, logits=np.asarray(logits, dtype=np.float32), labels=np.asarray(labels))


def epochs_from_log(log_history: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """The evaluations of a run, each with the parts of the latest training loss before it.

    Args:
        log_history: `trainer.state.log_history`.

    Returns:
        One entry for each evaluation: `epoch`, `eval_…`, and of the training log all but what `OF_TRAINER` names.
    """
    epochs = []
    latest: dict[str, float] = {}
    for entry in log_history:
        if "loss" in entry:
            latest = {name: value for name, value in entry.items() if not name.startswith(OF_TRAINER)}
        elif "eval_loss" in entry:
            scores = {name: value for name, value in entry.items() if name.startswith("eval_")}
            # A run that was interrupted after its last evaluation makes it again.
            if epochs and epochs[-1]["epoch"] == entry["epoch"]:
                epochs.pop()
            epochs.append({"epoch": entry["epoch"], **latest, **scores})
    return epochs


def headline(result: Mapping[str, Any]) -> Mapping[str, float]:
    """The scores that a run is judged by: of its last epoch, or with `held_out_share` of the model that it ended with.

    Args:
        result: The content of `results.json`, or what is kept of it.
    """
    return result["best_model"] if result["config"].get("held_out_share") else result["last_epoch"]


def judged_by(result: Mapping[str, Any]) -> str:
    """Which scores these are."""
    return "the epoch chosen by held-out rows" if result["config"].get("held_out_share") else "the last epoch"


def format_table(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with a row for each run; the scores are those of `headline`, in percent."""
    metrics = results[0]["metrics"]
    has_seeds = len({result["seed"] for result in results}) > 1
    header = [
        "method",
        *(["seed"] if has_seeds else []),
        *metrics,
        "nll",
        "ece",
        "distilled steps",
        "coverage",
        "s",
    ]
    rows = []
    for result in results:
        last = headline(result)
        coverage = result["coverage"]
        rows.append(
            [
                result["method"],
                *([str(result["seed"])] if has_seeds else []),
                *(f"{100 * last[f'eval_{name}']:.2f}" for name in metrics),
                *(f"{last[name]:.3f}" if name in last else "-" for name in ("eval_nll", "eval_ece")),
                str(result["distilled_steps"]),
                "-" if coverage is None else f"{coverage:.2f}",
                f"{result['seconds']:.0f}",
            ]
        )
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
