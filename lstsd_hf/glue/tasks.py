"""What distinguishes the GLUE tasks: files, columns, labels, metrics."""

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class GlueTask:
    """A classification task over one or two texts.

    Attributes:
        name: Name on the command line; also the configuration's name on the hub.
        folder: Folder and submission file name in GLUE's TSV release.
        text_columns: One or two columns of text, as `nyu-mll/glue` names them.
        tsv_columns: The same columns and the label in the TSV header; in a file without header, positions.
        label_names: Names of the labels 0, 1, ….
        metrics: Metrics of the official evaluation; the first is the headline.
        labels_are_names: Whether TSV files spell the label out rather than as a number.
    """

    name: str
    folder: str
    text_columns: tuple[str, ...]
    tsv_columns: tuple[str, ...] | tuple[int, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    labels_are_names: bool = False

    @property
    def headline_metric(self) -> str:
        """The metric of the paper's Table 2."""
        return self.metrics[0]

    @property
    def has_header(self) -> bool:
        """Whether the TSV files of labelled splits begin with column names."""
        return isinstance(self.tsv_columns[0], str)

    def spelled_label(self, label: int) -> str:
        """A label as the TSV files and submissions write it."""
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
