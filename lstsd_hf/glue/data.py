"""Loading a GLUE task's splits: from the hub, from GLUE's TSV files, or generated."""

from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset

from ..errors import InputError
from .own_files import parse_label
from .synthetic import SYNTHETIC_TASKS
from .tasks import GlueTask

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


def _load_from_hub(task: GlueTask) -> DatasetDict:
    try:
        splits = load_dataset(HUB_DATASET, task.name)
    except (OSError, ValueError) as error:
        # Unreachable, offline or not cached: `datasets` has a class for each, all below these two.
        raise InputError(
            f"{HUB_DATASET} could not be loaded from the hub ({type(error).__name__}). Ways on: "
            "connect to the internet; point GLUE_DIR or --data at a folder with GLUE's TSV files; use --train_file and "
            "--validation_file; or try --task rte --demo, which needs no data."
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
        # Labelled splits only: each row of a test split has its number in the submission.
        if len(fields) < width and task.has_incomplete_rows and labelled:
            continue
        if len(fields) != width:
            raise InputError(f"{path}, line {number}: expected {width} tab-separated fields, got {len(fields)}.")
        row = {name: fields[position] for name, position in zip(task.text_columns, positions, strict=False)}
        if labelled:
            row["label"] = parse_label(fields[positions[-1]], task, f"{path}, line {number}")
        rows.append(row)
    return rows
