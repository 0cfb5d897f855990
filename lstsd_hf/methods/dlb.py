"""DLB: the previous batch is run again and distilled from what the model said of it one step before."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..distributed import gather_objects, num_processes, rank
from ..errors import InputError
from ..observers import State, TrainingBatch
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
        carry_over_epochs: Whether the last batch of an epoch is run again in the next one, as in the authors' code.

    Differences from the paper:
        Text has no second augmented view: the second pass differs by its dropout.
        The authors' code states no default for T and α; these are read off a tag in it.
        Under gradient accumulation a micro-batch is paired with the same one of the last optimizer step, so that
            teacher and student are one update apart.

    Example:
        >>> DLBConfig(alpha=1.0).temperature
        3.0
    """

    name = "dlb"
    search_space: ClassVar = {"alpha": (0.25, 0.5, 1.0, 2.0), "temperature": (1.0, 3.0)}

    alpha: float = field(default=0.5, metadata={"help": "Weight of the distillation term; 0: plain fine-tuning."})
    temperature: float = field(default=3.0, metadata={"help": "Temperature of both sides; multiplied by its square."})
    carry_over_epochs: bool = field(
        default=True, metadata={"help": "Run an epoch's last batch again at the beginning of the next epoch."}
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_weight("alpha")
        self._check_temperature()

    @classmethod
    def neutral(cls) -> "DLBConfig":
        """No weight."""
        return cls(alpha=0.0)

    def build(self) -> "DLB":
        return DLB(self)


class _Remembered(NamedTuple):
    inputs: dict[str, Any]
    labels: Tensor
    logits: Tensor


class DLB(ConfiguredTeacher):
    """Each batch is trained on twice: when it is drawn, and with the next batch, distilled from its first outputs.

    Source: Shen et al., "Self-Distillation from the Last Mini-Batch for Consistency Regularization", CVPR 2022, arXiv
    2203.16172, Eq. 5, in the form of the authors' code. Cross-entropy is the mean over both batches; that of the
    previous batch is the plain one, whatever the base loss.

    Args:
        config: Options; `None` is `DLBConfig()`.

    Example:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="dlb")
        >>> _ = trainer.train()
        >>> trainer.distilled_steps == trainer.state.global_step - 1
        True
    """

    config_class = DLBConfig

    runs_model = True

    def reset(self) -> None:
        self._epoch = 0
        # Micro-batches of the last optimizer step and of the current one.
        self._previous: list[_Remembered] = []
        self._current: list[_Remembered] = []

    def on_epoch_begin(self, progress: Progress) -> None:
        if progress.epoch != self._epoch and not self.config.carry_over_epochs:
            self._previous = []
        self._epoch = progress.epoch

    def base_loss_weight(self, batch: TrainingBatch) -> float:
        partner = self._partner
        if partner is None:
            return 1.0
        return len(batch.indices) / (len(batch.indices) + len(partner.labels))

    @property
    def _partner(self) -> _Remembered | None:
        position = len(self._current)
        return self._previous[position] if position < len(self._previous) else None

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        partner = self._partner
        if partner is None:
            return {}
        temperature, kind = self.config.temperature, batch.problem_type
        logits = batch.forward(partner.inputs)
        targets = kind.targets(partner.logits, temperature)
        divergences = kind.divergence("teacher_student", logits, targets, temperature)
        divergences = divergences * kind.temperature(temperature) ** 2
        return {
            "previous_labels": DistillationTerm(
                kind.base_loss(logits, partner.labels), 1.0 - self.base_loss_weight(batch)
            ),
            "previous": DistillationTerm(divergences, self.config.alpha, kind.agreement(logits, targets)),
        }

    def observe(self, batch: TrainingBatch) -> None:
        if not self.config.alpha:
            return
        if batch.labels is None:
            raise InputError("A training batch must have labels for DLB, got none. Name them in `label_names`.")
        # Tensors only: what else a model takes cannot be put into a checkpoint.
        inputs = {
            name: value
            for name, value in batch.inputs.items()
            if isinstance(value, Tensor) and value is not batch.labels
        }
        self._current.append(_Remembered(inputs, batch.labels, batch.student_logits.detach()))

    def on_step_end(self, progress: Progress) -> None:
        self._previous, self._current = self._current, []

    def state_dict(self) -> State:
        """Each process remembers batches of its own, so the checkpoint has those of all."""
        state: dict[str, Any] = {"epoch": self._epoch, "num_processes": num_processes()}
        mine = [
            {"labels": item.labels.cpu(), "logits": item.logits.cpu()}
            | {f"inputs.{name}": value.cpu() for name, value in item.inputs.items()}
            for item in self._previous
        ]
        for process, items in enumerate(gather_objects(mine)):
            for position, item in enumerate(items):
                state |= {f"{process}.{position}.{name}": value for name, value in item.items()}
        return state

    def load_state_dict(self, state: State) -> None:
        if state["num_processes"] != num_processes():
            raise InputError(
                f"`num_processes` must be {state['num_processes']} to resume DLB, got {num_processes()}: each process "
                "goes on with the batch that it had before. Resume on as many processes, or start a new run."
            )
        self._epoch = state["epoch"]
        items: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            process, _, rest = key.partition(".")
            if rest and int(process) == rank():
                position, _, name = rest.partition(".")
                items.setdefault(int(position), {})[name] = torch.as_tensor(value).to(self.context.device)
        self._previous = [
            _Remembered(
                {name.removeprefix("inputs."): v for name, v in item.items() if name.startswith("inputs.")},
                item["labels"],
                item["logits"],
            )
            for _, item in sorted(items.items())
        ]
