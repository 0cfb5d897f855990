"""Self-regulated learning: training spends its passes on the examples that still teach something."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from ..files import replacing
from ..observers import State, TrainingBatch
from ..schedules import Progress
from .base import DistillationTerm
from .kd import KD, KDConfig
from .one_label import check_one_label, class_labels
from .participation import Gate, needs_training, significance

PARTICIPATIONS_NAME = "participations.safetensors"


@dataclass(frozen=True)
class SelfRegulatedConfig(KDConfig):
    """Options of self-regulated learning, of the teacher and of its student.

    Source: Mishra & Sundaram, "Self Regulated Learning Mechanism for Data Efficient Knowledge Distillation", arXiv
    2102.07125. Only the abstract is known to us; the formulas, δ, w and T are ours.

    Attributes:
        distillation: "none" trains a teacher: an example takes part in a step only if it is misclassified or its label
            has less probability than δ. The others train a student, taught as by `KDConfig`: "significance" weights
            each example by how often it took part in the teacher's training, "regulated" has the student choose its
            own examples as the teacher did, "hybrid" does both.
        confidence_threshold: δ.
        ungated_epochs: Epochs at the beginning in which all examples take part.
        max_significance: Upper bound of an example's weight relative to the mean.
        teacher_model_name_or_path: A student's teacher: the output folder of a training with "none", in which the
            model was saved.

    Differences from the paper:
        See the source. The gate is judged by a forward without graph before the training forward, so that an example
            that does not take part costs no training forward and no backward.

    Examples:
        >>> SelfRegulatedConfig().distillation
        'none'
    """

    name = "self_regulated"
    search_space: ClassVar = {"confidence_threshold": (0.7, 0.8, 0.9, 0.95)}

    distillation: Literal["none", "significance", "regulated", "hybrid"] = field(
        default="none",
        metadata={"help": "none: train a teacher; significance, regulated or hybrid: train its student."},
    )
    confidence_threshold: float = field(
        default=0.9, metadata={"help": "An example whose label is given this probability takes no part; 0: all do."}
    )
    ungated_epochs: int = field(default=1, metadata={"help": "Epochs at the beginning in which all take part."})
    max_significance: float = field(
        default=3.0, metadata={"help": "Upper bound of an example's weight, relative to the mean."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Temperature of both sides; multiplied by its square."})

    def __post_init__(self):
        super().__post_init__()
        self._check_share("confidence_threshold", "0 lets all take part.")
        if self.ungated_epochs < 0:
            raise InputError(f"`ungated_epochs` must be at least 0, got {self.ungated_epochs}. 0 gates from the start.")
        self._check_limit("max_significance")
        if not self.is_student and (self.teacher_model_name_or_path or self.teacher_outputs):
            raise InputError(
                '`distillation` must be "significance", "regulated" or "hybrid" with a teacher, got "none", which '
                "trains one. Choose one of them, or leave the teacher out."
            )

        if self.weights and self.teacher_outputs:
            raise InputError(
                f'`distillation` must be "regulated" with `teacher_outputs`, got "{self.distillation}": how often an '
                "example took part is known of a teacher's training only. Name its folder in "
                "`teacher_model_name_or_path`."
            )

    @property
    def is_self_taught(self) -> bool:
        return not self.is_student

    @property
    def is_student(self) -> bool:
        """Whether it has a teacher."""
        return self.distillation != "none"

    @property
    def gates(self) -> bool:
        """Whether examples may be left out."""
        return self.distillation != "significance" and self.confidence_threshold > 0

    @property
    def weights(self) -> bool:
        """Whether examples are weighted by their significance."""
        return self.distillation in ("significance", "hybrid")

    @classmethod
    def paper(cls) -> Self:
        """The student of the abstract's last proposal, "hybrid"."""
        return cls(distillation="hybrid")

    @classmethod
    def neutral(cls) -> Self:
        """All examples in all epochs."""
        return cls(confidence_threshold=0.0, distillation_weight=0.0)

    def check_source(self) -> None:
        if self.is_student:
            super().check_source()

    def first_stage(self) -> "SelfRegulatedConfig | None":
        if not self.is_student or self.teacher_model_name_or_path or self.teacher_outputs:
            return None
        return type(self)(confidence_threshold=self.confidence_threshold, ungated_epochs=self.ungated_epochs)

    def taught_by(self, folder: Path) -> Self:
        return replace(self, teacher_model_name_or_path=str(folder))

    def build(self) -> "SelfRegulated | SelfRegulatedStudent":
        return SelfRegulatedStudent(self) if self.is_student else SelfRegulated(self)


class _OwnGate(Gate):
    """Asks the student, without graph, which examples of a batch it still needs."""

    def on_epoch_begin(self, progress: Progress) -> None:
        self.is_gated = self.config.gates and progress.epoch >= self.config.ungated_epochs

    def known(self, inputs: Mapping[str, Any], indices: Tensor, labels: Tensor, forward: Callable) -> Tensor:
        with torch.no_grad():
            probabilities = forward(inputs).softmax(dim=-1)
        return ~needs_training(probabilities, class_labels(labels), self.config.confidence_threshold)


class SelfRegulated(_OwnGate):
    """Trains on the examples of a batch that are misclassified or not sure enough, and counts how often each took part.

    The loss is the base loss over these examples. The counts are written to `participations.safetensors` in the output
    folder, where a student finds them.

    Source: Mishra & Sundaram, "Self Regulated Learning Mechanism for Data Efficient Knowledge Distillation", arXiv
    2102.07125.

    Args:
        config: Options; `None` is `SelfRegulatedConfig()`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="self_regulated")
        >>> _ = trainer.train()
        >>> trainer.teacher.participations.sum() <= 3 * len(data)
        tensor(True)
    """

    config_class = SelfRegulatedConfig
    runs_model = True

    @property
    def participations(self) -> Tensor:
        """How often each example took part so far, `(num_examples,)`. Every process must ask."""
        return self.participation.counts()

    def base_loss_weight(self, batch: TrainingBatch) -> float:
        return 0.0 if self.is_empty else 1.0

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if self.config.gates:
            check_one_label(batch, self.config.name)
        return {}

    def observe(self, batch: TrainingBatch) -> None:
        self.count(batch)

    def on_train_end(self, progress: Progress) -> None:
        counts = self.participations.cpu()
        student = self.context.student
        if self.participation.seen and student.writes_files:
            student.output_dir.mkdir(parents=True, exist_ok=True)
            with replacing(student.output_dir / PARTICIPATIONS_NAME) as temporary:
                save_file({"participations": counts}, temporary)

    def state_dict(self) -> State:
        return self.participation_state()

    def load_state_dict(self, state: State) -> None:
        self.load_participation(state)


class SelfRegulatedStudent(_OwnGate, KD):
    """Is taught as by `KD`, with examples weighted by their significance, chosen by the student itself, or both.

    With K the loss of `KD` and w the significance, "significance" is the mean of w · K, "regulated" the mean of K over
    the examples that take part, "hybrid" the mean of w · K over these.

    Source: Mishra & Sundaram, "Self Regulated Learning Mechanism for Data Efficient Knowledge Distillation", arXiv
    2102.07125.

    Args:
        config: Options.

    Examples:
        >>> config = SelfRegulatedConfig(distillation="regulated", teacher_model_name_or_path="my/teacher")
        >>> type(config.build()).__name__
        'SelfRegulatedStudent'
    """

    config_class = SelfRegulatedConfig

    def __init__(self, config: SelfRegulatedConfig):
        KD.__init__(self, config)

    def reset(self) -> None:
        Gate.reset(self)
        KD.reset(self)
        self._weights: Tensor | None = None

    @property
    def runs_model(self) -> bool:
        return self.config.gates

    @property
    def needs_example_losses(self) -> bool:
        return self.config.weights

    def on_train_begin(self) -> str | None:
        if self.config.weights:
            counts = self._read_counts()
            self._weights = significance(counts.to(self.context.device), self.config.max_significance)
        return KD.on_train_begin(self)

    def _read_counts(self) -> Tensor:
        path = Path(self.config.teacher_model_name_or_path or "") / PARTICIPATIONS_NAME
        try:
            counts = load_file(path)["participations"]
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(
                f'`distillation` "{self.config.distillation}" needs the participations in the teacher\'s training, and '
                f"{path} cannot be read ({error}). Give the output folder of a training with "
                '`SelfRegulatedConfig(distillation="none")`, or use "regulated".'
            ) from error
        if len(counts) != self.context.num_examples:
            raise InputError(
                f"{path} must have a number for each of {self.context.num_examples} training examples, got "
                f"{len(counts)}. Train teacher and student on the same examples."
            )
        return counts

    def base_loss_weight(self, batch: TrainingBatch) -> float | Tensor:
        if self.is_empty:
            return 0.0
        weight = KD.base_loss_weight(self, batch)
        return weight if self._weights is None else weight * self._weights[batch.indices]

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        check_one_label(batch, self.config.name)
        if self.is_empty:
            return {}
        terms = KD.loss_terms(self, batch)
        if self._weights is None:
            return terms
        weights = self._weights[batch.indices].to(batch.student_logits.dtype)
        return {name: replace(term, per_example=term.per_example * weights) for name, term in terms.items()}

    def observe(self, batch: TrainingBatch) -> None:
        self.count(batch)

    def log_metrics(self) -> dict[str, float]:
        return {**KD.log_metrics(self), **Gate.log_metrics(self)}

    def state_dict(self) -> State:
        return {**KD.state_dict(self), **self.participation_state()}

    def load_state_dict(self, state: State) -> None:
        KD.load_state_dict(self, self.load_participation(state))
