"""Snapshot Distillation: the model at the end of the previous learning-rate cycle teaches the next one."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from torch import Tensor

from ..memory import LatestMemory
from ..model_copy import ModelCopy
from ..observers import State, TrainingBatch, entries_below
from ..schedules import Progress
from .base import DistillationTerm
from .cyclic import CyclicConfig, CyclicTeacher
from .with_memory import check_form


@dataclass(frozen=True)
class SnapshotDistillationConfig(CyclicConfig):
    """Options of Snapshot Distillation.

    Source: Yang et al., "Snapshot Distillation: Teacher-Student Optimization in One Generation", CVPR 2019, arXiv
    1812.00123.

    Attributes:
        cycle_epochs: Epochs in a mini-generation and learning-rate cycle; `None` is a fifth of the planned epochs.
        cyclic_learning_rate: Restart the learning rate with each cycle; `False` keeps the schedule of
            `TrainingArguments`, to tell distillation from its schedule.
        temperature: T, divides the teacher's logits only.
        lambda_student: λs, weight of the base loss from the second cycle on; `None` is 1 + 1/T.
        lambda_teacher: λt, weight of the cross-entropy to the teacher.
        store_predictions: Keep the teacher's predictions for the training set, made once in each cycle, instead of its
            weights: one pass over the training set a cycle instead of a second forward in every step. The same where
            the inputs of an example do not change from epoch to epoch.

    Differences from the paper:
        The LSTSD paper compares with cycles of 40 epochs on CIFAR and searches the weights; in its 50 epochs on GLUE
            `paper()` takes cycles of 10. λs, λt and T are those of a third party's code.
        Cycles are whole epochs; a last cycle that is cut short falls along its own length.

    Examples:
        >>> SnapshotDistillationConfig(cycle_epochs=2, store_predictions=True).temperature
        3.0
    """

    name = "snapshot_distillation"
    search_space: ClassVar = {
        "cycle_epochs": (1, 2, 3, 5, 10),
        "lambda_teacher": (0.25, 0.5, 1.0, 2.0),
        "temperature": (1.0, 2.0, 3.0),
    }

    temperature: float = field(default=3.0, metadata={"help": "Temperature of the teacher's softmax."})
    lambda_student: float | None = field(
        default=None, metadata={"help": "Weight of the base loss from the second cycle on; unset: 1 + 1/temperature."}
    )
    lambda_teacher: float = field(default=1.0, metadata={"help": "Weight of the cross-entropy to the teacher."})
    store_predictions: bool = field(
        default=False, metadata={"help": "Keep the teacher's predictions instead of a copy of the model."}
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_temperature()
        self._check_weight("lambda_teacher", *(["lambda_student"] if self.lambda_student is not None else []))

    @classmethod
    def paper(cls) -> Self:
        """Cycles of 10 epochs, T 3, λs 1 + 1/T, λt 1."""
        return cls(cycle_epochs=10)

    @classmethod
    def paper_for_images(cls) -> Self:
        """The LSTSD paper's setting for CIFAR-100: cycles of 40 epochs, T 2."""
        return cls(cycle_epochs=40, temperature=2.0)

    @classmethod
    def neutral(cls) -> Self:
        """No cycles, no weight on the teacher, 1 on the base loss."""
        return cls(cyclic_learning_rate=False, lambda_student=1.0, lambda_teacher=0.0, cycle_epochs=1)

    def build(self) -> "SnapshotDistillation":
        return SnapshotDistillation(self)


class SnapshotDistillation(CyclicTeacher):
    """From the second cycle on the student is taught by the model as it was at the end of the previous cycle.

    Source: Yang et al., "Snapshot Distillation", CVPR 2019, arXiv 1812.00123, Sec. 3; only the teacher is softened.

    Args:
        config: Options; `None` is `SnapshotDistillationConfig()`.

    Attributes:
        snapshot: The teacher's weights, `None` in the first cycle or where its predictions are kept instead.

    Examples:
        >>> config = SnapshotDistillationConfig(cycle_epochs=1, store_predictions=True)
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher=config)
        >>> _ = trainer.train()
        >>> trainer.teacher.memory.latest.shape == (len(data), 2)
        True
    """

    config_class = SnapshotDistillationConfig

    runs_model = True
    needs_whole_tables = True

    def reset(self) -> None:
        super().reset()
        self._snapshot_epoch = 0
        self._has_teacher = False
        self.snapshot: ModelCopy | None = None
        self.memory: LatestMemory | None = None

    def on_epoch_begin(self, progress: Progress) -> None:
        length = self.options.cycle_epochs
        self._has_teacher = progress.epoch >= length
        begins_cycle = progress.epoch > 0 and progress.epoch % length == 0
        if begins_cycle and self._snapshot_epoch != progress.epoch and self.config.lambda_teacher:
            self._take_snapshot(progress.epoch)

    def _take_snapshot(self, epoch: int) -> None:
        context = self.context
        self._snapshot_epoch = epoch
        if not self.config.store_predictions:
            self.snapshot = ModelCopy.of(context.student.model)
            return
        for indices, logits in context.student.predict_training_set():
            if self.memory is None:
                check_form(context, type(self).__name__)
                self.memory = LatestMemory.for_rows(context.num_examples, logits, context.storage)
            self.memory.stage(indices, logits)
        self.memory.skip_to(epoch - 1)
        self.memory.transition(epoch)

    def base_loss_weight(self, batch: TrainingBatch) -> float:
        if not self._has_teacher:
            return 1.0
        weight = self.config.lambda_student
        return weight if weight is not None else 1.0 + 1.0 / self.config.temperature

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if not (self._has_teacher and self.config.lambda_teacher):
            return {}
        if self.snapshot is not None:
            self.snapshot.check_covers(self.context.student.model)
            logits = self.snapshot.forward(self.context.student, batch.inputs)
        else:
            logits = self.memory.read(batch.indices)[0].squeeze(0)
        targets = batch.problem_type.targets(logits, self.config.temperature)
        per_example = batch.problem_type.cross_entropy_to(batch.student_logits, targets)
        agreement = batch.problem_type.agreement(batch.student_logits, targets)
        return {"teacher": DistillationTerm(per_example, self.config.lambda_teacher, agreement)}

    def remembered_probabilities(self) -> tuple[Tensor, Tensor] | None:
        """The stored predictions of the last snapshot, unsoftened."""
        return None if self.memory is None else (self.memory.latest.softmax(-1), self.memory.written)

    def state_dict(self) -> State:
        tensors = {} if self.snapshot is None else self.snapshot.tensors
        memory = {} if self.memory is None else self.memory.state_dict()
        return {
            "snapshot_epoch": self._snapshot_epoch,
            **{f"snapshot.{name}": tensor for name, tensor in tensors.items()},
            **{f"memory.{name}": value for name, value in memory.items()},
        }

    def load_state_dict(self, state: State) -> None:
        context = self.context
        self._snapshot_epoch = state["snapshot_epoch"]
        snapshot, memory = entries_below(state, "snapshot."), entries_below(state, "memory.")
        self.snapshot = ModelCopy(snapshot).to(context.device) if snapshot else None
        self.memory = None
        if memory:
            self.memory = LatestMemory.from_state_dict(memory, context.storage, merge_device=context.device)
