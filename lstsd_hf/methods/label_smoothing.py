"""Label smoothing, the control for every method that softens its targets."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from ..observers import TrainingBatch
from .base import ConfiguredTeacher, DistillationTerm
from .config import TeacherConfig
from .one_label import has_class


@dataclass(frozen=True)
class LabelSmoothingConfig(TeacherConfig):
    """Options of label smoothing.

    Source: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, arXiv 1512.00567, Sec. 7.

    Attributes:
        smoothing: ε, the share of the target that is spread evenly over all labels; 0 is plain fine-tuning.

    Examples:
        >>> LabelSmoothingConfig(smoothing=0.2).smoothing
        0.2
    """

    name = "label_smoothing"
    search_space: ClassVar = {"smoothing": (0.02, 0.05, 0.1, 0.2, 0.3, 0.4)}

    smoothing: float = field(default=0.1, metadata={"help": "Share of the target spread evenly over all labels."})

    def __post_init__(self):
        super().__post_init__()
        self._check_share("smoothing")

    @classmethod
    def neutral(cls) -> Self:
        """Nothing spread."""
        return cls(smoothing=0.0)

    def build(self) -> "LabelSmoothing":
        return LabelSmoothing(self)


class LabelSmoothing(ConfiguredTeacher):
    """(1 - ε) times the base loss plus ε times the cross-entropy to the uniform distribution.

    Unlike `TrainingArguments.label_smoothing_factor` the base loss is any.

    Source: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, arXiv 1512.00567, Sec. 7.

    Args:
        config: Options; `None` is `LabelSmoothingConfig()`.

    Examples:
        >>> LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="label_smoothing").teacher.config.smoothing
        0.1
    """

    config_class = LabelSmoothingConfig
    takes_tokens = True

    def base_loss_weight(self, batch: TrainingBatch) -> float:
        return 1.0 - self.config.smoothing

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if not self.config.smoothing:
            return {}
        targets = batch.problem_type.uniform_targets(batch.student_logits)
        per_example = batch.problem_type.cross_entropy_to(batch.student_logits, targets)
        # As the base loss is, a mean over the examples with a label.
        is_labelled = has_class(batch.labels, per_example)
        per_example = per_example.where(is_labelled, 0.0) * (len(per_example) / is_labelled.sum().clamp(min=1))
        return {"uniform": DistillationTerm(per_example, self.config.smoothing)}
