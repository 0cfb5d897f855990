"""Finished runs in a small file, a line for each setting, to keep beside code and to make tables from."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import InputError
from ..files import replacing
from ..runner.results import RESULTS_NAME, check_version, read_result, without_times
from ..runner.run_folder import RUN_NAME

SWEEPS_FOLDER = "sweeps"
_DIGITS, _COURSE_DIGITS = 6, 4
_OF_A_SETTING = ("schema_version", "task", "method", "model", "data", "config", "config_hash", "metrics", "versions")
# Only of models in folders.
_MODEL_DIGEST = "model_digest"
_OF_A_RUN = ("last_epoch", "distilled_steps", "coverage", "seconds", "seconds_per_epoch", "label_errors", "device")


def read_results(sources: Iterable[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Every finished run in folders of runs and files of records, with its folder or file.

    Training arguments that have their defaults are left out of their configs, as in records.

    Args:
        sources: Folders, searched for `results.json`, files with one such result in each line, and files written by
            `collect`.

    Raises:
        InputError: If a source holds no run, or one of another version of the package.
    """
    found = []
    for source in sources:
        if source.is_file():
            try:
                lines = [json.loads(line) for line in source.read_text().splitlines()]
                runs = [(source, result) for line in lines for result in _runs(line)]
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(
                    f"{source} must be a file of records as `collect` writes them, got another one ({error!r}). Give "
                    "such a file, or a folder with runs."
                ) from error
            for _, result in runs:
                check_version(result["schema_version"], source)
        else:
            runs = [(path.parent, read_result(path)) for path in sorted(_result_files(source))]
        if not runs:
            raise InputError(
                f"{source} must contain finished runs ({RESULTS_NAME}, or a line for each setting), found none. Run "
                "run_glue.py first."
            )
        found += [(place, {**result, "config": without_defaults(result["config"])}) for place, result in runs]
    return found


def _result_files(folder: Path) -> Iterator[Path]:
    """The results in a folder; runs that are under way may remove checkpoints meanwhile."""
    for place, folders, files in os.walk(folder):
        # The folder of a model that was trained further may be called so too.
        checkpoints = {name for name in folders if name.startswith(PREFIX_CHECKPOINT_DIR) and RUN_NAME in files}
        folders[:] = [name for name in folders if name not in checkpoints | {SWEEPS_FOLDER}]
        if RESULTS_NAME in files:
            yield Path(place) / RESULTS_NAME


def collect(runs: Path, output: Path) -> int:
    """Adds the finished runs of a folder to a file of records, and its searches to one beside it.

    A line holds a setting, without training arguments that have their defaults, and its runs by seed: the scores of
    the last epoch and, to four digits, the course of the headline metric. A run that is already there is replaced;
    none is ever dropped, also where several processes collect into the same file.

    Args:
        runs: Folder with runs, or file with a result in each line.
        output: File `<name>.jsonl`; searches go to `<name>.sweeps.jsonl`.

    Returns:
        Runs in the file afterwards.

    Raises:
        InputError: If there are no finished runs.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(output.with_name(f".{output.name}.lock")):
        return _collect(runs, output)


def _collect(runs: Path, output: Path) -> int:
    sources = [output, runs] if output.exists() else [runs]
    key = ("task", "method", "config_hash", "data", _MODEL_DIGEST, "seed")
    merged = {_key(result, key): result for _, result in read_results(sources)}
    lines: dict[str, dict[str, Any]] = {}
    for result in sorted(merged.values(), key=lambda result: (_key(result, key[:-1]), result["seed"])):
        setting = {name: result[name] for name in (*_OF_A_SETTING, _MODEL_DIGEST) if name in result}
        line = lines.setdefault(_key(setting, setting), setting | {"runs": {}})
        line["runs"][str(result["seed"])] = _record(result)
    _write(lines.values(), output)
    searches = [json.loads(path.read_text()) for path in sorted((runs / SWEEPS_FOLDER).glob("*.json"))]
    if searches:
        searches = [search | {"config": without_defaults(search["config"])} for search in searches]
        path = output.with_suffix(".sweeps.jsonl")
        earlier = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        studies = {_key(item, ("task", "method", "study", "budget")): item for item in [*earlier, *searches]}
        _write([rounded(studies[name]) for name in sorted(studies)], path)
    return len(merged)


def _record(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a run beside its setting and seed."""
    kept = {name: result[name] for name in (*_OF_A_RUN, "best_model", "other_splits") if name in result}
    kept["last_epoch"] = without_times(result["last_epoch"])
    names = ("epoch", f"eval_{result['metrics'][0]}")
    course = {name: [epoch[name] for epoch in result["epochs"]] for name in names}
    return rounded(kept) | {"course": rounded(course, _COURSE_DIGITS)}


def _runs(line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The runs of a line in the form of `results.json`, which it may be itself before `collect`."""
    if "last_epoch" in line:
        yield line
        return
    setting = {name: value for name, value in line.items() if name != "runs"}
    for seed, run in line["runs"].items():
        course = run.pop("course")
        epochs = [dict(zip(course, values, strict=True)) for values in zip(*course.values(), strict=True)]
        yield {**setting, "seed": int(seed), **run, "epochs": epochs}


def without_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without training arguments that have their defaults, but with length and learning rate.

    So it is the same with other versions of transformers.
    """
    defaults = _training_defaults()
    training = {
        name: value
        for name, value in config["training"].items()
        if name in ("num_train_epochs", "learning_rate") or name not in defaults or value != defaults[name]
    }
    return {**config, "training": training}


@cache
def _training_defaults() -> dict[str, Any]:
    return json.loads(json.dumps(TrainingArguments(output_dir="unused").to_dict(), default=str))


def _key(item: Mapping[str, Any], names: Iterable[str]) -> str:
    return json.dumps([item.get(name) for name in names], sort_keys=True)


def _write(lines: Iterable[Mapping[str, Any]], path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def rounded(value: Any, digits: int = _DIGITS) -> Any:
    """The same with numbers of so many significant digits, whole ones as integers."""
    if isinstance(value, float):
        shown = float(f"{value:.{digits}g}")
        return int(shown) if shown.is_integer() else shown
    if isinstance(value, Mapping):
        return {name: rounded(item, digits) for name, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list) else value
