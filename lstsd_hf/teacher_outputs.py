"""What another model, or people, say of the training examples: one table in memory and one file format."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import InputError
from .files import replacing
from .label_order import matched_order

KINDS = ("logits", "log_probabilities", "probabilities", "votes")
EXAMPLE_INDEX, TOP_LABELS = "example_index", "top_labels"
# Rounding of bf16 sums, not another kind of numbers.
TOLERANCE = 0.02


@dataclass(frozen=True)
class TeacherOutputs:
    """Outputs for some or all training examples.

    Attributes:
        values: `(num_rows, num_labels)`, or those of each row's k largest labels, `(num_rows, k)`.
        kind: What the values are: logits, log_probabilities, probabilities, or votes (how many people chose a label).
        rows: The example of each row, int64 `(num_rows,)`; `None` is all examples in the training set's order.
        top_labels: Where only the largest are kept, which labels they are, int64 `(num_rows, k)`.
        label_names: Names of the labels, in the columns' order.

    Raises:
        InputError: If the values are not of their kind.

    Examples:
        >>> outputs = TeacherOutputs(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), kind="votes")
        >>> rows, written = outputs.table(num_examples=2, label_names=None)
        >>> rows[0].exp().tolist(), written.tolist()
        ([0.75, 0.25], [True, False])
    """

    values: Tensor
    kind: str
    rows: Tensor | None = None
    top_labels: Tensor | None = None
    label_names: Sequence[str] | None = None

    def __post_init__(self):
        values = self.values
        if not isinstance(values, Tensor):
            raise TypeError(f"`values` must be a tensor, got {type(values).__name__}. Use `torch.as_tensor(values)`.")
        if self.kind not in KINDS:
            raise InputError(f"`kind` must be one of {', '.join(KINDS)}, got {self.kind!r}.")
        if values.dim() != 2 or not values.is_floating_point():
            raise InputError(
                f"`{self.kind}` must be numbers of shape (num_rows, num_labels), got {values.dtype} of shape "
                f"{tuple(values.shape)}. Write one row for each example, as float32."
            )
        if self.rows is not None and (self.rows.shape != values.shape[:1] or self.rows.is_floating_point()):
            raise InputError(
                f"`{EXAMPLE_INDEX}` must be {len(values)} whole numbers, one for each row, got {self.rows.dtype} of "
                f"shape {tuple(self.rows.shape)}. Write each row's position in the training set."
            )
        for name in ("rows", "top_labels"):
            if getattr(self, name) is not None and not getattr(self, name).is_floating_point():
                object.__setattr__(self, name, getattr(self, name).long())
        if self.top_labels is not None:
            self._check_top_labels()
        self._check_values()

    def _check_top_labels(self) -> None:
        labels = self.top_labels
        if labels.shape != self.values.shape or labels.is_floating_point():
            raise InputError(
                f"`{TOP_LABELS}` must be whole numbers of shape {tuple(self.values.shape)}, as `{self.kind}`, got "
                f"{labels.dtype} of shape {tuple(labels.shape)}. Write the label of each value."
            )
        if self.kind not in ("log_probabilities", "probabilities"):
            raise InputError(
                f"With `{TOP_LABELS}` the values must be log_probabilities or probabilities, got {self.kind}: without "
                "the other labels they cannot be normalised. Apply the softmax before choosing the largest."
            )
        if (labels.sort(dim=1).values.diff(dim=1) == 0).any():
            raise InputError(f"`{TOP_LABELS}` must name a label once in a row, got one twice. Write distinct labels.")

    def _check_values(self) -> None:
        values = self.values.float()
        largest = values.amax(dim=1)
        is_good, rule = largest - largest == 0, "finite (-inf beside finite values is an excluded label)"
        if self.kind != "logits":
            shares = values.exp() if self.kind == "log_probabilities" else values
            is_good, rule = is_good & (shares >= 0).all(dim=1), "at least 0"
            if self.kind != "votes":
                is_good, rule = is_good & (shares <= 1 + TOLERANCE).all(dim=1), "from 0 to 1 as probabilities"
            if self.top_labels is not None:
                is_good, rule = is_good & (shares.sum(dim=1) <= 1 + TOLERANCE), "at most 1 as probabilities, in sum"
        if not is_good.all():
            row = int((~is_good).nonzero()[0])
            raise InputError(
                f"`{self.kind}` must be {rule}, got {[round(value, 4) for value in values[row, :8].tolist()]} in row "
                f"{row}. Name the values by what they are: one of {', '.join(KINDS)}."
            )

    def table(self, num_examples: int, label_names: Sequence[str] | None) -> tuple[Tensor, Tensor]:
        """The outputs as a table for the training set.

        Args:
            num_examples: Examples in the training set.
            label_names: The student's labels, to which the columns are matched by name.

        Returns:
            Rows, at least fp32, and which examples have one, bool `(num_examples,)`. A row is logits or
            log-probabilities `(num_examples, num_labels)`; where only the k largest are kept, their log-probabilities
            and then their labels, `(num_examples, 2 * k)`. An example without a vote has no row.

        Raises:
            InputError: If the rows or labels are not the training set's.
        """
        values, rows = self.values, self.rows
        values = values if values.dtype == torch.float64 else values.float()
        if rows is None:
            if len(values) != num_examples:
                raise InputError(
                    f"`{self.kind}` must have a row for each of {num_examples} training examples, got {len(values)}. "
                    f"Write `{EXAMPLE_INDEX}` beside them to give some of the rows."
                )
            rows = torch.arange(num_examples)
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= num_examples):
            raise InputError(
                f"`{EXAMPLE_INDEX}` must be from 0 to {num_examples - 1}, got {int(rows.min())} to {int(rows.max())}. "
                "Write positions in the training set."
            )
        if len(rows.unique()) < len(rows):
            raise InputError(f"`{EXAMPLE_INDEX}` must have each example once, got one twice. Write one row for each.")
        has_row = torch.ones(len(values), dtype=torch.bool)
        if self.kind == "votes":
            total = values.sum(dim=1, keepdim=True)
            has_row, values = total.squeeze(1) > 0, values / total.clamp(min=1e-30)
        if self.kind in ("probabilities", "votes"):
            values = values.log()
        values = self._in_order(values, label_names)
        table = torch.zeros(num_examples, values.size(1), dtype=values.dtype).index_copy(
            0, rows, values.where(has_row[:, None], 0.0)
        )
        return table, torch.zeros(num_examples, dtype=torch.bool).index_copy(0, rows, has_row)

    def _in_order(self, values: Tensor, label_names: Sequence[str] | None) -> Tensor:
        whose = "the teacher's outputs"
        if self.top_labels is None:
            return values[:, matched_order(self.label_names, label_names, values.size(1), whose)]
        count = len(self.label_names or label_names or range(int(self.top_labels.max()) + 1))
        order = torch.tensor(matched_order(self.label_names, label_names, count, whose))
        low, high = int(self.top_labels.min()), int(self.top_labels.max())
        if low < 0 or high >= count:
            raise InputError(
                f"`{TOP_LABELS}` must be from 0 to {count - 1}, got {low if low < 0 else high}: there are {count} "
                "labels."
            )
        return torch.cat([values, order.argsort()[self.top_labels].to(values.dtype)], dim=1)

    @classmethod
    def of(cls, columns: Mapping[str, Tensor], label_names: Sequence[str] | None = None) -> "TeacherOutputs":
        """Outputs from named tensors, as they are in a file.

        Args:
            columns: One of `logits`, `log_probabilities`, `probabilities` or `votes`; also `example_index` and
                `top_labels`, if the rows are not all examples or the columns not all labels.
            label_names: Names of the labels.

        Raises:
            InputError: If there is none of them, or more.
        """
        kinds = [name for name in KINDS if name in columns]
        if len(kinds) != 1:
            raise InputError(
                f"A teacher's outputs must have one of {', '.join(KINDS)}, got {sorted(columns)}. Name them by what "
                "they are."
            )
        rows, top_labels = columns.get(EXAMPLE_INDEX), columns.get(TOP_LABELS)
        return cls(torch.as_tensor(columns[kinds[0]]), kinds[0], rows, top_labels, label_names)


def read_teacher_outputs(path: Path) -> TeacherOutputs:
    """Reads outputs from a `.safetensors` file with the tensors of `TeacherOutputs.of`, or a `.parquet` file with
    columns of these names, lists of numbers. The file's metadata may have the key `labels`, a JSON list of names.

    Raises:
        InputError: If there is no such file or it cannot be read.
    """
    if path.suffix not in (".safetensors", ".parquet"):
        raise InputError(f"A file of a teacher's outputs must end with .safetensors or .parquet, got {path}.")
    if not path.is_file():
        raise InputError(f"There must be a file of a teacher's outputs at {path}, found none.")
    try:
        read = _read_safetensors if path.suffix == ".safetensors" else _read_parquet
        columns, metadata = read(path)
        labels = json.loads(metadata["labels"]) if "labels" in metadata else None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} must be a whole file of numbers, and cannot be read: {error}") from error
    return TeacherOutputs.of(columns, labels)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def _read_parquet(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    # pyarrow comes with datasets.
    import numpy as np
    from pyarrow import parquet

    table = parquet.read_table(path)
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    columns = {}
    for name in {*KINDS, EXAMPLE_INDEX, TOP_LABELS} & {*table.column_names}:
        values = np.array(table[name].to_pylist())
        columns[name] = torch.from_numpy(values if name in (EXAMPLE_INDEX, TOP_LABELS) else values.astype(np.float32))
    return columns, metadata


def write_teacher_outputs(path: Path, outputs: TeacherOutputs) -> None:
    """Writes outputs to a `.safetensors` file, whole or not at all."""
    columns = {outputs.kind: outputs.values, EXAMPLE_INDEX: outputs.rows, TOP_LABELS: outputs.top_labels}
    metadata = {} if outputs.label_names is None else {"labels": json.dumps(list(outputs.label_names))}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        tensors = {name: value.contiguous() for name, value in columns.items() if value is not None}
        save_file(tensors, temporary, metadata)
