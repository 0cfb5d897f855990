"""DLB: the previous batch is run again and distilled from what the model said of it one step before."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ..distributed import num_processes
from ..errors import InputError
from ..memory import LastStepMemory
from ..observers import State, TrainingBatch, entries_below
from ..overlapping import Batching, OverlappingSampler
from ..problem_types import ProblemType
from ..schedules import Progress
from .base import ConfiguredTeacher, DistillationTerm
from .config import TeacherConfig


@dataclass(frozen=True)
class DLBConfig(TeacherConfig):
    """Options of DLB (self-distillation from the last mini-batch).

    Source: Shen et al., "Self-Distillation from the Last Mini-Batch for Consistency Regularization", CVPR 2022, arXiv
    2203.16172.

    Attributes:
        alpha: Weight of the distillation term; 0 is plain fine-tuning, without the second pass.
        temperature: T of both sides; the term is multiplied by T².
        form: "repeat" runs each batch again beside the next one, as the authors' code does; "overlap" draws half of
            each batch again in the next one, as the paper says, at no extra pass.
        carry_over_epochs: Whether the last batch of an epoch is run again in the next one, as in the authors' code;
            not in the form "overlap".

    Differences from the paper:
        Text has no second augmented view: the second pass differs by its dropout.
        The authors' code states no default for T and α; those of `DLBConfig()` are read off a tag in it.
        Under gradient accumulation a micro-batch is paired with the same one of the last optimizer step, so that
            teacher and student are one update apart.
        In the form "overlap" an epoch has as many steps as plain fine-tuning: it draws half of the examples, twice.

    Examples:
        >>> DLBConfig.paper().form
        'overlap'
    """

    name = "dlb"
    added_later: ClassVar = ("form",)
    search_space: ClassVar = {"alpha": (0.25, 0.5, 1.0, 2.0), "temperature": (1.0, 3.0)}

    alpha: float = field(default=0.5, metadata={"help": "Weight of the distillation term; 0: plain fine-tuning."})
    temperature: float = field(default=3.0, metadata={"help": "Temperature of both sides; multiplied by its square."})
    form: Literal["repeat", "overlap"] = field(
        default="repeat",
        metadata={"help": "repeat: run each batch again beside the next one; overlap: draw half of it again."},
    )
    carry_over_epochs: bool = field(
        default=True, metadata={"help": "Run an epoch's last batch again at the beginning of the next epoch."}
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_weight("alpha")
        self._check_temperature()

    @classmethod
    def paper(cls) -> Self:
        """Overlapping batches with α = 1."""
        return cls(alpha=1.0, form="overlap")

    @classmethod
    def neutral(cls) -> Self:
        """No weight."""
        return cls(alpha=0.0)

    def build(self) -> "DLB | OverlappingDLB":
        return FORMS[self.form](self)


class _DLB(ConfiguredTeacher):
    """What both forms share: the logits of the last optimizer step teach."""

    config_class = DLBConfig

    def __init__(self, config: DLBConfig | None = None):
        super().__init__(config)
        if FORMS[self.config.form] is not type(self):
            raise InputError(
                f"`form` of the config of {type(self).__name__} must be its own, got {self.config.form!r}. Use "
                "`config.build()`."
            )

    def reset(self) -> None:
        self._epoch = 0
        self._memory = LastStepMemory()

    def on_epoch_begin(self, progress: Progress) -> None:
        if progress.epoch != self._epoch and not self.carries_over:
            self._memory = LastStepMemory()
        self._epoch = progress.epoch

    @property
    def carries_over(self) -> bool:
        """Whether the last batch of an epoch teaches in the next one."""
        return self.config.carry_over_epochs

    def on_step_end(self, progress: Progress) -> None:
        self._memory.end_step()

    def term(self, kind: ProblemType, logits: Tensor, teacher_logits: Tensor) -> DistillationTerm:
        """The distillation term of some examples, `(batch_size, num_labels)` each."""
        temperature = self.config.temperature
        targets = kind.targets(teacher_logits, temperature)
        divergences = kind.divergence("teacher_student", logits, targets, temperature)
        divergences = divergences * kind.temperature(temperature) ** 2
        return DistillationTerm(divergences, self.config.alpha, kind.agreement(logits, targets))

    def state_dict(self) -> State:
        """Each process remembers batches of its own, so the checkpoint has those of all."""
        return {"epoch": self._epoch, **self._memory.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self._epoch = state["epoch"]
        self._memory = LastStepMemory()
        self._memory.load_state_dict(state, self.context.device)


class DLB(_DLB):
    """Each batch is trained on twice: when it is drawn, and with the next batch, distilled from its first outputs.

    Source: Shen et al., "Self-Distillation from the Last Mini-Batch for Consistency Regularization", CVPR 2022, arXiv
    2203.16172, Eq. 5, in the form of the authors' code. Cross-entropy is the mean over both batches; that of the
    previous batch is the plain one, whatever the base loss.

    Args:
        config: Options; `None` is `DLBConfig()`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="dlb")
        >>> _ = trainer.train()
        >>> trainer.distilled_steps == trainer.state.global_step - 1
        True
    """

    runs_model = True

    def base_loss_weight(self, batch: TrainingBatch) -> float:
        partner = self._memory.partner
        if partner is None:
            return 1.0
        return len(batch.indices) / (len(batch.indices) + len(partner["labels"]))

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        partner = self._memory.partner
        if partner is None:
            return {}
        logits = batch.forward(_nested(entries_below(partner, _INPUTS)))
        return {
            "previous_labels": DistillationTerm(
                batch.problem_type.base_loss(logits, partner["labels"]), 1.0 - self.base_loss_weight(batch)
            ),
            "previous": self.term(batch.problem_type, logits, partner["logits"]),
        }

    def observe(self, batch: TrainingBatch) -> None:
        if not self.config.alpha:
            return
        if batch.labels is None:
            raise InputError("A training batch must have labels for DLB, got none. Name them in `label_names`.")
        inputs = {name: value for name, value in _flat(batch.inputs, _INPUTS) if value is not batch.labels}
        self._memory.add({"labels": batch.labels, "logits": batch.student_logits, **inputs})


# Between the names of nested inputs: no name has it.
_INPUTS, _WITHIN = "inputs.", "\x1f"


def _flat(inputs: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch, in nested mappings too. What else a model takes cannot be put into a checkpoint."""
    for name, value in inputs.items():
        if not isinstance(name, str):
            raise InputError(
                f"The model's inputs must have names for DLB, got the key {name!r}. Choose another method."
            )
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from _flat(value, prefix + name + _WITHIN)


def _nested(flat: Mapping[str, Tensor]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(_WITHIN)
        place = inputs
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return inputs


class OverlappingDLB(_DLB):
    """Half of each batch is drawn again in the next one, and distilled from what the model said of it one step before.

    Source: Shen et al., "Self-Distillation from the Last Mini-Batch for Consistency Regularization", CVPR 2022, arXiv
    2203.16172, Sec. 3.

    Args:
        config: Options; `None` is `DLBConfig.paper()`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher=DLBConfig.paper())
        >>> _ = trainer.train()
        >>> trainer.teacher.carries_over
        False
    """

    def __init__(self, config: DLBConfig | None = None):
        super().__init__(config if config is not None else DLBConfig.paper())

    @property
    def carries_over(self) -> bool:
        # Each epoch begins with other examples.
        return False

    def training_sampler(self, batching: Batching) -> OverlappingSampler | None:
        self._sampler = OverlappingSampler(batching) if self.config.alpha else None
        return self._sampler

    def on_epoch_begin(self, progress: Progress) -> None:
        super().on_epoch_begin(progress)
        if self._sampler is not None:
            # accelerate's loaders do not always pass it on after a resume.
            self._sampler.set_epoch(progress.epoch)

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        partner = self._memory.partner
        if partner is None:
            return {}
        is_same = batch.indices[:, None] == partner["indices"]
        is_shared = is_same.any(dim=1)
        self._check_overlap(is_shared)
        # An example may be drawn twice, where one order of all of them follows another.
        newest = (is_same * torch.arange(1, is_same.size(1) + 1, device=is_same.device)).argmax(dim=1)
        # The others beside themselves: infinity times no share were not a number.
        others = torch.where(is_shared[:, None], partner["logits"][newest], batch.student_logits.detach())
        term = self.term(batch.problem_type, batch.student_logits, others)
        # Their mean over the batch is that over the shared examples.
        share = is_shared * (len(is_shared) / is_shared.sum().clamp(min=1).to(term.per_example.dtype))
        agreement = None if term.agreement is None else term.agreement * share
        return {"previous": DistillationTerm(term.per_example * share, term.weight, agreement)}

    def observe(self, batch: TrainingBatch) -> None:
        if self.config.alpha:
            self._memory.add({"indices": batch.indices, "logits": batch.student_logits})
            self._rows += len(batch.indices)

    def log_metrics(self) -> dict[str, float]:
        """How often an example has been drawn, on average."""
        return {"exposures": self._rows * num_processes() / self.context.num_examples} if self._rows else {}

    def state_dict(self) -> State:
        return {"rows": self._rows, **super().state_dict()}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._rows = state["rows"]

    def _check_overlap(self, is_shared: Tensor) -> None:
        """Whether the batches come from the sampler; once, because on a device it waits."""
        if not self._is_checked and not is_shared.any():
            raise InputError(
                'With `form="overlap"` each batch must share examples with the one before, and this one shares none. A '
                'data loader or sampler of your own draws others: leave it out, or use `form="repeat"`.'
            )
        self._is_checked = True

    def reset(self) -> None:
        super().reset()
        self._sampler: OverlappingSampler | None = None
        self._is_checked = False
        # Drawn on this process; each one draws as many.
        self._rows = 0


FORMS = {"repeat": DLB, "overlap": OverlappingDLB}
