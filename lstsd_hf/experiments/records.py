"""Finished runs as lines of a small file, to keep beside code and to make tables from."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..errors import InputError
from ..files import replacing
from ..glue.results import RESULTS_NAME, SCHEMA_VERSION

SWEEPS_FOLDER = "sweeps"
_DIGITS = 6
_KEPT = ("schema_version", "task", "method", "model", "data", "seed", "config", "config_hash", "metrics", "last_epoch")
_KEPT += ("distilled_steps", "coverage", "seconds", "seconds_per_epoch", "label_errors", "versions")


def read_results(sources: Iterable[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Every finished run in folders of runs and files of records, with its folder or file.

    Training arguments that have their defaults are left out of their configs, as in records.

    Args:
        sources: Folders, searched for `results.json`, and files written by `collect`.

    Raises:
        InputError: If a source holds no run, or one of another version of the package.
    """
    found = []
    for source in sources:
        if source.is_file():
            runs = [(source, _expanded(json.loads(line))) for line in source.read_text().splitlines()]
        else:
            paths = sorted(source.rglob(RESULTS_NAME))
            runs = [(path.parent, json.loads(path.read_text())) for path in paths]
            runs = [(place, {**result, "config": _without_defaults(result["config"])}) for place, result in runs]
        for place, result in runs:
            if result["schema_version"] != SCHEMA_VERSION:
                path = place if place.is_file() else place / RESULTS_NAME
                raise InputError(
                    f"`schema_version` of {path} must be {SCHEMA_VERSION}, got {result['schema_version']}: another "
                    "version of lstsd_hf wrote it. Run it again with --overwrite, or move it elsewhere."
                )
        if not runs:
            raise InputError(
                f"{source} must contain finished runs ({RESULTS_NAME}, or a line for each), found none. Run "
                "run_glue.py first."
            )
        found += runs
    return found


def collect(runs: Path, output: Path) -> int:
    """Adds the finished runs of a folder to a file of records, and its searches to one beside it.

    A record has the scores of the last epoch, the course of the headline metric, and the settings, without training
    arguments that have their defaults. A run that is already there is replaced; no record is ever dropped.

    Args:
        runs: Folder with runs.
        output: File `<name>.jsonl`; searches go to `<name>.sweeps.jsonl`.

    Returns:
        Records in the file afterwards.

    Raises:
        InputError: If there are no finished runs.
    """
    records = [record(result) for _, result in read_results([runs])]
    count = _merge(records, output, ("task", "method", "config_hash", "data", "seed"))
    searches = [json.loads(path.read_text()) for path in sorted((runs / SWEEPS_FOLDER).glob("*.json"))]
    searches = [_rounded(search | {"config": _without_defaults(search["config"])}) for search in searches]
    if searches:
        _merge(searches, output.with_suffix(".sweeps.jsonl"), ("task", "method", "study", "budget"))
    return count


def record(result: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run, from its result as read by `read_results`."""
    kept = {name: result[name] for name in _KEPT}
    kept["last_epoch"] = {
        name: value for name, value in result["last_epoch"].items() if not name.endswith(("_runtime", "_per_second"))
    }
    names = ("epoch", f"eval_{result['metrics'][0]}")
    kept["course"] = {name: [epoch[name] for epoch in result["epochs"]] for name in names}
    return _rounded(kept)


def _without_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without training arguments that have their defaults, but with length and learning rate."""
    defaults = json.loads(json.dumps(TrainingArguments(output_dir="unused").to_dict(), default=str))
    training = {
        name: value
        for name, value in config["training"].items()
        if name in ("num_train_epochs", "learning_rate") or name not in defaults or value != defaults[name]
    }
    return {**config, "training": training}


def _expanded(line: dict[str, Any]) -> dict[str, Any]:
    """A record with its course in the form of `results.json`."""
    if "course" not in line:
        return line
    course = line.pop("course")
    return line | {"epochs": [dict(zip(course, values, strict=True)) for values in zip(*course.values(), strict=True)]}


def _merge(records: list[dict[str, Any]], path: Path, key: tuple[str, ...]) -> int:
    def key_of(line: Mapping[str, Any]) -> str:
        return json.dumps([f"{line[name]:06}" if name == "seed" else line[name] for name in key], sort_keys=True)

    earlier = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    merged = {key_of(line): line for line in [*earlier, *records]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(merged[name]) + "\n" for name in sorted(merged)))
    return len(merged)


def _rounded(value: Any) -> Any:
    """The same with numbers of six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
