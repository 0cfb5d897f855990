"""ELR: the model is held to what it believed early, before it learns wrong labels."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from ..memory import LatestMemory
from ..observers import TrainingBatch
from .base import DistillationTerm
from .config import TeacherConfig
from .one_label import check_one_label
from .with_memory import MemoryTeacher

# Bounds of a probability in the authors' code.
LEAST, MOST = 1e-4, 1.0 - 1e-4


@dataclass(frozen=True)
class ELRConfig(TeacherConfig):
    """Options of ELR (early-learning regularization).

    Source: Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020, arXiv
    2007.00151.

    Attributes:
        target_decay: β, weight of the old target in an example's update.
        regularization_weight: λ, weight of the term; 0 is plain fine-tuning.

    Differences from the paper:
        The defaults are the authors' for CIFAR-10 with symmetric noise; with 100 classes they use β = 0.9 and λ = 7.
        An example that occurs several times in an epoch is updated once, with the mean of its targets.

    Examples:
        >>> ELRConfig().target_decay, ELRConfig().regularization_weight
        (0.7, 3.0)
    """

    name = "elr"
    search_space: ClassVar = {"regularization_weight": (0.5, 1.0, 3.0, 7.0), "target_decay": (0.5, 0.7, 0.9)}

    target_decay: float = field(default=0.7, metadata={"help": "Weight of the old target in an example's update."})
    regularization_weight: float = field(default=3.0, metadata={"help": "Weight of the term; 0 drops it."})

    def __post_init__(self):
        super().__post_init__()
        self._check_decay("target_decay")
        self._check_weight("regularization_weight")

    @classmethod
    def neutral(cls) -> Self:
        """No weight."""
        return cls(regularization_weight=0.0)

    def build(self) -> "ELR":
        return ELR(self)


class ELR(MemoryTeacher):
    """Adds `λ · log(1 - ⟨t, p⟩)`, with t a moving average of an example's predictions, the present one included.

    `t ← β t + (1 - β) p` comes before the loss, from t = 0 on; the gradient goes through p alone. The term is negative,
    and the lower the surer the model is of what it believed before.

    Source: Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020, arXiv
    2007.00151, in the form of the authors' code.

    Args:
        config: Options; `None` is `ELRConfig()`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="elr")
        >>> _ = trainer.train()
        >>> round(float(trainer.teacher.memory.latest.sum(-1).mean()), 3)  # 1 - 0.7³
        0.657
    """

    config_class = ELRConfig
    memory_class = LatestMemory
    takes_tokens = True

    def rows(self, batch: TrainingBatch) -> Tensor:
        p = _bounded(batch.student_logits).detach()
        before, _ = self.recall(batch, p)
        decay = self.config.target_decay
        return decay * before + (1.0 - decay) * p / p.sum(dim=-1, keepdim=True)

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if not self.config.regularization_weight:
            return {}
        check_one_label(batch, self.config.name)
        p, targets = _bounded(batch.student_logits), self.rows(batch)
        per_example = torch.log(1.0 - (targets * p).sum(dim=-1))
        agreement = batch.problem_type.agreement(batch.student_logits, targets)
        return {"early": DistillationTerm(per_example, self.config.regularization_weight, agreement)}

    def remembered_probabilities(self) -> tuple[Tensor, Tensor] | None:
        """The targets, scaled to sum to 1."""
        if self.memory is None:
            return None
        rows = self.memory.latest
        return rows / rows.sum(dim=-1, keepdim=True).clamp(min=LEAST), self.memory.written


def _bounded(logits: Tensor) -> Tensor:
    p = logits.softmax(dim=-1)
    # A label that the outputs exclude stays excluded.
    return p.clamp(LEAST, MOST) * (p > 0)
