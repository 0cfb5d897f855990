"""R-Drop: two passes with different dropout agree with each other."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from torch import Tensor

from ..errors import InputError
from ..observers import TrainingBatch
from ..problem_types import ProblemType
from .base import ConfiguredTeacher, DistillationTerm
from .config import TeacherConfig


@dataclass(frozen=True)
class RDropConfig(TeacherConfig):
    """Options of R-Drop.

    Source: Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021, arXiv 2106.14448.

    Attributes:
        alpha: α, weight of the consistency term; 0 is plain fine-tuning, without the second pass.
        official_bert: The form that the authors' code runs for BERT on GLUE: both cross-entropies whole instead of
            half, and the consistency summed over the batch instead of averaged.

    Differences from the paper:
        Its GLUE weight is one of 0.1, 0.5 and 1.0, chosen for each task; the default is that of the authors' script.

    Examples:
        >>> RDropConfig().alpha, RDropConfig.paper().official_bert
        (0.5, True)
    """

    name = "r_drop"
    search_space: ClassVar = {"alpha": (0.1, 0.5, 1.0, 2.0)}

    alpha: float = field(default=0.5, metadata={"help": "Weight of the consistency term; 0: plain fine-tuning."})
    official_bert: bool = field(
        default=False, metadata={"help": "Whole cross-entropies and a summed consistency, as the authors' GLUE code."}
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_weight("alpha")

    @classmethod
    def paper(cls) -> Self:
        """What the authors' code runs for BERT on GLUE."""
        return cls(official_bert=True)

    @classmethod
    def paper_for_images(cls) -> Self:
        """The defaults."""
        return cls()

    @classmethod
    def neutral(cls) -> Self:
        """No weight."""
        return cls(alpha=0.0)

    def build(self) -> "RDrop":
        return RDrop(self)


class RDrop(ConfiguredTeacher):
    """Each batch is run twice; both passes learn the labels, and to give the same answer. Gradients reach both.

    `L = ½ (CE1 + CE2) + α · ½ (KL(p1 ‖ p2) + KL(p2 ‖ p1))`. CE1 is the base loss, CE2 the plain one, whatever the base
    loss. In a regression the squared difference of both passes is in place of the KL.

    Source: Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021, arXiv 2106.14448, Eq. 3.

    Args:
        config: Options; `None` is `RDropConfig()`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="r_drop")
        >>> _ = trainer.train()
        >>> trainer.distilled_steps == trainer.state.global_step
        True
    """

    config_class = RDropConfig

    runs_model = True
    takes_tokens = True

    @property
    def _share(self) -> float:
        return 1.0 if self.config.official_bert else 0.5

    def base_loss_weight(self, batch: TrainingBatch) -> float:
        return self._share if self.config.alpha else 1.0

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if not self.config.alpha:
            return {}
        if batch.labels is None:
            raise InputError("A training batch must have labels for R-Drop, got none. Name them in `label_names`.")
        kind, first, second = batch.problem_type, batch.student_logits, batch.forward(batch.inputs)
        consistency = 0.5 * (_divergence(kind, first, second) + _divergence(kind, second, first))
        if self.config.official_bert:
            consistency = consistency * len(consistency)
        return {
            "second_labels": DistillationTerm(kind.base_loss(second, batch.labels), self._share),
            "consistency": DistillationTerm(
                consistency, self.config.alpha, kind.agreement(first.detach(), kind.targets(second.detach()))
            ),
        }


def _divergence(kind: ProblemType, logits: Tensor, others: Tensor) -> Tensor:
    return kind.divergence("student_teacher", logits, kind.targets(others))
