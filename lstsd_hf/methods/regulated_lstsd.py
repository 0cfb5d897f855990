"""LSTSD that leaves out of an epoch what its memory already knows. Ours, after the idea of self-regulated learning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ..joint_term import JointTerm
from ..observers import State, TrainingBatch, entries_below
from ..schedules import Progress
from ..term_names import Names
from .base import DistillationTerm, separate
from .lstsd import LSTSD, LSTSDConfig
from .one_label import check_one_label, class_labels
from .participation import Gate, needs_training, significance


@dataclass(frozen=True)
class RegulatedLSTSDConfig(LSTSDConfig):
    """Options of LSTSD with self-regulation; the others are those of `LSTSDConfig`.

    No paper's: ours. The gate and the significance are those of Mishra & Sundaram, "Self Regulated Learning Mechanism
    for Data Efficient Knowledge Distillation", arXiv 2102.07125, judged by what LSTSD stores anyway.

    Attributes:
        regulation: "regulated" leaves out an example whose last stored output is right and gives its label the
            probability δ; "significance" leaves nobody out, and multiplies an example's two terms by how often it would
            have taken part so far, relative to the mean; "hybrid" does both.
        confidence_threshold: δ.
        max_significance: Upper bound of an example's factor.

    Examples:
        >>> RegulatedLSTSDConfig().regulation
        'regulated'
    """

    name = "regulated_lstsd"
    search_space: ClassVar = {**LSTSDConfig.search_space, "confidence_threshold": (0.7, 0.8, 0.9, 0.95)}
    changeable: ClassVar = ()

    regulation: Literal["significance", "regulated", "hybrid"] = field(
        default="regulated",
        metadata={"help": "regulated: leave out what is known; significance: weight the terms; hybrid: both."},
    )
    confidence_threshold: float = field(
        default=0.9, metadata={"help": "An example whose label was given this probability takes no part; 0: all do."}
    )
    max_significance: float = field(
        default=3.0, metadata={"help": "Upper bound of an example's weight, relative to the mean."}
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_share("confidence_threshold", "0 lets all take part.")
        self._check_limit("max_significance")

    @classmethod
    def paper(cls) -> Self:
        """LSTSD's paper, and the defaults of what is ours."""
        return cls(**{name: getattr(LSTSDConfig.paper(), name) for name in LSTSDConfig.changeable})

    @classmethod
    def neutral(cls) -> Self:
        """No weight and no gate."""
        return cls(lambda_short=0.0, lambda_long=0.0, confidence_threshold=0.0)

    @property
    def gates(self) -> bool:
        """Whether examples may be left out."""
        return self.regulation != "significance" and self.confidence_threshold > 0

    @property
    def weights(self) -> bool:
        """Whether the terms are weighted."""
        return self.regulation != "regulated"

    def build(self) -> "RegulatedLSTSD":
        return RegulatedLSTSD(self)


class RegulatedLSTSD(Gate, LSTSD):
    """LSTSD on the examples of an epoch that, by their stored outputs, still need training; without an extra pass.

    All examples take part in the first epoch and in the last one of each mini-generation, whose outputs are the
    long-term teachers; an example that was left out keeps its teachers. The base loss is never weighted.

    Ours; see `RegulatedLSTSDConfig`.

    Args:
        config: Options; `None` is `RegulatedLSTSDConfig()`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="regulated_lstsd")
        >>> _ = trainer.train()
        >>> trainer.state.log_history[-2]["samples_used"] <= trainer.state.log_history[-2]["samples_seen"]
        True
    """

    config_class = RegulatedLSTSDConfig
    # A process that leaves a whole epoch out would have no memory.
    needs_whole_tables = True
    takes_tokens = False

    def reset(self) -> None:
        Gate.reset(self)
        LSTSD.reset(self)
        self._weights: Tensor | None = None
        self._counts: Tensor | None = None
        self._counted_epoch = -1

    def on_epoch_begin(self, progress: Progress) -> None:
        LSTSD.on_epoch_begin(self, progress)
        length = self._mini_generations.length
        refreshes = progress.epoch == 0 or progress.epoch % length == length - 1
        self.is_gated = self.config.gates and not refreshes
        self._is_whole = refreshes
        if self.config.weights:
            # Counted over the epochs before, also where this one is resumed half-way.
            if progress.epoch != self._counted_epoch:
                self._counts, self._counted_epoch = self.participation.counts(), progress.epoch
            self._weights = significance(self._counts, self.config.max_significance)

    def select_rows(
        self, inputs: Mapping[str, Any], indices: Tensor, labels: Tensor | None, forward: Callable
    ) -> Tensor | None:
        rows = Gate.select_rows(self, inputs, indices, labels, forward)
        if self.config.regulation == "significance" and not self._is_whole:
            self.needs = ~self.known(inputs, indices, labels, forward)
        return rows

    def known(self, inputs: Mapping[str, Any], indices: Tensor, labels: Tensor, forward: Callable) -> Tensor:
        if self.memory is None:
            return torch.zeros_like(indices, dtype=torch.bool)
        (logits, _), (written, _) = self.memory.read(indices)
        return written & ~needs_training(logits.softmax(dim=-1), class_labels(labels), self.config.confidence_threshold)

    def base_loss_weight(self, batch: TrainingBatch) -> float:
        return 0.0 if self.is_empty else 1.0

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm] | dict[Names, JointTerm]:
        if self.config.gates or self.config.weights:
            check_one_label(batch, self.config.name)
        terms = {} if self.is_empty else LSTSD.loss_terms(self, batch)
        if self._weights is None:
            return terms
        weights = self._weights[batch.indices].to(batch.student_logits.dtype)
        return {name: replace(term, per_example=term.per_example * weights) for name, term in separate(terms).items()}

    def observe(self, batch: TrainingBatch) -> None:
        self.count(batch)
        if not self.is_empty:
            LSTSD.observe(self, batch)

    def log_metrics(self) -> dict[str, float]:
        return {**LSTSD.log_metrics(self), **Gate.log_metrics(self)}

    def state_dict(self) -> State:
        counts = {} if self._counts is None else {"epoch_counts": self._counts}
        own = {**self.participation_state(), **counts, "counted_epoch": self._counted_epoch}
        return {**{f"lstsd.{name}": value for name, value in LSTSD.state_dict(self).items()}, **own}

    def load_state_dict(self, state: State) -> None:
        own = self.load_participation(state)
        if "epoch_counts" in own:
            self._counts = own["epoch_counts"].to(self.context.device)
        self._counted_epoch = own["counted_epoch"]
        lstsd = entries_below(own, "lstsd.")
        LSTSD.load_state_dict(self, lstsd)
