"""Temporal supervision: how features changed over the training predicts how they are to change next."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..conv_lstm import ConvLSTM
from ..distributed import is_distributed
from ..errors import InputError
from ..feature_maps import chosen, energy_map, positions, resized
from ..memory import check_same_digest
from ..model_copy import ModelCopy
from ..observers import State, TrainingBatch, entries_below
from ..schedules import Progress, TrainingPlan
from .base import DistillationTerm
from .kd import KD, KDConfig

NUM_MEMORIES, NUM_LAYERS = 3, 3


@dataclass(frozen=True)
class TSKDConfig(KDConfig):
    """Options of temporal supervised knowledge distillation, for pictures and, carried over, for texts.

    Source: Xi & Wang, "Temporal Supervised Knowledge Distillation", arXiv 2307.00811, in the form of the authors' code.

    Attributes:
        teacher_model_name_or_path: A fine-tuned classifier that returns hidden states, as in `KDConfig`.
        distillation_weight: Weight of T² · KL(teacher ‖ student); the base loss keeps the weight 1.
        review_weight: Weight of the temporal term in review epochs.
        interval_epochs: Every so many epochs one is a memory epoch, after which the student is remembered; each fourth
            one is a review epoch. `None` is a twelfth of the run, from 1 to 5 epochs.
        hidden_channels: Channels of the convolutional LSTMs.
        teacher_free: Ours, no paper's: no teacher; the student's next change is to be the one that the changes before
            predict.

    Differences from the paper:
        A text's map has a position for each token, not for each pixel. All maps are normalised over all positions.
        A text model's three maps are those of the embeddings, and after a third and two thirds of the layers: the
            counterparts of an image model's stem and its first two stages.
        The teacher is run once for its outputs, and again in review epochs only; it is in evaluation mode, as are the
            remembered students.

    Examples:
        >>> TSKDConfig.paper().interval_epochs
        5
    """

    name = "tskd"
    search_space: ClassVar = {"review_weight": (0.3, 1.0, 3.0), "distillation_weight": (0.3, 1.0)}

    # Outputs have no hidden states.
    teacher_outputs: str | None = field(default=None, init=False)
    distillation_weight: float = field(
        default=1.0, metadata={"help": "Weight of the distillation from the teacher's outputs; 0: none."}
    )
    temperature: float = field(default=4.0, metadata={"help": "Temperature of both sides; multiplied by its square."})
    review_weight: float = field(default=1.0, metadata={"help": "Weight of the temporal term in review epochs."})
    interval_epochs: int | None = field(
        default=None, metadata={"help": "Epochs between memory epochs; unset: a twelfth of the run, from 1 to 5."}
    )
    hidden_channels: int = field(default=8, metadata={"help": "Channels of the convolutional LSTMs."})
    teacher_free: bool = field(default=False, metadata={"help": "Without a teacher: predict the student's own change."})

    def __post_init__(self):
        super().__post_init__()
        self._check_weight("review_weight")
        self._check_epochs("interval_epochs")
        if self.hidden_channels < 1:
            raise InputError(f"`hidden_channels` must be at least 1, got {self.hidden_channels}.")
        if self.teacher_free and self.teacher_model_name_or_path is not None:
            raise InputError("`teacher_free` must be False with a teacher, got True. Leave one of them out.")

    @property
    def is_self_taught(self) -> bool:
        return self.teacher_free

    @classmethod
    def paper(cls) -> Self:
        """Five epochs between memory epochs."""
        return cls(interval_epochs=5)

    @classmethod
    def neutral(cls) -> Self:
        """No weight."""
        return cls(distillation_weight=0.0, review_weight=0.0)

    @property
    def has_weight(self) -> bool:
        """Whether any term has weight."""
        return self.review_weight > 0 or (self.distillation_weight > 0 and not self.teacher_free)

    def check_source(self) -> None:
        if self.has_weight and not self.teacher_free and self.teacher_model_name_or_path is None:
            raise InputError(
                "`tskd` needs a teacher, got none. Set `teacher_model_name_or_path` to a fine-tuned classifier, or "
                "`teacher_free=True` to do without."
            )

    def fitted_to(self, plan: TrainingPlan) -> Self:
        return replace(self, interval_epochs=self.interval_epochs or min(5, max(1, plan.num_epochs // 12)))

    def check_plan(self, plan: TrainingPlan) -> None:
        interval = self.fitted_to(plan).interval_epochs
        first = NUM_MEMORIES * interval
        if self.review_weight and first >= plan.num_epochs:
            raise InputError(
                f"`interval_epochs` must be so small that a review comes: after {NUM_MEMORIES} intervals, in epoch "
                f"{first + 1}, got {interval} with {plan.num_epochs} planned epochs. Train longer"
                f"{', or set it to a smaller one' * (interval > 1)}."
            )

    def build(self) -> "TSKD":
        return TSKD(self)


class TSKD(KD):
    """Adds to distillation, in review epochs, that the student's distance to its teacher be what its past predicts.

    `A(F)` is a layer's energy map: for each token or pixel the mean of its squared units, the whole of length 1. With
    A1, A2, A3 those of three remembered students, Ac the present one and At the teacher's, a convolutional LSTM reads
    |A1 - A2|, |A2 - A3|, |Ac - A3| and predicts |Ac - At|; the term is the squared error, a mean over the positions,
    and the sum over three layers. The LSTMs train with the student.

    Source: Xi & Wang, "Temporal Supervised Knowledge Distillation", arXiv 2307.00811, in the form of the authors' code.

    Args:
        config: Options; `None` is `TSKDConfig()`.

    Attributes:
        predictors: The convolutional LSTMs.
        memories: The remembered students, up to three.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher=TSKDConfig(teacher_free=True))
        >>> len(trainer.teacher.predictors)
        3
    """

    config_class = TSKDConfig
    keeps_teacher = True

    def reset(self) -> None:
        super().reset()
        self.memories: list[ModelCopy] = []
        self._saved_weights: str | None = None
        self._epoch, self._reviews, self._has_states = -1, False, False
        self.predictors = None
        self._callables: Sequence[nn.Module] = ()
        if self.config.review_weight:
            # From a seed of their own: what is random in the training stays as it is, on a GPU too.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                dimensions = self._map_dimensions()
                modules = [ConvLSTM(self.config.hidden_channels, dimensions=dimensions) for _ in range(NUM_LAYERS)]
            self.predictors = nn.ModuleList(modules).to(self.context.device)

    @torch.no_grad()
    def _map_dimensions(self, model: nn.Module | None = None) -> int:
        """Of a model's maps, by default the student's: 1 for tokens or patches, 2 for feature maps."""
        student = self.context.student
        if student is None or not student.takes_pictures:
            return 1
        model = model or student.model
        was_training = model.training
        model.eval()
        try:
            inputs = {name: value.to(self.context.device) for name, value in next(student.training_inputs()).items()}
            return student.hidden_states(model, inputs)[0].dim() - 2
        finally:
            model.train(was_training)

    def _check_maps(self) -> None:
        if not self.config.review_weight:
            return
        own, teachers = self._map_dimensions(), self._map_dimensions(self.fixed_teacher.model)
        if own != teachers:
            raise InputError(
                f"The teacher of `tskd` must have maps of as many dimensions as the student, got {teachers} and {own}: "
                "patches have one, feature maps two. Choose a teacher of the same kind, or `review_weight` 0."
            )

    @property
    def runs_model(self) -> bool:
        return self.config.review_weight > 0

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [] if self.predictors is None else list(self.predictors.parameters())

    def on_train_begin(self) -> str | None:
        self.options = self.config.fitted_to(self.context.plan)
        message = None
        if self.config.has_weight and not self.config.teacher_free:
            message = super().on_train_begin()
            if self.fixed_teacher is None:
                self.fixed_teacher = self.load_teacher()
            if self._saved_weights is not None:
                check_same_digest(self._saved_weights, self.fixed_teacher.weights_digest)
            self._check_maps()
        if self.predictors is not None:
            self._callables = [
                DistributedDataParallel(module) if is_distributed() else module for module in self.predictors
            ]
        return message

    def on_epoch_begin(self, progress: Progress) -> None:
        interval, epoch = self.options.interval_epochs, progress.epoch
        if epoch != self._epoch and self.config.review_weight:
            slot = (epoch - 1) // interval % (NUM_MEMORIES + 1)
            if epoch > 0 and (epoch - 1) % interval == 0 and slot < NUM_MEMORIES:
                self.memories = [*self.memories[:slot], ModelCopy.of(self.context.student.model)]
        self._epoch = epoch
        is_last = epoch // interval % (NUM_MEMORIES + 1) == NUM_MEMORIES
        self._reviews = self.config.review_weight > 0 and epoch % interval == 0 and is_last

    def base_loss_weight(self, batch: TrainingBatch) -> float:
        return 1.0

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if self.config.review_weight and not self._has_states:
            # Not after many epochs: a look in evaluation mode, which leaves training as it is.
            ModelCopy({}).hidden_states(self.context.student, batch.inputs)
            self._has_states = True
        terms = {} if self.config.teacher_free else super().loss_terms(batch)
        if self._reviews:
            terms["temporal"] = DistillationTerm(self._temporal(batch), self.config.review_weight)
        return terms

    def _temporal(self, batch: TrainingBatch) -> Tensor:
        """The temporal term of each example, `(batch_size,)`."""
        student, inputs = self.context.student, batch.inputs
        present, attention = student.hidden_states(student.model, inputs), inputs.get("attention_mask")
        past = [memory.hidden_states(student, inputs) for memory in self.memories]
        fixed = None if self.fixed_teacher is None else self.fixed_teacher.hidden_states(inputs, batch.indices)
        total = torch.zeros(len(present[0]), device=present[0].device)
        for layer, predictor in enumerate(self._callables):
            mask = positions(chosen(present)[layer], attention)
            now, first, second, third = (energy_map(chosen(states)[layer], mask) for states in (present, *past))
            changes = [(first - second).abs(), (second - third).abs()]
            target = (now - third).abs()
            if fixed is not None:
                changes.append(target)
                target = (now - resized(*self._teacher_map(fixed, layer), mask)).abs()
            predicted = predictor(torch.stack(changes, dim=1), mask)
            errors = ((predicted - target).square() * mask).flatten(1).sum(dim=1)
            total = total + errors / mask.flatten(1).sum(dim=1).clamp(min=1)
        return total

    def _teacher_map(self, fixed: tuple[Sequence[Tensor], Tensor | None], layer: int) -> tuple[Tensor, Tensor]:
        states, attention = fixed
        mask = positions(chosen(states)[layer], attention)
        return energy_map(chosen(states)[layer], mask), mask

    def on_step_end(self, progress: Progress) -> None:
        # Trainer clears the model's gradients, not these.
        for parameter in self.trainable_parameters():
            parameter.grad = None

    def state_dict(self) -> State:
        own = {} if self.predictors is None else self.predictors.state_dict()
        return {
            **({} if self.config.teacher_free else super().state_dict()),
            "epoch": self._epoch,
            "teacher_weights": None if self.fixed_teacher is None else self.fixed_teacher.weights_digest,
            **{f"predictors.{name}": value.detach() for name, value in own.items()},
            **{
                f"memories.{slot}.{name}": value
                for slot, memory in enumerate(self.memories)
                for name, value in memory.tensors.items()
            },
        }

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._epoch, self._saved_weights = state["epoch"], state["teacher_weights"]
        if self.predictors is not None:
            self.predictors.load_state_dict(entries_below(state, "predictors."))
        memories = [entries_below(state, f"memories.{slot}.") for slot in range(NUM_MEMORIES)]
        self.memories = [ModelCopy(tensors).to(self.context.device) for tensors in memories if tensors]
