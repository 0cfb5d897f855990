"""Mean Teacher: a moving average of the model's weights teaches the model."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from ..errors import InputError
from ..model_copy import ModelCopy
from ..observers import State, TrainingBatch
from ..schedules import Progress, TrainingPlan, ramp_up
from .base import ConfiguredTeacher, DistillationTerm
from .config import TeacherConfig


@dataclass(frozen=True)
class MeanTeacherConfig(TeacherConfig):
    """Options of Mean Teacher.

    Source: Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv 1703.01780.

    Attributes:
        ema_decay: Weight of the old average at each optimizer step, after the warm start. 0.999 is the LSTSD paper's.
        ema_decay_per_epoch: Weight of the old average over a whole epoch, instead of `ema_decay`. 0.6 is what the
            LSTSD paper reckons its 0.999 to be at 500 steps an epoch; RTE at batch 64 has 39, where 0.999 keeps 0.96.
        consistency_weight: Weight of the term once it is fully ramped up; 0 is plain fine-tuning.
        divergence: "teacher_student" is KL[teacher ‖ student], "student_teacher" the reverse, "mse" the mean squared
            difference of the probabilities.
        rampup_epochs: Epochs until the full weight; `None` is a tenth of the planned epochs, 0 none.

    Differences from the paper:
        The loss is a KL by default, as in the LSTSD paper's comparison and in the authors' ImageNet runs; the LSTSD
            paper does not give the weight, nor whether it scores the student or the average. Both are scored here.
        The learning rate is left to `TrainingArguments`.

    Examples:
        >>> MeanTeacherConfig(ema_decay_per_epoch=0.6).consistency_weight
        1.0
    """

    name = "mean_teacher"
    search_space: ClassVar = {
        "consistency_weight": (0.25, 0.5, 1.0, 2.0, 4.0),
        "ema_decay_per_epoch": (0.3, 0.6, 0.9),
    }

    ema_decay: float = field(default=0.999, metadata={"help": "Weight of the old average at each optimizer step."})
    ema_decay_per_epoch: float | None = field(
        default=None, metadata={"help": "Weight of the old average over an epoch, instead of ema_decay; try 0.6."}
    )
    consistency_weight: float = field(default=1.0, metadata={"help": "Weight of the consistency term; 0 drops it."})
    divergence: Literal["student_teacher", "teacher_student", "mse"] = field(
        default="teacher_student", metadata={"help": "KL[teacher || student], the reverse, or mean squared error."}
    )
    rampup_epochs: float | None = field(
        default=None, metadata={"help": "Epochs until the full weight; unset: a tenth of the planned epochs."}
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_decay("ema_decay")
        if self.ema_decay_per_epoch is not None:
            self._check_decay("ema_decay_per_epoch")
        self._check_weight("consistency_weight")
        self._check_rampup()

    @classmethod
    def neutral(cls) -> Self:
        """No weight: no average is kept either."""
        return cls(consistency_weight=0.0, rampup_epochs=0.0)

    def fitted_to(self, plan: TrainingPlan) -> Self:
        return replace(self, rampup_epochs=self._fitted_rampup(plan))

    def check_plan(self, plan: TrainingPlan) -> None:
        if self.consistency_weight and self.rampup_epochs != 0 and plan.num_epochs < 2:
            raise InputError(
                f"`num_train_epochs` must be at least 2, or the ramp-up of the weight ends where it begins: got "
                f"{plan.num_epochs} planned. Train for at least 2 epochs, or set `rampup_epochs` to 0."
            )

    def build(self) -> "MeanTeacher":
        return MeanTeacher(self)


class MeanTeacher(ConfiguredTeacher):
    """The student is taught by a moving average of its own weights, which sees the same batch with other dropout.

    Source: Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv 1703.01780, Sec. 2. The
    decay starts as min(1 - 1/(t + 1), decay), a true average over the first steps, as in the authors' code; buffers are
    not averaged.

    Args:
        config: Options; `None` is `MeanTeacherConfig()`.

    Attributes:
        ema: The averaged model, `None` before training; `ema.load_into(model)` overwrites a model with it.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="mean_teacher")
        >>> _ = trainer.train()
        >>> trainer.teacher.ema.load_into(model)
    """

    config_class = MeanTeacherConfig

    runs_model = True
    takes_tokens = True
    card_note = "Scores whose names begin with `Ema` are those of the averaged model, which is not the one saved here."

    def reset(self) -> None:
        self.ema = None
        self._weight = 0.0

    def on_train_begin(self) -> str | None:
        super().on_train_begin()
        config, steps_per_epoch = self.config, self.context.plan.steps_per_epoch
        self._decay = config.ema_decay
        if config.ema_decay_per_epoch is not None:
            self._decay = config.ema_decay_per_epoch ** (1.0 / steps_per_epoch)
        if not config.consistency_weight:
            return None
        if self.ema is None:
            self.ema = ModelCopy.of(self.context.student.model)
        return (
            f"Mean Teacher: the average keeps {self._decay:.4g} of itself at each step, "
            f"{self._decay**steps_per_epoch:.2g} over an epoch."
        )

    def on_epoch_begin(self, progress: Progress) -> None:
        self._weight = self.config.consistency_weight * ramp_up(progress.epoch, self.options.rampup_epochs)

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if not self._weight:
            return {}
        targets = batch.problem_type.targets(
            batch.rows(self.ema.forward(self.context.student, batch.inputs, training=True))
        )
        divergences = batch.problem_type.divergence(self.config.divergence, batch.student_logits, targets)
        agreement = batch.problem_type.agreement(batch.student_logits, targets)
        return {"consistency": DistillationTerm(divergences, self._weight, agreement)}

    def on_step_end(self, progress: Progress) -> None:
        if self.ema is not None and not self.context.student.step_was_skipped:
            self.ema.average(self.context.student.model, min(1.0 - 1.0 / (progress.global_step + 1), self._decay))

    def scored_copies(self) -> dict[str, ModelCopy]:
        return {} if self.ema is None else {"ema": self.ema}

    def state_dict(self) -> State:
        return {} if self.ema is None else dict(self.ema.tensors)

    def load_state_dict(self, state: State) -> None:
        self.ema = ModelCopy(state).to(self.context.device) if state else None
