"""The one interface: a `Teacher` supplies distillation terms and remembers what it needs to supply the next ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from ..agreement import Agreement
from ..errors import InputError
from ..joint_term import JointTerm
from ..label_errors import LabelErrorCandidate
from ..memory import ConstantMemory, ExampleMemory, ShardedMemory
from ..model_copy import ModelCopy
from ..observers import Observer, TrainingBatch
from ..overlapping import Batching
from ..problem_types import SingleLabel
from ..term_names import Names
from ..token_errors import rank_errors
from .config import TeacherConfig


@dataclass(frozen=True)
class DistillationTerm:
    """One weighted part of the loss, unreduced: only the trainer knows by what the base loss was divided.

    Attributes:
        per_example: Divergence of each example, `(batch_size,)`, with gradient to the student only. A method that
            looks at other examples than the batch's, as DLB does, has one for each of those.
        weight: λ, the factor in the total loss. The log shows the term without it.
        agreement: Whether student and teacher give the same answer, bool or from 0 to 1 for each example, 0 without a
            teacher, or what `lstsd_hf.agreement.agreement_with` returns; to be logged.

    Examples:
        >>> DistillationTerm(torch.tensor([0.1, 0.3]), weight=2.0).weight
        2.0
    """

    per_example: Tensor
    weight: float
    agreement: Tensor | Agreement | None = None

    @property
    def has_gradient(self) -> bool:
        """Whether it depends on the student."""
        return self.per_example.requires_grad

    def added_to(self, loss: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor]:
        """A loss with the weighted mean of the term.

        Args:
            loss: One number, or one for each device.
            scale: The factor between a mean over the micro-batch and the loss's scale.

        Returns:
            The loss, and the mean on the same scale without weight and gradient.
        """
        mean = self.per_example.mean()
        if not (isinstance(scale, float) and scale == 1):
            mean = mean * scale
        return torch.add(loss, mean, alpha=self.weight), mean.detach()


def separate(terms: Mapping[Names, DistillationTerm | JointTerm]) -> dict[str, DistillationTerm]:
    """Terms by name, one for each teacher; to be weighted or changed one by one."""
    apart: dict[str, DistillationTerm] = {}
    for names, term in terms.items():
        if isinstance(term, JointTerm):
            apart |= {name: DistillationTerm(*parts) for name, parts in zip(names, term.separate(), strict=True)}
        else:
            apart[names] = term
    return apart


class Teacher(Observer):
    """What stands between plain fine-tuning and a self-distillation method. Override what your method needs.

    Order of calls: that of `Observer`, where `loss_terms` and `base_loss_weight` come before each `observe`, which is
    the only place that writes per-batch state.

    Attributes:
        config: The options it was built from, if any; a resumed run must have the same.
        needs_batches: Whether the trainer hands over the training batches (example indices and student logits).
        is_stateful: Whether checkpoints must carry the teacher. Without batches and state it is the parent Trainer.
        runs_model: Whether it runs the model, or a copy of its weights, beside the training forward. Such a teacher is
            refused where the weights are sharded (FSDP, DeepSpeed ZeRO-3).
        learning_rate_factor: Optimizer steps done -> factor on the base learning rate, instead of the scheduler that
            `TrainingArguments` ask for; `None` leaves that one.
        needs_example_losses: Whether it means nothing where the base loss is not known example by example; see
            `base_loss_weight`. Training then stops before the first optimizer step.
        is_empty: Whether nobody of the micro-batch that runs takes part; other observers then do not see it.
        card_note: What a model card must say of its scores.
        memory: The memory with a row for each training example, where the method keeps one and has seen a batch.

    Examples:
        >>> class Confident(Teacher):
        ...     def loss_terms(self, batch):
        ...         log_p = batch.student_logits.log_softmax(-1)
        ...         return {"entropy": DistillationTerm(-(log_p.exp() * log_p).sum(-1), weight=0.1)}
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher=Confident())
        >>> _ = trainer.train()
        >>> "loss_entropy" in trainer.state.log_history[0]
        True
    """

    name = "teacher"
    runs_model: bool = False
    learning_rate_factor: Callable[[int], float] | None = None
    memory: ExampleMemory | ShardedMemory | ConstantMemory | None = None
    config: TeacherConfig | None = None
    is_empty: bool = False
    card_note: ClassVar[str] = ""
    needs_example_losses: bool = False

    # ---- Loss ----

    def base_loss_weight(self, batch: TrainingBatch) -> float | Tensor:
        """Factor on the base loss: one number, or one for each example, `(batch_size,)`.

        With one for each example, an example's own loss is weighted where it is known: the usual loss of the problem
        type, whoever computes it, and label smoothing. Of any other base loss (class weights, say) only the mean is
        known, so that the mean is weighted by the mean factor. That is right on average if the factors have nothing to
        do with the losses; a method whose factors do sets `needs_example_losses`.
        """
        return 1.0

    def loss_terms(self, batch: TrainingBatch) -> Mapping[str, DistillationTerm] | Mapping[Names, JointTerm]:
        """Terms to add to the base loss, by the name that follows `loss_` in the log; `{}` is plain fine-tuning."""
        return {}

    # ---- Data ----

    def training_sampler(self, batching: Batching) -> Sampler | None:
        """The sampler of the training data that the method needs; `None` leaves the trainer its own.

        Args:
            batching: How the run divides its examples.
        """
        return None

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters of the method's own that the optimizer is to train beside the model's; known from `reset` on."""
        return []

    @property
    def chooses_batches(self) -> bool:
        """Whether it declares a sampler of its own."""
        return type(self).training_sampler is not Teacher.training_sampler

    def select_rows(
        self, inputs: Mapping[str, Any], indices: Tensor, labels: Tensor | None, forward: Callable
    ) -> Tensor | None:
        """The rows of a training batch to train on, at least one; the others cost no pass of training.

        Args:
            inputs: The model's inputs.
            indices: Example indices, int64 `(batch_size,)`.
            labels: As in `TrainingBatch`.
            forward: Runs the student: inputs to logits.

        Returns:
            Positions in the batch, int64, at least one; `None` is all of them.
        """
        return None

    # ---- Prediction ----

    def ensemble(self) -> list[ModelCopy]:
        """Copies whose softmax is averaged with the student's in `evaluate` and `predict`.

        The student alone is scored too, as `eval_student_…`; `eval_loss` is the plain loss of the mean.
        """
        return []

    @property
    def predicts_as_ensemble(self) -> bool:
        """Whether it declares an ensemble, which may have the student alone as yet."""
        return type(self).ensemble is not Teacher.ensemble

    @property
    def predicts_with_copies(self) -> bool:
        """Whether it declares an ensemble or copies to score."""
        return self.predicts_as_ensemble or type(self).scored_copies is not Teacher.scored_copies

    def scored_copies(self) -> dict[str, ModelCopy]:
        """Copies that `evaluate` scores beside the student, as `eval_<name>_…`."""
        return {}

    # ---- What the memory knows ----

    def remembered_probabilities(self) -> tuple[Tensor, Tensor] | None:
        """What the method's memory predicts; `None` where it keeps no predictions or has none yet. To override.

        Returns:
            As `example_probabilities`.
        """
        return None

    def example_probabilities(self) -> tuple[Tensor, Tensor]:
        """What the memory predicts for each training example; in a token-level task for each labelled token.

        Returns:
            Probabilities `(num_examples, num_labels)` and which examples have them, bool `(num_examples,)`.

        Raises:
            InputError: If the method keeps no predictions or has none yet (an epoch must have ended), or if there are
                no labels to choose from.
        """
        kind = self.context.problem_type
        if kind is not None and kind.name != SingleLabel.name:
            raise InputError(
                f"Examples must have one label of several to be ranked by it, got a model for {kind.name}."
            )
        if isinstance(self.memory, ShardedMemory):
            raise InputError(
                "Examples cannot be ranked by a memory with `memory_storage='sharded'`, whose tables are on no process "
                "as a whole. Leave it out."
            )
        found = self.remembered_probabilities()
        if found is None or not found[1].any():
            raise InputError(
                f"{type(self).__name__} must have predictions for the training examples, but has none. Train for at "
                "least an epoch, with `record_dynamics=True` or a method that keeps them, such as lstsd."
            )
        return found

    def rank_label_errors(self) -> list[LabelErrorCandidate]:
        """The training examples by how little the memory believes their given label, the least believed first.

        In a token-level task the labelled tokens.
        """
        return rank_errors(self.context, *self.example_probabilities())


class ConfiguredTeacher(Teacher):
    """A teacher that is built from a config.

    Args:
        config: Options; `None` is the defaults.

    Attributes:
        options: The config, once training begins fitted to the length of the run.

    Examples:
        >>> from lstsd_hf import RDrop
        >>> RDrop().config
        RDropConfig(alpha=0.5, official_bert=False)
    """

    config_class: ClassVar[type[TeacherConfig]]

    def __init__(self, config: TeacherConfig | None = None):
        self.config = self.options = config if config is not None else self.config_class()
        self.reset()

    def with_config(self, config: TeacherConfig) -> Teacher:
        """A teacher like this one with other options: of the class that they call for, or of a subclass of one's own.

        Args:
            config: The options.
        """
        is_own_class = type(self.config.build()) is not type(self)
        return type(self)(config) if is_own_class else config.build()

    def on_train_begin(self) -> str | None:
        self.options = self.config.fitted_to(self.context.plan)
        return None
