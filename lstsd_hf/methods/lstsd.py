"""Long Short-Term Sample Distillation."""

import logging
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from torch import Tensor

from ..agreement import agreement_with
from ..distributed import rank
from ..errors import InputError
from ..health import check_coverage
from ..joint_term import JointTerm
from ..memory import TeacherMemory
from ..observers import TrainingBatch
from ..problem_types import SingleLabel
from ..schedules import MiniGenerations, Progress, TrainingPlan
from ..term_names import Names
from .base import DistillationTerm
from .config import TeacherConfig
from .with_memory import MemoryTeacher

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LSTSDConfig(TeacherConfig):
    """Options of LSTSD. `LSTSDConfig()` is the default for one's own data, `LSTSDConfig.paper()` the literal paper.

    Source: Jiang et al., "Long Short-Term Sample Distillation", AAAI 2020, arXiv 2003.00739.

    Attributes:
        lambda_short: λS, weight of the short-term term. 0 is the paper's "w/o Short"; both weights 0 are plain
            fine-tuning.
        lambda_long: λL, weight of the long-term term. 0 is the paper's "w/o Long".
        mini_generation_epochs: E, epochs in a mini-generation. `None` is 6 when at least 12 epochs are planned, else
            max(1, epochs // 3).
        temperature: T, divides student and teacher logits in the distillation terms only.
        kl_direction: "student_teacher" is KL[student ‖ teacher] as in Eq. 1; "teacher_student" the reverse.
        t_squared: Multiplies the terms by T² (Hinton et al., arXiv 1503.02531); the paper does not.
        teacher_floor: Lower bound of every teacher probability, not renormalised; 0 is the literal paper. The gradient
            of the paper's direction contains log z, which has no bound: a confidently wrong teacher then locks the
            student in. The gradient of the reverse direction is bounded, so it has no floor.

    Differences from the paper:
        The default weights, floor and mini-generation length; `paper()` has none of them.
        The paper publishes λS = 4.0, λL = 2.4 and E = 6 as found on CIFAR100 at T = 2; for GLUE it only says T = 1.
        The paper's background section prints the KL term with the wrong sign; Eq. 1 has the right one.
        Algorithm 1 overwrites a teacher in place after the step; here rows are staged and move over between epochs,
            which is the same where each example occurs once in an epoch, and well defined where it does not.
        Both terms start in mini-generation 2, and in the first epoch of a mini-generation both teachers are the same
            prediction, as in the paper.

    Examples:
        >>> paper = LSTSDConfig.paper()
        >>> paper.lambda_short, paper.lambda_long, paper.mini_generation_epochs
        (4.0, 2.4, 6)
    """

    name = "lstsd"

    lambda_short: float = field(default=1.0, metadata={"help": "Weight of the short-term term (previous epoch)."})
    lambda_long: float = field(default=1.0, metadata={"help": "Weight of the long-term term (last mini-generation)."})
    mini_generation_epochs: int | None = field(
        default=None,
        metadata={"help": "Epochs in a mini-generation (E); unset: 6 when at least 12 are planned, else a third."},
    )
    temperature: float = field(default=1.0, metadata={"help": "Softmax temperature of the distillation terms."})
    kl_direction: Literal["student_teacher", "teacher_student"] = field(
        default="student_teacher", metadata={"help": "KL[student || teacher] as in the paper, or the reverse."}
    )
    t_squared: bool = field(default=False, metadata={"help": "Multiply the terms by the temperature squared."})
    teacher_floor: float = field(
        default=1e-4,
        metadata={"help": "Lower bound of a teacher's probabilities in KL[student || teacher]; 0: none."},
    )

    search_space: ClassVar = {
        "lambda_short": (0.25, 0.5, 1.0, 2.0, 4.0),
        "lambda_long": (0.25, 0.5, 1.0, 2.4),
        "mini_generation_epochs": (1, 2, 3, 6),
    }
    changeable: ClassVar = (
        *("lambda_short", "lambda_long", "mini_generation_epochs"),
        *("temperature", "kl_direction", "t_squared", "teacher_floor"),
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_weight("lambda_short", "lambda_long")
        self._check_epochs("mini_generation_epochs")
        self._check_temperature()
        if not 0 <= self.teacher_floor < 1:
            raise InputError(
                f"`teacher_floor` must be a probability from 0 to below 1, got {self.teacher_floor}. 0 means no floor."
            )

    @classmethod
    def paper(cls) -> Self:
        """The literal paper: λS 4.0, λL 2.4, E 6, T 1 (its setting for GLUE), KL[student ‖ teacher], no floor."""
        return cls(lambda_short=4.0, lambda_long=2.4, mini_generation_epochs=6, teacher_floor=0.0)

    @classmethod
    def paper_for_images(cls) -> Self:
        """As `paper`, with T 2 (its setting for CIFAR-100)."""
        return replace(cls.paper(), temperature=2.0)

    @classmethod
    def neutral(cls) -> Self:
        """Both weights zero."""
        return cls(lambda_short=0.0, lambda_long=0.0)

    @property
    def has_weight(self) -> bool:
        """Whether any term has weight."""
        return self.lambda_short > 0 or self.lambda_long > 0

    def fitted_to(self, plan: TrainingPlan) -> Self:
        length = self.mini_generation_epochs or MiniGenerations.default_length(plan.num_epochs)
        return replace(self, mini_generation_epochs=length)

    def check_plan(self, plan: TrainingPlan) -> None:
        if self.has_weight:
            plan.check_length("mini_generation_epochs", self.fitted_to(plan).mini_generation_epochs)

    def build(self) -> "LSTSD":
        return LSTSD(self)


class LSTSD(MemoryTeacher):
    """Each training example is taught by its own output of the previous epoch and of the last mini-generation's end.

    `loss_terms` may have its terms as one, see `JointTerm`; `lstsd_hf.methods.base.separate` has one for each
    teacher.

    Source: Jiang et al., "Long Short-Term Sample Distillation", AAAI 2020, arXiv 2003.00739, Eq. 1 and Algorithm 1.

    Args:
        config: Options; `None` is `LSTSDConfig()`.

    Attributes:
        memory: The teacher memory, `None` until the first training batch.

    Examples:
        >>> config = LSTSDConfig(mini_generation_epochs=1)
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher=config)
        >>> _ = trainer.train()
        >>> trainer.teacher.memory.short_term_logits.shape == (len(data), 2)
        True
    """

    config_class = LSTSDConfig
    memory_class = TeacherMemory
    takes_tokens = True

    def reset(self) -> None:
        super().reset()
        self._mini_generations: MiniGenerations | None = None
        self._distils = False

    def on_train_begin(self) -> str | None:
        super().on_train_begin()
        length, epochs = self.options.mini_generation_epochs, self.context.plan.num_epochs
        self._mini_generations = schedule = MiniGenerations(length, epochs)
        if not self.config.has_weight:
            return "LSTSD: both weights are 0: plain fine-tuning."
        return (
            f"LSTSD: {schedule.count} mini-generations of {length} epoch{'s' * (length > 1)} in {epochs} epochs; "
            f"distillation begins in epoch {length + 1}."
        )

    def transition(self, epoch: int) -> None:
        self.memory.transition(epoch, self._mini_generations.begins_at(epoch))

    def on_epoch_begin(self, progress: Progress) -> None:
        super().on_epoch_begin(progress)
        self._distils = self.config.has_weight and self._mini_generations.has_teachers(progress.epoch)
        if self._distils:
            check_coverage(self.memory, self.context)

    def on_train_end(self, progress: Progress) -> None:
        super().on_train_end(progress)
        first = self._mini_generations.length
        if self.config.has_weight and progress.epoch <= first and rank() == 0:
            logger.warning(
                f"Training ended in epoch {progress.epoch}, and distillation begins in epoch {first + 1}: no step has "
                "distilled. Lower `mini_generation_epochs`, or stop later."
            )

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm] | dict[Names, JointTerm]:
        if not self._distils:
            return {}
        config, kind = self.config, batch.problem_type
        teacher_logits, written = self.memory.read(batch.indices)
        names, weights = ("short", "long"), (config.lambda_short, config.lambda_long)
        if not all(weights):
            only = slice(1, 2) if config.lambda_long else slice(0, 1)
            names, weights, teacher_logits, written = names[only], weights[only], teacher_logits[only], written[only]
        is_papers = config.kl_direction == "student_teacher"
        # The reverse direction would lift labels that student and teacher both exclude.
        targets = kind.targets(teacher_logits, config.temperature, config.teacher_floor if is_papers else 0.0)
        factor = kind.temperature(config.temperature) ** 2 if config.t_squared else 1.0
        agreement = agreement_with(targets, batch, written)
        if is_papers and kind.name == SingleLabel.name and self.memory.is_complete:
            return {names: JointTerm(batch.student_logits, targets, weights, agreement, config.temperature, factor)}
        divergences = kind.divergence(config.kl_direction, batch.student_logits, targets, config.temperature)
        if config.t_squared:
            divergences = divergences * factor
        if not self.memory.is_complete:
            divergences = divergences.where(written, 0.0)
        return {
            name: DistillationTerm(divergences[i], weights[i], agreement and agreement.of_teacher(i))
            for i, name in enumerate(names)
        }

    def remembered_probabilities(self) -> tuple[Tensor, Tensor] | None:
        """The mean of both teachers' probabilities."""
        if self.memory is None:
            return None
        short, long = self.memory.short_term_logits.softmax(-1), self.memory.long_term_logits.softmax(-1)
        has_long = self.memory.long_term_written[:, None]
        return (short + long * has_long) / (1 + has_long.to(short.dtype)), self.memory.short_term_written
