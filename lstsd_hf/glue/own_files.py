"""Reading one's own CSV and JSON files, and making a task of their columns and labels."""

import csv
import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset, DatasetDict

from ..errors import InputError
from ..text_columns import LABEL, choose_text_columns
from .tasks import TASKS, GlueTask

logger = logging.getLogger(__name__)

Row = tuple[int, dict[str, Any]]
"""A row with its line number."""

# A field may be a whole document; the csv module's own limit is 131,072 characters.
_LARGEST_FIELD = 2**31 - 1
# Classes that a message names.
_SHOWN = 10


def load_files(
    train_file: str,
    validation_file: str,
    test_file: str | None = None,
    text_columns: Sequence[str] | None = None,
) -> tuple[GlueTask, DatasetDict]:
    """One's own data: CSV with a header or JSON lines, with a column `label` and one or two columns of text.

    Which columns are taken for text is logged.

    Args:
        train_file: Path of the training split. Labels that are numbers, not all of them whole, make a regression.
        validation_file: Path of the validation split.
        test_file: Path of an unlabelled split to predict.
        text_columns: One or two columns of text; `None` chooses them, see `choose_text_columns`.

    Returns:
        A task made from the columns and the training split's labels (in sorted order), and the splits.

    Raises:
        InputError: If a file is missing, empty or malformed, has a label unknown to the training split, or does not
            tell which columns are texts.
    """
    paths = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {name: read_file(Path(path)) for name, path in paths.items() if path is not None}
    # Labels first: they tell a column that says the label.
    for name, rows in files.items():
        for line, row in rows if name != "test" else []:
            place = f"{paths[name]}, line {line}"
            _check_values(row, [LABEL], place)
            row[LABEL] = _spelled(row[LABEL], place)
    texts, left_out = choose_text_columns([row for _, row in files["train"]], train_file, text_columns)
    noted = f" Left out: {', '.join(f'{name} ({reason})' for name, reason in left_out.items())}." if left_out else ""
    logger.info(f"Texts of {train_file}: {', '.join(texts)}.{noted}")
    for name, rows in files.items():
        for line, row in rows:
            _check_values(row, texts, f"{paths[name]}, line {line}")
    task = _task_of([(line, row[LABEL]) for line, row in files["train"]], texts, train_file)
    splits = DatasetDict()
    for name, rows in files.items():
        columns: dict[str, list] = {column: [str(row[column]) for _, row in rows] for column in texts}
        if name != "test":
            columns[LABEL] = [parse_label(row[LABEL], task, f"{paths[name]}, line {line}") for line, row in rows]
        splits[name] = Dataset.from_dict(columns)
    return task, splits


def parse_label(label: str, task: GlueTask, place: str) -> int | float:
    """The class index or number that a label spells.

    Args:
        label: The label as a file has it.
        task: The task.
        place: File and line, for the error.

    Raises:
        InputError: If the task knows no such label.
    """
    if task.is_regression:
        number = _number(label)
        if number is None:
            raise InputError(f"{place}: the label must be a finite number, got {label!r}.")
        return number
    spelled = [task.spelled_label(index) for index in range(len(task.label_names))]
    if label not in spelled:
        raise InputError(f"{place}: the label must be one of {', '.join(spelled)}, got {label!r}.")
    return spelled.index(label)


def _task_of(labels: list[tuple[int, str]], texts: tuple[str, ...], path: str) -> GlueTask:
    """Classification by the labels' names in sorted order, or a regression where some are fractions."""
    label_names = tuple(sorted({label for _, label in labels}))
    if all(re.fullmatch(r"-?\d+", name) for name in label_names):
        label_names = tuple(sorted(label_names, key=lambda name: (int(name), name)))
    if len(label_names) < 2:
        raise InputError(f"{path} must have at least 2 different labels, got {list(label_names)}.")
    for line, label in labels:
        if any(character in label for character in "\t\n\r"):
            raise InputError(
                f"{path}, line {line}: the label must be one line without tabs, got {label!r}. Submissions are files "
                "of lines and tabs: rename it."
            )
    numbers = [_number(name) for name in label_names]
    # Whole numbers are names of classes.
    fractions = [name for name, number in zip(label_names, numbers, strict=True) if number and not number.is_integer()]
    if not fractions:
        shown = ", ".join(label_names[:_SHOWN]) + (", …" if len(label_names) > _SHOWN else "")
        logger.info(f"The labels of {path} are {len(label_names)} classes: {shown}.")
        return _own_task(texts, label_names, labels_are_names=True)
    if None in numbers:
        no_number = label_names[numbers.index(None)]
        line = next(line for line, label in labels if label == no_number)
        raise InputError(
            f"{path}, line {line}: the label must be a number as others are ({fractions[0]}), got {no_number!r}. "
            "Leave the row out, or label it; classes must not be named by fractions."
        )
    logger.info(f"The labels of {path} are numbers with fractions: a regression.")
    return _own_task(texts, (), metrics=TASKS["stsb"].metrics)


def _check_values(row: dict[str, Any], names: Sequence[str], place: str) -> None:
    missing = [name for name in names if name not in row]
    if missing:
        raise InputError(f"{place}: columns {missing} missing, got {sorted(row)}. Rename or add them.")
    for name in names:
        value = row[name]
        if value is None:
            raise InputError(f"{place}: `{name}` must have a value, got null. Leave the row out, or write one.")
        if not isinstance(value, str | int | float):
            raise InputError(
                f"{place}: `{name}` must be a text or a number, got a {type(value).__name__}: {str(value)[:60]}. Write "
                "one plain value in each column."
            )
        try:
            str(value).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place}: `{name}` must be text that UTF-8 can hold, got half of a character at position "
                f"{error.start} ({value[error.start]!r}). Escapes such as \\ud83d come in pairs: repair or remove it."
            ) from error


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


# ---- Files ----


def read_file(path: Path) -> list[Row]:
    """The rows of a CSV file with a header, or of a file of JSON lines.

    Raises:
        InputError: If the file is missing, empty or malformed.
    """
    readers = {".csv": _read_csv, ".json": _read_json_lines, ".jsonl": _read_json_lines}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path} must be one of {', '.join(readers)}, got the suffix {path.suffix!r}.")
    if not path.exists():
        raise InputError(f"{path} does not exist. Check the path.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(readers[path.suffix.lower()](file))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be UTF-8 text: {error}. Save it as UTF-8.") from error
    except OSError as error:
        raise InputError(f"{path} must be a file that can be read: {error.strerror}. Check the path.") from error
    if not rows:
        raise InputError(f"{path} is empty: a split must have at least one row.")
    return rows


_HAVE_SEMICOLONS = (
    " Semicolons in the header do not separate: save it with commas; pandas: `df.to_csv(path, index=False)`."
)


def _read_csv(file: TextIO) -> Iterator[Row]:
    earlier = csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.DictReader(file, strict=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise InputError(f"{file.name}, line 1: the header must name each column once, got {names}.")
        separators = [mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]]
        if separators:
            raise InputError(
                f"{file.name}, line 1: fields must be separated by commas, got {separators[0]!r} in {names[0]!r}. "
                "Save it with commas; pandas: `df.to_csv(path, index=False)`."
            )
        for row in reader:
            if None in row or None in row.values():
                hint = _HAVE_SEMICOLONS if any(";" in name for name in names) else ""
                raise InputError(f"{file.name}, line {reader.line_num}: expected {len(names)} fields.{hint}")
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(
            f"{file.name}, line {reader.line_num}: {error}. A field with a comma, a quote or a line break must stand "
            "in quotes, and a quote in it must be doubled."
        ) from error
    finally:
        csv.field_size_limit(earlier)


def _read_json_lines(file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        place = f"{file.name}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=lambda pairs, place=place: _object(pairs, place))
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not JSON: {error}. Write one object in each line.{_ONE_A_LINE}") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected a JSON object, got {type(row).__name__}.{_ONE_A_LINE}")
        if row and all(isinstance(value, dict | list) for value in row.values()):
            raise InputError(f"{place}: expected a row, got whole columns: {', '.join(map(repr, row))}.{_ONE_A_LINE}")
        yield number, row


_ONE_A_LINE = ' pandas: `df.to_json(path, orient="records", lines=True)`.'


def _object(pairs: list[tuple[str, Any]], place: str) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise InputError(f"{place}: an object must name each column once, got {names}.")
    return dict(pairs)


def _own_task(texts: tuple[str, ...], label_names: tuple[str, ...], **options: Any) -> GlueTask:
    return GlueTask(
        name="custom", folder="custom", text_columns=texts, tsv_columns=(), label_names=label_names, **options
    )
