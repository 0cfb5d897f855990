"""Knowledge distillation: another model, or people, teach; what they say is computed once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from ..agreement import Agreement, agreement_with
from ..errors import InputError
from ..files import saved_model_digest
from ..fixed_teacher import FixedTeacher
from ..losses import kl_top_k
from ..memory import ConstantMemory, check_same_digest
from ..observers import State, TrainingBatch
from ..problem_types import MultiLabel, SingleLabel
from ..teacher_outputs import TOLERANCE, TeacherOutputs, read_teacher_outputs
from .base import ConfiguredTeacher, DistillationTerm
from .config import TeacherConfig


@dataclass(frozen=True)
class KDConfig(TeacherConfig):
    """Options of knowledge distillation from a fixed teacher.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, Sec. 2.

    Attributes:
        teacher_model_name_or_path: The teacher, any fine-tuned sequence classifier: a name on the hub or a folder. It
            reads the texts with its own tokenizer; its labels are matched by name.
        teacher_outputs: Instead, a .parquet or .safetensors file of a teacher's outputs, soft labels or votes; see
            `lstsd_hf.teacher_outputs.TeacherOutputs`.
        distillation_weight: w, share of the teacher in the loss; 0 is plain fine-tuning.
        temperature: T of both sides; the term is multiplied by T².
        live: Whether the teacher is run on each batch, instead of once on each example before training.

    Differences from the paper:
        The teacher sees each example once, as it is in the training set. Where examples are augmented at random, use
            `live`, with a teacher that takes the student's inputs; one that reads texts reads them as they are.

    Examples:
        >>> KDConfig(teacher_model_name_or_path="my/teacher").temperature
        2.0
    """

    name = "kd"
    is_self_taught: ClassVar[bool] = False
    search_space: ClassVar = {"distillation_weight": (0.3, 0.5, 0.7, 0.9), "temperature": (1.0, 2.0, 4.0)}

    teacher_model_name_or_path: str | None = field(
        default=None, metadata={"help": "The teacher, a fine-tuned classifier: a name on the hub or a folder."}
    )
    teacher_outputs: str | None = field(
        default=None, metadata={"help": "Instead, a .parquet or .safetensors file of a teacher's outputs."}
    )
    distillation_weight: float = field(
        default=0.5, metadata={"help": "Share of the teacher in the loss; 0: plain fine-tuning."}
    )
    temperature: float = field(default=2.0, metadata={"help": "Temperature of both sides; multiplied by its square."})
    live: bool = field(default=False, metadata={"help": "Run the teacher on each batch, instead of once before."})

    def __post_init__(self):
        super().__post_init__()
        self._check_share("distillation_weight")
        self._check_temperature()
        if self.teacher_model_name_or_path is not None and self.teacher_outputs is not None:
            raise InputError(
                "`teacher_model_name_or_path` and `teacher_outputs` must not both be given: each is a teacher. Leave "
                "one out."
            )
        if self.live and self.teacher_outputs is not None:
            raise InputError("`live` must be False with `teacher_outputs`: a file cannot be run. Leave it out.")

    @classmethod
    def neutral(cls) -> Self:
        """No weight."""
        return cls(distillation_weight=0.0)

    def check_source(self) -> None:
        if self.distillation_weight and self.teacher_model_name_or_path is None and self.teacher_outputs is None:
            raise InputError(
                f"`{self.name}` needs a teacher, got none. Set `teacher_model_name_or_path` to a fine-tuned "
                "classifier, or `teacher_outputs` to a file of its outputs; a method of self-distillation, such as "
                "lstsd, needs none."
            )

    def source_digest(self) -> str | None:
        named = self.teacher_outputs or self.teacher_model_name_or_path
        return saved_model_digest(Path(named)) if named else None

    def build(self) -> "KD":
        return KD(self)


class KD(ConfiguredTeacher):
    """The loss is `(1 - w) · CE + w · T² · KL(teacher ‖ student)`, and CE alone where an example has no teacher.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, Sec. 2.

    Args:
        config: Options; `None` is `KDConfig()`.
        model: The teacher, a classifier that takes the student's inputs and has its labels, instead of one named in
            the config.
        outputs: Outputs for the training examples, soft labels or votes, instead of a file named in the config.

    Raises:
        InputError: If both are given.

    Examples:
        >>> votes = TeacherOutputs(torch.tensor([[3.0, 1.0]] * len(data)), kind="votes")
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher=KD(outputs=votes))
        >>> _ = trainer.train()
        >>> trainer.teacher.memory.coverage
        1.0
    """

    config_class = KDConfig
    needs_whole_tables = True
    memory: ConstantMemory | None = None
    # Whether the model is needed beside its outputs.
    keeps_teacher: ClassVar[bool] = False

    def __init__(
        self, config: KDConfig | None = None, model: nn.Module | None = None, outputs: TeacherOutputs | None = None
    ):
        if model is not None and outputs is not None:
            raise InputError("`model` and `outputs` must not both be given: each is a teacher. Leave one out.")
        if outputs is not None and not isinstance(outputs, TeacherOutputs):
            raise TypeError(
                f"`outputs` must be `TeacherOutputs`, got {type(outputs).__name__}. Say what the numbers are: "
                "`TeacherOutputs(tensor, kind)`."
            )
        self._given_model, self._given_outputs = model, outputs
        super().__init__(config)
        named = self.config.teacher_model_name_or_path or self.config.teacher_outputs
        if named and not (model is None and outputs is None):
            raise InputError(f"A teacher must be given once, got an object and {named!r} in the config. Leave one out.")
        if self.config.live and outputs is not None:
            raise InputError("`live` must be False with `outputs`: a table cannot be run. Leave it out.")

    def with_config(self, config: KDConfig) -> "KD":
        if self._given_model is None and self._given_outputs is None:
            return super().with_config(config)
        return type(self)(config, self._given_model, self._given_outputs)

    def reset(self) -> None:
        self.memory = None
        self.fixed_teacher: FixedTeacher | None = None
        self._live: FixedTeacher | None = None
        self._kind, self._num_top = "logits", 0
        self._is_checked = False
        self._saved_digest: str | None = None

    def on_train_begin(self) -> str | None:
        super().on_train_begin()
        if not self.config.distillation_weight:
            return None
        source = self._read()
        if self._saved_digest is not None:
            check_same_digest(self._saved_digest, self.state_dict()["digest"])
        return f"Knowledge distillation: {source}."

    def _read(self) -> str:
        """Makes the teacher ready; returns what it is."""
        context, outputs, origin = self.context, self._given_outputs, "outputs as given"
        if outputs is None and self.config.teacher_outputs is not None:
            outputs, origin = read_teacher_outputs(Path(self.config.teacher_outputs)), self.config.teacher_outputs
        if outputs is None:
            teacher = self.load_teacher()
            if self.keeps_teacher or self.config.live:
                self.fixed_teacher = teacher
            if self.config.live:
                self._live = teacher
                return f"the teacher {teacher.name} is run on each batch"
            outputs, origin = teacher.outputs(context.num_examples, context.student.cache_dir)
            origin = f"outputs of {teacher.name}, {origin}"
        self._num_top = 0 if outputs.top_labels is None else outputs.top_labels.size(1)
        if self._num_top and self.config.temperature != 1.0:
            raise InputError(
                f"`temperature` must be 1 where only the largest of a teacher's probabilities are known, got "
                f"{self.config.temperature}: what is left to the others cannot be softened. Set it to 1."
            )
        self._kind = outputs.kind
        rows, written = outputs.table(context.num_examples, context.student.class_names)
        self.memory = ConstantMemory(rows, written, context.storage)
        return f"{origin}; {int(written.sum())} of {context.num_examples} examples have a teacher"

    def load_teacher(self) -> FixedTeacher:
        """The model that teaches."""
        student, device = self.context.student, self.context.device
        if self._given_model is not None:
            return FixedTeacher(self._given_model, student, device, type(self._given_model).__name__)
        self.config.check_source()
        return FixedTeacher.load(self.config.teacher_model_name_or_path, student, device)

    def base_loss_weight(self, batch: TrainingBatch) -> float | Tensor:
        share = self.config.distillation_weight
        if not share:
            return 1.0
        if self.memory is None or self.memory.is_complete:
            return 1.0 - share
        written = self.memory.read(batch.indices)[1][0]
        return torch.ones_like(batch.student_logits[:, 0]).masked_fill(written, 1.0 - share)

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if not self.config.distillation_weight:
            return {}
        if self._live is not None:
            rows = self._live.logits(batch.inputs, batch.indices)
            written = torch.ones_like(batch.indices, dtype=torch.bool)
        else:
            self._check_rows(batch)
            (rows,), (written,) = self.memory.read(batch.indices)
        rows = rows.to(batch.student_logits.dtype)
        compare = self._compare_top if self._num_top else self._compare
        divergences, agreement = compare(batch, rows, written)
        divergences = divergences.where(written, 0.0)
        return {"distillation": DistillationTerm(divergences, self.config.distillation_weight, agreement)}

    def _compare(self, batch: TrainingBatch, rows: Tensor, written: Tensor) -> tuple[Tensor, Tensor | Agreement | None]:
        """Divergence and agreement with whole rows, `(batch_size,)`."""
        kind, temperature = batch.problem_type, self.config.temperature
        logits = rows if self._kind == "logits" else kind.logits_of_log_probabilities(rows)
        targets = kind.targets(logits, temperature)
        divergences = kind.divergence("teacher_student", batch.student_logits, targets, temperature)
        return divergences * kind.temperature(temperature) ** 2, agreement_with(targets, batch, written)

    def _compare_top(self, batch: TrainingBatch, rows: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """The same with rows of the largest log-probabilities and their labels."""
        log_probs, labels = rows[:, : self._num_top], rows[:, self._num_top :].long()
        best = labels.gather(1, log_probs.argmax(dim=1, keepdim=True)).squeeze(1)
        agreement = written & (batch.student_logits.argmax(dim=1) == best)
        return kl_top_k(batch.student_logits, log_probs, labels), agreement

    def _check_rows(self, batch: TrainingBatch) -> None:
        """Once, when the problem type is known: whether the table can teach this student."""
        if self._is_checked:
            return
        self._is_checked, kind = True, batch.problem_type
        num_labels, (rows,), (written,) = batch.student_logits.size(1), *self.memory.tables()
        if self._num_top:
            if kind.name != SingleLabel.name or self._num_top >= num_labels:
                raise InputError(
                    f"`top_labels` must be fewer than the labels of a model that chooses one of several, got "
                    f"{self._num_top} of {num_labels} in a model for {kind.name}. Give the values of all labels."
                )
            return
        if kind.name == MultiLabel.name and self._kind == "votes":
            raise InputError(
                "`votes` are of people who each choose one label, got a model for several labels of a text. Give "
                "`probabilities`: the share of the people who chose each label."
            )
        if rows.size(1) != num_labels:
            raise InputError(
                f"The teacher must have an output for each of the student's {num_labels}, got {rows.size(1)}. Choose a "
                "teacher for the same labels."
            )
        if kind.name == SingleLabel.name and self._kind != "logits" and written.any():
            sums = rows[written].exp().sum(dim=1)
            if (sums - 1).abs().max() > TOLERANCE:
                raise InputError(
                    f"A teacher's probabilities must sum to 1 in each row, got sums from {float(sums.min()):.4f} to "
                    f"{float(sums.max()):.4f}. Name the values by what they are: logits, votes, or probabilities."
                )

    def remembered_probabilities(self) -> tuple[Tensor, Tensor] | None:
        """The teacher's, at temperature 1."""
        if self.memory is None or self._num_top:
            return None
        (rows,), (written,) = self.memory.tables()
        return rows.softmax(dim=-1), written

    def log_metrics(self) -> dict[str, float]:
        return {} if self.memory is None else {"teacher_coverage": self.memory.coverage}

    def state_dict(self) -> State:
        """The teacher's digest: a resumed run must have the same."""
        if self._live is not None:
            return {"digest": self._live.weights_digest}
        return {} if self.memory is None else self.memory.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._saved_digest = state.get("digest")
