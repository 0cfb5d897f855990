"""Snapshot Distillation: the model at the end of the previous learning-rate cycle teaches the next one."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..memory import MovingAverageMemory
from ..model_copy import ModelCopy
from ..schedules import Progress
from .base import DistillationTerm, TeacherBatch
from .cyclic import CyclicConfig, CyclicTeacher


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
    def paper(cls) -> "SnapshotDistillationConfig":
        """Cycles of 10 epochs, T 3, λs 1 + 1/T, λt 1."""
        return cls(cycle_epochs=10)

    @classmethod
    def neutral(cls) -> "SnapshotDistillationConfig":
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
    """

    config_class = SnapshotDistillationConfig

    runs_model = True

    def reset(self, num_examples: int) -> None:
        super().reset(num_examples)
        self._num_examples = num_examples
        self._snapshot_epoch = 0
        self._has_teacher = False
        self.snapshot: ModelCopy | None = None
        self.memory = None

    def on_epoch_begin(self, progress: Progress) -> None:
        self._has_teacher = progress.epoch >= self._cycle_epochs
        begins_cycle = progress.epoch > 0 and progress.epoch % self._cycle_epochs == 0
        if begins_cycle and self._snapshot_epoch != progress.epoch and self.config.lambda_teacher:
            self._take_snapshot(progress.epoch)

    def _take_snapshot(self, epoch: int) -> None:
        self._snapshot_epoch = epoch
        if not self.config.store_predictions:
            self.snapshot = ModelCopy.of(self.student.model)
            return
        for indices, logits in self.student.predict_training_set():
            if self.memory is None:
                self.memory = self._new_memory(MovingAverageMemory, self._num_examples, logits)
            self.memory.stage(indices, logits)
        self.memory.transition(self.memory.epoch + 1, decay=0.0)

    def base_loss_weight(self, batch: TeacherBatch) -> float:
        if not self._has_teacher:
            return 1.0
        weight = self.config.lambda_student
        return weight if weight is not None else 1.0 + 1.0 / self.config.temperature

    def loss_terms(self, batch: TeacherBatch) -> dict[str, DistillationTerm]:
        if not (self._has_teacher and self.config.lambda_teacher):
            return {}
        if self.snapshot is not None:
            self.snapshot.check_covers(self.student.model)
            logits = self.snapshot.forward(self.student, batch.inputs)
        else:
            logits = self.memory.read(batch.indices)[0].squeeze(0)
        targets = self.problem.targets(logits, self.config.temperature)
        per_example = self.problem.cross_entropy_to(batch.student_logits, targets)
        agreement = self.problem.agreement(batch.student_logits, targets)
        return {"teacher": DistillationTerm(per_example, self.config.lambda_teacher, agreement)}

    def _example_probabilities(self) -> tuple[Tensor, Tensor] | None:
        """The stored predictions of the last snapshot, unsoftened."""
        if self.memory is None:
            return None
        return self.memory.moving_average.softmax(-1), self.memory.written

    def state_dict(self) -> dict[str, Tensor | int | float]:
        state = {**super().state_dict(), "snapshot_epoch": self._snapshot_epoch}
        if self.snapshot is not None:
            state |= {f"snapshot.{name}": tensor for name, tensor in self.snapshot.tensors.items()}
        if self.memory is not None:
            state |= {f"memory.{name}": value for name, value in self.memory.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor | int | float], device) -> None:
        super().load_state_dict(state, device)
        self._snapshot_epoch = state["snapshot_epoch"]
        snapshot, memory = (
            {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            for prefix in ("snapshot.", "memory.")
        )
        self.snapshot = ModelCopy(snapshot).to(device) if snapshot else None
        self.memory = self._loaded_memory(MovingAverageMemory, memory, device) if memory else None
