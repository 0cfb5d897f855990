"""Temporal Ensembling: a moving average of each example's own predictions."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from torch import Tensor

from ..agreement import agreement_with
from ..health import check_coverage
from ..memory import MovingAverageMemory
from ..observers import TrainingBatch
from ..schedules import Progress, TrainingPlan, ramp_up
from .base import DistillationTerm
from .config import TeacherConfig
from .with_memory import MemoryTeacher


@dataclass(frozen=True)
class TemporalEnsembleConfig(TeacherConfig):
    """Options of Temporal Ensembling.

    Source: Laine & Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017, arXiv 1610.02242.

    Attributes:
        prediction_decay: α, weight of the old average in each epoch's update.
        consistency_weight: Weight of the term once it is fully ramped up; 0 is plain fine-tuning.
        divergence: "student_teacher" is KL[student ‖ teacher] as the LSTSD paper has it, "teacher_student" the reverse,
            "mse" the mean squared difference of the probabilities as in the source.
        rampup_epochs: Epochs until the full weight; `None` is a tenth of the planned epochs, 0 none.

    Differences from the paper:
        The loss is a KL by default, and every example is labelled, as in the LSTSD paper's comparison; that paper does
            not give the weight, nor whether it ramps it up.
        Only examples that were seen in an epoch are updated and each average is divided by its sum, the sparse form of
            the authors' code; a plain average lets unseen examples decay to nothing.
        The learning rate and Adam's β1 are left to `TrainingArguments`.

    Examples:
        >>> TemporalEnsembleConfig(consistency_weight=6.4).prediction_decay
        0.6
    """

    name = "temporal_ensemble"
    search_space: ClassVar = {
        "consistency_weight": (0.25, 0.5, 1.0, 2.0, 4.0, 6.4),
        "prediction_decay": (0.3, 0.6, 0.9),
    }

    prediction_decay: float = field(default=0.6, metadata={"help": "Weight of the old average in an epoch's update."})
    consistency_weight: float = field(default=1.0, metadata={"help": "Weight of the consistency term; 0 drops it."})
    divergence: Literal["student_teacher", "teacher_student", "mse"] = field(
        default="student_teacher", metadata={"help": "KL[student || teacher], the reverse, or mean squared error."}
    )
    rampup_epochs: float | None = field(
        default=None, metadata={"help": "Epochs until the full weight; unset: a tenth of the planned epochs."}
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_decay("prediction_decay")
        self._check_weight("consistency_weight")
        self._check_rampup()

    @classmethod
    def neutral(cls) -> Self:
        """No weight."""
        return cls(consistency_weight=0.0, rampup_epochs=0.0)

    def fitted_to(self, plan: TrainingPlan) -> Self:
        return replace(self, rampup_epochs=self._fitted_rampup(plan))

    def check_plan(self, plan: TrainingPlan) -> None:
        if self.consistency_weight:
            self._check_two_epochs(plan)

    def build(self) -> "TemporalEnsemble":
        return TemporalEnsemble(self)


class TemporalEnsemble(MemoryTeacher):
    """Each example is taught by the moving average of its own predictions in earlier epochs, from epoch 2 on.

    Source: Laine & Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017, arXiv 1610.02242, Algorithm 2.

    Args:
        config: Options; `None` is `TemporalEnsembleConfig()`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="temporal_ensemble")
        >>> _ = trainer.train()
        >>> trainer.teacher.memory.moving_average.sum(-1).round().unique().tolist()
        [1.0]
    """

    config_class = TemporalEnsembleConfig
    memory_class = MovingAverageMemory
    takes_tokens = True

    def reset(self) -> None:
        super().reset()
        self._weight = 0.0

    def transition(self, epoch: int) -> None:
        self.memory.transition(epoch, self.config.prediction_decay)

    def on_epoch_begin(self, progress: Progress) -> None:
        super().on_epoch_begin(progress)
        ramp = ramp_up(progress.epoch, self.options.rampup_epochs)
        self._weight = self.config.consistency_weight * ramp if progress.epoch > 0 else 0.0
        if self._weight:
            check_coverage(self.memory, self.context)

    def rows(self, batch: TrainingBatch) -> Tensor:
        return batch.problem_type.predictions(batch.student_logits.detach())

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if not self._weight:
            return {}
        averages, written = (table.squeeze(0) for table in self.memory.read(batch.indices))
        targets = batch.problem_type.targets_of_predictions(averages)
        divergences = batch.problem_type.divergence(self.config.divergence, batch.student_logits, targets)
        divergences = divergences.where(written, 0.0)
        return {"consistency": DistillationTerm(divergences, self._weight, agreement_with(targets, batch, written))}

    def remembered_probabilities(self) -> tuple[Tensor, Tensor] | None:
        """The averages."""
        return None if self.memory is None else (self.memory.moving_average, self.memory.written)
