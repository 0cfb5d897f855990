"""Loading a task's splits: from the hub, from GLUE's TSV files, generated, or from one's own CSV and JSON files."""

import csv
import json
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset, DatasetDict, load_dataset

from ..errors import InputError
from .synthetic import SYNTHETIC_TASKS
from .tasks import TASKS, GlueTask

logger = logging.getLogger(__name__)

HUB_DATASET = "nyu-mll/glue"


def load_task(task: GlueTask, source: str) -> DatasetDict:
    """The splits `train`, `validation` and, where there are such, `validation_mismatched`, `test`, `test_mismatched`.

    Every split has the task's text columns and, if labelled, a `label`: an integer, or a float for a regression.

    Args:
        task: The task.
        source: "hub", "synthetic" (RTE and CoLA only), or a folder with GLUE's TSV files (`RTE/train.tsv`, …).

    Raises:
        InputError: If the data cannot be had or is malformed.
    """
    if source == "hub":
        return _load_from_hub(task)
    if source == "synthetic":
        if task.name not in SYNTHETIC_TASKS:
            raise InputError(
                f"`data` can be 'synthetic' for the tasks {' and '.join(SYNTHETIC_TASKS)} only, got task {task.name!r}."
            )
        return DatasetDict({name: Dataset.from_list(rows) for name, rows in SYNTHETIC_TASKS[task.name]().items()})
    return _load_from_tsv(task, Path(source))


def load_files(train_file: str, validation_file: str, test_file: str | None = None) -> tuple[GlueTask, DatasetDict]:
    """One's own data: CSV with a header or JSON lines, with a column `label` and one or two columns of text.

    Which columns are taken for text is logged.

    Args:
        train_file: Path of the training split; its first two columns beside `label` and `idx` are the texts. Labels
            that are numbers, not all of them whole, make a regression.
        validation_file: Path of the validation split.
        test_file: Path of an unlabelled split to predict.

    Returns:
        A task made from the columns and the training split's labels (in sorted order), and the splits.

    Raises:
        InputError: If a file is missing, empty or malformed, or has a label unknown to the training split.
    """
    paths = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {name: _read_file(Path(path)) for name, path in paths.items() if path is not None}
    _, first_row = files["train"][0]
    text_columns = tuple(name for name in first_row if name not in ("label", "idx"))[:2]
    if not text_columns:
        raise InputError(f"{train_file} must have a column of text beside `label`, got {sorted(first_row)}.")
    others = [name for name in first_row if name not in (*text_columns, "label", "idx")]
    left_out = f" Left out: {', '.join(others)}." if others else ""
    logger.info(f"Texts of {train_file}: {', '.join(text_columns)}.{left_out}")
    for name, rows in files.items():
        wanted = {*text_columns, *(["label"] if name != "test" else [])}
        for line, row in rows:
            missing = {column for column in wanted if row.get(column) is None}
            if missing:
                raise InputError(f"{paths[name]}, line {line}: columns {sorted(missing)} missing, got {sorted(row)}.")
            if name != "test":
                row["label"] = _spelled(row["label"], f"{paths[name]}, line {line}")
    label_names = tuple(sorted({row["label"] for _, row in files["train"]}))
    if len(label_names) < 2:
        raise InputError(f"{train_file} must have at least 2 different labels, got {list(label_names)}.")
    numbers = [_number(name) for name in label_names]
    # Whole numbers are names of classes.
    fractions = [name for name, number in zip(label_names, numbers, strict=True) if number and not number.is_integer()]
    if fractions and None in numbers:
        no_number = label_names[numbers.index(None)]
        line = next(line for line, row in files["train"] if row["label"] == no_number)
        raise InputError(
            f"{train_file}, line {line}: the label must be a number as others are ({fractions[0]}), got {no_number!r}. "
            "Leave the row out, or label it; classes must not be named by fractions."
        )
    if fractions:
        logger.info(f"The labels of {train_file} are numbers with fractions: a regression.")
        task = GlueTask("custom", "custom", text_columns, (), (), metrics=TASKS["stsb"].metrics)
    else:
        task = GlueTask("custom", "custom", text_columns, (), label_names, labels_are_names=True)
    splits = DatasetDict()
    for name, rows in files.items():
        columns: dict[str, list] = {column: [str(row[column]) for _, row in rows] for column in text_columns}
        if name != "test":
            columns["label"] = [_label(row["label"], task, f"{paths[name]}, line {line}") for line, row in rows]
        splits[name] = Dataset.from_dict(columns)
    return task, splits


def _load_from_hub(task: GlueTask) -> DatasetDict:
    try:
        splits = load_dataset(HUB_DATASET, task.name)
    except (OSError, ValueError) as error:
        # Unreachable, offline or not cached: `datasets` has a class for each, all below these two.
        raise InputError(
            f"{HUB_DATASET} could not be loaded from the hub ({type(error).__name__}). Ways on: "
            "connect to the internet; point GLUE_DIR or --data at a folder with GLUE's TSV files; use --train_file and "
            "--validation_file; or try --demo, which needs no data."
        ) from error
    # The hub marks the labels of test splits as unknown with -1.
    return DatasetDict(
        {
            name.removesuffix("_matched"): rows.remove_columns("label") if name.startswith("test") else rows
            for name, rows in splits.items()
        }
    )


def _load_from_tsv(task: GlueTask, folder: Path) -> DatasetDict:
    splits = DatasetDict()
    paths = {split: folder / task.folder / f"{stem}.tsv" for split, stem in task.tsv_files.items()}
    for split, path in paths.items():
        is_test = split.startswith("test")
        if path.is_file():
            splits[split] = Dataset.from_list(_read_tsv(path, task, labelled=not is_test))
        elif not is_test:
            raise InputError(
                f"{path} does not exist. `data` must be 'hub', 'synthetic' or a folder with GLUE's TSV release, got "
                f"{str(folder)!r}; expected {task.folder}/train.tsv and {task.folder}/{paths['validation'].name} in it."
            )
    return splits


def _read_tsv(path: Path, task: GlueTask, labelled: bool) -> list[dict[str, str | int | float]]:
    # Neither `csv` nor `str.splitlines`: quotes are text, and so are the exotic line separators in some sentences.
    text = path.read_text(encoding="utf-8-sig")
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    number_of_first_row = 1
    positions = task.tsv_columns
    width = 4
    if task.has_header or not labelled:
        header = lines[0].split("\t") if lines else []
        wanted = task.tsv_columns if task.has_header else task.text_columns
        wanted = wanted if labelled else wanted[: len(task.text_columns)]
        missing = [name for name in wanted if name not in header]
        if missing:
            raise InputError(f"{path}, line 1: the header must name the columns {list(wanted)}, {missing} missing.")
        positions = tuple(header.index(name) for name in wanted)
        width = len(header)
        lines = lines[1:]
        number_of_first_row = 2
    if not lines:
        raise InputError(f"{path} is empty: a split must have at least one row.")
    rows = []
    for number, line in enumerate(lines, number_of_first_row):
        fields = line.split("\t")
        if len(fields) < width and task.has_incomplete_rows:
            continue
        if len(fields) != width:
            raise InputError(f"{path}, line {number}: expected {width} tab-separated fields, got {len(fields)}.")
        row = {name: fields[position] for name, position in zip(task.text_columns, positions, strict=False)}
        if labelled:
            row["label"] = _label(fields[positions[-1]], task, f"{path}, line {number}")
        rows.append(row)
    return rows


def _spelled(label: Any, place: str) -> str:
    """A label of one's own data as a text, the same for the same number."""
    text = str(label).strip()
    if text.lower() in ("", "nan"):
        raise InputError(f"{place}: the label must not be empty, got {label!r}. Leave the row out, or label it.")
    # 1 and 1.0 are the same, while 01, 1_1 and 1E2 are names.
    return re.sub(r"^(-?\d+)\.0*$", r"\1", text)


def _number(text: str) -> float | None:
    """The finite number that a text spells in decimal notation, if any."""
    is_number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text.strip())
    return float(text) if is_number and math.isfinite(float(text)) else None


def _label(label: str, task: GlueTask, place: str) -> int | float:
    if task.is_regression:
        number = _number(label)
        if number is None:
            raise InputError(f"{place}: the label must be a finite number, got {label!r}.")
        return number
    spelled = [task.spelled_label(index) for index in range(len(task.label_names))]
    if label not in spelled:
        raise InputError(f"{place}: the label must be one of {', '.join(spelled)}, got {label!r}.")
    return spelled.index(label)


def _read_file(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows with their line numbers."""
    readers = {".csv": _read_csv, ".json": _read_json_lines, ".jsonl": _read_json_lines}
    if path.suffix not in readers:
        raise InputError(f"{path} must be one of {', '.join(readers)}, got the suffix {path.suffix!r}.")
    if not path.is_file():
        raise InputError(f"{path} does not exist. Check the path.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = list(readers[path.suffix](file))
        except UnicodeDecodeError as error:
            raise InputError(f"{path} must be UTF-8 text: {error}.") from error
    if not rows:
        raise InputError(f"{path} is empty: a split must have at least one row.")
    return rows


def _read_csv(file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise InputError(f"{file.name}, line 1: the header must name each column once, got {names}.")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{file.name}, line {reader.line_num}: expected {len(reader.fieldnames)} fields.")
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{file.name}, line {reader.line_num}: {error}.") from error


def _read_json_lines(file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{file.name}, line {number}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise InputError(f"{file.name}, line {number}: expected a JSON object, got {type(row).__name__}.")
        yield number, row
