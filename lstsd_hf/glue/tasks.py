"""What distinguishes the GLUE tasks: files, columns, labels, metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ..runner.tasks import Task


@dataclass(frozen=True, kw_only=True)
class GlueTask(Task):
    """A task over one or two texts.

    Attributes:
        name: Name on the command line; also the configuration's name on the hub.
        label_names: Names of the labels 0, 1, …; none for a regression.
        metrics: Metrics of the official evaluation; the first is the headline.
        folder: Folder and submission file name in GLUE's TSV release.
        text_columns: One or two columns of text, as `nyu-mll/glue` names them.
        tsv_columns: The same columns and the label in the TSV header; in a file without header, positions.
        labels_are_names: Whether TSV files spell the label out rather than as a number.
        tsv_files: The TSV file of each split, without suffix. What is named `validation_…` is scored at the end.
        submission_files: The submission of each test split, without suffix; by default one named as the folder.
        number_format: How submissions write a regression's numbers.
        has_incomplete_rows: Whether rows of the TSV release lack fields; they are left out, as on the hub.
    """

    folder: str
    text_columns: tuple[str, ...]
    tsv_columns: tuple[str, ...] | tuple[int, ...]
    labels_are_names: bool = False
    tsv_files: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train", "validation": "dev", "test": "test"}
    )
    submission_files: Mapping[str, str] | None = None
    number_format: str = ".8g"
    has_incomplete_rows: bool = False

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns of text."""
        return self.text_columns

    @property
    def settings(self) -> Mapping[str, Any]:
        """The columns of text, where they are not GLUE's."""
        return {} if self.name in TASKS else {"text_columns": self.text_columns}

    @property
    def has_header(self) -> bool:
        """Whether the TSV files of labelled splits begin with column names."""
        return isinstance(self.tsv_columns[0], str)

    def submission_name(self, split: str) -> str:
        """The file name of a test split's submission."""
        return f"{(self.submission_files or {'test': self.folder})[split]}.tsv"

    def spelled_label(self, label: float) -> str:
        """A label as the TSV files and submissions write it."""
        if self.is_regression:
            return f"{label:{self.number_format}}"
        return self.label_names[label] if self.labels_are_names else str(label)


TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            name="rte",
            folder="RTE",
            text_columns=("sentence1", "sentence2"),
            tsv_columns=("sentence1", "sentence2", "label"),
            label_names=("entailment", "not_entailment"),
            labels_are_names=True,
        ),
        GlueTask(
            name="mrpc",
            folder="MRPC",
            text_columns=("sentence1", "sentence2"),
            tsv_columns=("#1 String", "#2 String", "Quality"),
            label_names=("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
        ),
        GlueTask(
            name="sst2",
            folder="SST-2",
            text_columns=("sentence",),
            tsv_columns=("sentence", "label"),
            label_names=("negative", "positive"),
        ),
        GlueTask(
            name="cola",
            folder="CoLA",
            text_columns=("sentence",),
            tsv_columns=(3, 1),
            label_names=("unacceptable", "acceptable"),
            metrics=("matthews_correlation", "accuracy"),
        ),
        GlueTask(
            name="stsb",
            folder="STS-B",
            text_columns=("sentence1", "sentence2"),
            tsv_columns=("sentence1", "sentence2", "score"),
            label_names=(),
            metrics=("pearson", "spearmanr"),
            number_format=".3f",
        ),
        GlueTask(
            name="qqp",
            folder="QQP",
            text_columns=("question1", "question2"),
            tsv_columns=("question1", "question2", "is_duplicate"),
            label_names=("not_duplicate", "duplicate"),
            metrics=("accuracy", "f1"),
            has_incomplete_rows=True,
        ),
        GlueTask(
            name="mnli",
            folder="MNLI",
            text_columns=("premise", "hypothesis"),
            tsv_columns=("sentence1", "sentence2", "gold_label"),
            label_names=("entailment", "neutral", "contradiction"),
            labels_are_names=True,
            tsv_files={
                "train": "train",
                "validation": "dev_matched",
                "validation_mismatched": "dev_mismatched",
                "test": "test_matched",
                "test_mismatched": "test_mismatched",
            },
            submission_files={"test": "MNLI-m", "test_mismatched": "MNLI-mm"},
        ),
        GlueTask(
            name="qnli",
            folder="QNLI",
            text_columns=("question", "sentence"),
            tsv_columns=("question", "sentence", "label"),
            label_names=("entailment", "not_entailment"),
            labels_are_names=True,
        ),
        GlueTask(
            name="wnli",
            folder="WNLI",
            text_columns=("sentence1", "sentence2"),
            tsv_columns=("sentence1", "sentence2", "label"),
            label_names=("not_entailment", "entailment"),
        ),
    )
}


def get_task(name: str) -> GlueTask:
    """The task of that name.

    Raises:
        InputError: If there is none.
    """
    if name not in TASKS:
        raise InputError(f"`task` must be one of {', '.join(TASKS)}, got {name!r}. Own data: `--train_file`.")
    return TASKS[name]
