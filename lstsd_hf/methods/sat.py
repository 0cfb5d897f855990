"""SAT: labels move towards what the model says, and unsure examples count less."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from ..distributed import with_mean_one
from ..errors import InputError
from ..memory import LatestMemory
from ..observers import TrainingBatch
from ..schedules import Progress, TrainingPlan
from .base import DistillationTerm
from .config import TeacherConfig
from .one_label import check_one_label, label_distribution
from .with_memory import MemoryTeacher


@dataclass(frozen=True)
class SATConfig(TeacherConfig):
    """Options of SAT (self-adaptive training).

    Source: Huang et al., "Self-Adaptive Training: beyond Empirical Risk Minimization", NeurIPS 2020, arXiv 2002.10319.

    Attributes:
        target_momentum: α, weight of the old target in an example's update; 1 is plain fine-tuning.
        warmup_epochs: Es, epochs of plain training before targets move; `None` is 0.3 of the planned epochs, as 60 of
            200 in the paper.

    Differences from the paper:
        Weights are normalised over a micro-batch of all processes. An example that occurs several times in an epoch is
            updated once, with the mean of its targets.

    Examples:
        >>> SATConfig().target_momentum
        0.9
    """

    name = "sat"
    search_space: ClassVar = {"target_momentum": (0.6, 0.8, 0.9, 0.95)}

    target_momentum: float = field(
        default=0.9, metadata={"help": "Weight of the old target in an example's update; 1: plain fine-tuning."}
    )
    warmup_epochs: int | None = field(
        default=None, metadata={"help": "Epochs before targets move; unset: 0.3 of the planned epochs."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.target_momentum <= 1:
            raise InputError(
                f"`target_momentum` must be from 0 to 1, got {self.target_momentum}. 1 is plain fine-tuning."
            )
        if self.warmup_epochs is not None and self.warmup_epochs < 0:
            raise InputError(
                f"`warmup_epochs` must be at least 0, got {self.warmup_epochs}. Leave it out to fit it to the epochs."
            )

    @classmethod
    def neutral(cls) -> Self:
        """Targets that stay the labels."""
        return cls(target_momentum=1.0)

    def fitted_to(self, plan: TrainingPlan) -> Self:
        return self if self.warmup_epochs is not None else replace(self, warmup_epochs=round(0.3 * plan.num_epochs))

    def check_plan(self, plan: TrainingPlan) -> None:
        warmup = self.fitted_to(plan).warmup_epochs
        if self.target_momentum < 1 and warmup >= plan.num_epochs:
            raise InputError(
                f"`warmup_epochs` must be less than the planned epochs, {plan.num_epochs}, or no target moves: got "
                f"{warmup}. Train longer or warm up for less."
            )

    def build(self) -> "SAT":
        return SAT(self)


class SAT(MemoryTeacher):
    """After a warm-up the loss is `Σ w · CE(t, p) / Σ w`, with targets t that begin as the labels, and `w = max t`.

    `t ← α t + (1 - α) p` comes before the loss. The share of the given label in the target weights the base loss,
    whatever that is; the other labels' share is the term.

    Source: Huang et al., "Self-Adaptive Training: beyond Empirical Risk Minimization", NeurIPS 2020, arXiv 2002.10319,
    in the form of the authors' code.

    Args:
        config: Options; `None` is `SATConfig()`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="sat")
        >>> _ = trainer.train()
        >>> trainer.teacher.memory.latest.sum(-1).round().unique().tolist()
        [1.0]
    """

    config_class = SATConfig
    memory_class = LatestMemory
    takes_tokens = True
    # Targets follow the outputs: weights are not independent of the losses, so their means do not tell.
    needs_example_losses = True

    def reset(self) -> None:
        super().reset()
        self._adapts = False

    def on_epoch_begin(self, progress: Progress) -> None:
        super().on_epoch_begin(progress)
        self._adapts = self.config.target_momentum < 1 and progress.epoch >= self.options.warmup_epochs

    def rows(self, batch: TrainingBatch) -> Tensor:
        p, labels = batch.student_logits.detach().softmax(dim=-1), label_distribution(batch)
        before, written = self.recall(batch, p)
        momentum = self.config.target_momentum
        targets = momentum * torch.where(written[:, None], before, labels) + (1.0 - momentum) * p
        # An example without a label has nothing to move.
        return targets * (labels.sum(dim=-1, keepdim=True) > 0)

    def observe(self, batch: TrainingBatch) -> None:
        if not self._adapts:
            return
        is_first = self.memory is None
        super().observe(batch)
        if is_first:
            self.memory.skip_to(batch.progress.epoch)

    def base_loss_weight(self, batch: TrainingBatch) -> float | Tensor:
        if self.config.target_momentum == 1:
            return 1.0
        if not self._adapts:
            # In the warm-up too, so that an unknown loss is refused before it.
            return torch.ones_like(batch.student_logits[:, 0])
        targets, labels = self.rows(batch), label_distribution(batch)
        weights = with_mean_one(targets.amax(dim=-1)) * (targets * labels).sum(dim=-1)
        # The base loss is a mean over the examples with a label.
        return weights * (labels.any(dim=-1).sum() / len(weights))

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if self.config.target_momentum == 1:
            return {}
        check_one_label(batch, self.config.name)
        labels = label_distribution(batch)
        if not self._adapts:
            return {}
        targets = self.rows(batch)
        losses = batch.problem_type.cross_entropy_to(batch.student_logits, (targets * (1.0 - labels)).log())
        agreement = batch.problem_type.agreement(batch.student_logits, targets)
        return {"corrected": DistillationTerm(with_mean_one(targets.amax(dim=-1)) * losses, 1.0, agreement)}

    def remembered_probabilities(self) -> tuple[Tensor, Tensor] | None:
        """The targets."""
        return None if self.memory is None else (self.memory.latest, self.memory.written)
