"""PS-KD: the label is progressively replaced by the model's own last prediction."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from ..agreement import agreement_with
from ..memory import LatestMemory
from ..observers import TrainingBatch
from ..schedules import Progress, TrainingPlan
from .base import DistillationTerm
from .config import TeacherConfig
from .with_memory import MemoryTeacher


@dataclass(frozen=True)
class PSKDConfig(TeacherConfig):
    """Options of PS-KD (progressive self-knowledge distillation).

    Source: Kim et al., "Self-Knowledge Distillation with Progressive Refinement of Targets", ICCV 2021, arXiv
    2006.12000.

    Attributes:
        alpha: α_T, share of the own prediction in the target in the last epoch; in epoch t of T it is α_T · t / T. 0 is
            plain fine-tuning.

    Differences from the paper:
        Predictions move over between epochs instead of after each step, which is the same where each example occurs
            once in an epoch. Where it occurs several times, their mean logits are kept.

    Examples:
        >>> PSKDConfig().alpha
        0.8
    """

    name = "ps_kd"
    search_space: ClassVar = {"alpha": (0.3, 0.5, 0.8, 1.0)}

    alpha: float = field(default=0.8, metadata={"help": "Share of the own prediction in the last epoch's target."})

    def __post_init__(self):
        super().__post_init__()
        self._check_share("alpha")

    @classmethod
    def neutral(cls) -> Self:
        """Labels alone."""
        return cls(alpha=0.0)

    def check_plan(self, plan: TrainingPlan) -> None:
        if self.alpha:
            self._check_two_epochs(plan)

    def build(self) -> "PSKD":
        return PSKD(self)


class PSKD(MemoryTeacher):
    """The target is `(1 - α_t) · label + α_t · p`, with p the model's last prediction for the example.

    An example without a prediction learns its label alone. The share of the label weights the base loss, whatever that
    is. In a regression the two squared errors are mixed.

    Source: Kim et al., "Self-Knowledge Distillation with Progressive Refinement of Targets", ICCV 2021, arXiv
    2006.12000, in the form of the authors' code.

    Args:
        config: Options; `None` is `PSKDConfig()`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="ps_kd")
        >>> _ = trainer.train()
        >>> trainer.teacher.memory.latest.shape == (len(data), 2)
        True
    """

    config_class = PSKDConfig
    memory_class = LatestMemory
    takes_tokens = True

    def reset(self) -> None:
        super().reset()
        self._share = 0.0

    def on_epoch_begin(self, progress: Progress) -> None:
        super().on_epoch_begin(progress)
        self._share = self.config.alpha * (progress.epoch + 1) / self.context.plan.num_epochs if progress.epoch else 0.0

    def base_loss_weight(self, batch: TrainingBatch) -> float | Tensor:
        if not self._share:
            return 1.0
        _, written = self.recall(batch, batch.student_logits)
        return torch.ones_like(batch.student_logits[:, 0]).masked_fill(written, 1.0 - self._share)

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if not self._share:
            return {}
        logits, written = self.recall(batch, batch.student_logits)
        targets = batch.problem_type.targets(logits)
        losses = batch.problem_type.cross_entropy_to(batch.student_logits, targets)
        losses = losses.where(written, 0.0)
        return {"past": DistillationTerm(losses, self._share, agreement_with(targets, batch, written))}

    def remembered_probabilities(self) -> tuple[Tensor, Tensor] | None:
        """The last predictions."""
        return None if self.memory is None else (self.memory.latest.softmax(dim=-1), self.memory.written)
