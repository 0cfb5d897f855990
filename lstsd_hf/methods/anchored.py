"""Anchored sample distillation: the teacher is the model's own prediction from before it memorised. Ours."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from ..agreement import agreement_with
from ..distributed import max_over_processes, with_mean_one
from ..errors import InputError
from ..memory import LatestMemory
from ..observers import State, TrainingBatch, entries_below
from ..schedules import Progress
from .base import DistillationTerm
from .config import TeacherConfig
from .one_label import check_one_label, class_labels
from .with_memory import MemoryTeacher

# The first epoch has seen too little, from 0.
FIRST_ANCHOR = 1


@dataclass(frozen=True)
class AnchoredConfig(TeacherConfig):
    """Options of anchored sample distillation.

    No paper's: ours. The rule by which a label is doubted is confident learning's (Northcutt et al., "Confident
    Learning", JAIR 2021, arXiv 1911.00068, Sec. 3).

    Attributes:
        kept_out_share: Share of the training examples whose labels carry no loss at first. What the training forwards
            say of them is out of sample.
        patience: Epochs without an improvement of their loss after which the best epoch is the anchor.
        mixing: a, share of the teacher's prediction in the target from then on.
        momentum: After each epoch from then on, the teacher's prediction is so much of the old one, and for the rest
            what the model said in that epoch. 1: it stays that of the anchor.
        rule: What becomes of a label that the anchor's predictions call wrong: "flip" replaces it by the predicted one,
            "cl" leaves it out of the target, "constant" does nothing.
        pull: Weight of KL(p ‖ prediction of the previous epoch) before the anchor.
        kept_out_seed: Seed of the choice of examples, apart from the run's own.

    Examples:
        >>> AnchoredConfig().rule
        'flip'
    """

    name = "anchored"
    search_space: ClassVar = {"mixing": (0.5, 0.7, 0.9), "kept_out_share": (0.1, 0.2), "pull": (0.0, 2.0)}

    kept_out_share: float = field(
        default=0.1,
        metadata={"help": "Share of the examples that carry no loss at first; 0: plain fine-tuning."},
    )
    patience: int = field(
        default=2, metadata={"help": "Epochs without improvement on them after which the best one is the anchor."}
    )
    mixing: float = field(default=0.7, metadata={"help": "Share of the teacher's prediction in the target."})
    momentum: float = field(
        default=0.9, metadata={"help": "Share of the old teacher that an epoch after the anchor leaves; 1: all."}
    )
    rule: Literal["flip", "cl", "constant"] = field(
        default="flip", metadata={"help": "Of labels that the anchor doubts: flip, cl (leave out) or constant (keep)."}
    )
    pull: float = field(default=0.0, metadata={"help": "Weight of the previous epoch's prediction before the anchor."})
    kept_out_seed: int = field(default=0, metadata={"help": "Seed of the choice of the examples kept out."})

    def __post_init__(self):
        super().__post_init__()
        self._check_share("mixing", "1 leaves nothing of the given label.")
        if not self.mixing:
            raise InputError(
                "`mixing` must be above 0, got 0: the anchor would teach nothing. Take `NoTeacherConfig()`."
            )
        self._check_share("momentum", "1 keeps the teacher as it is.")
        self._check_weight("pull")
        if not 0 <= self.kept_out_share < 1:
            raise InputError(f"`kept_out_share` must be from 0 to below 1, got {self.kept_out_share}. 0 keeps none.")
        if self.patience < 1:
            raise InputError(f"`patience` must be at least 1 epoch, got {self.patience}.")

    @classmethod
    def neutral(cls) -> Self:
        """Nobody is kept out, so that there is never an anchor."""
        return cls(kept_out_share=0.0)

    def build(self) -> "Anchored":
        return Anchored(self)


class Anchored(MemoryTeacher):
    """A long run that ends where a short one would, without anybody choosing its length.

    A share of the examples is kept out of the loss. Once their loss has not improved for `patience` epochs, the
    predictions of its best epoch are the anchor: all examples train, and the target is `(1 - a) · label + a · z`, where
    z begins as the anchor's prediction and slowly follows the model. Labels that z calls wrong are turned round. A run
    too short for that is plain fine-tuning, and says so.

    Ours; see `AnchoredConfig`.

    Args:
        config: Options; `None` is `AnchoredConfig()`.

    Attributes:
        anchor_epoch: The anchor's epoch, from 1; `None` before it is found.
        kept_out_loss: Mean loss of the examples kept out in the last epoch before the anchor, in nats.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="anchored")
        >>> _ = trainer.train()  # 3 epochs are too few for an anchor
        >>> trainer.teacher.anchor_epoch is None
        True
    """

    config_class = AnchoredConfig
    memory_class = LatestMemory
    needs_whole_tables = True
    needs_example_losses = True

    def reset(self) -> None:
        super().reset()
        context, share = self.context, self.config.kept_out_share
        self._is_active, self._was_active = False, None
        order = torch.randperm(context.num_examples, generator=torch.Generator().manual_seed(self.config.kept_out_seed))
        self._kept_out = torch.zeros(context.num_examples, dtype=torch.bool)
        self._kept_out[order[: round(share * context.num_examples)]] = True
        self._kept_out = self._kept_out.to(context.device)
        self._labels = torch.full((context.num_examples,), -100, device=context.device)
        self._best_rows: Tensor | None = None
        self._best_written: Tensor | None = None
        self._best_loss, self._best_epoch = math.inf, -1
        self._seen_epoch = 0
        self._is_doubted: Tensor | None = None
        self._believed: Tensor | None = None
        self.anchor_epoch: int | None = None
        self.kept_out_loss: float | None = None

    def on_train_begin(self) -> str | None:
        super().on_train_begin()
        if not self.config.kept_out_share:
            return None
        count, all_of_them = int(self._kept_out.sum()), self.context.num_examples
        epochs, least = self.context.plan.num_epochs, FIRST_ANCHOR + self.config.patience + 2
        self._is_active = epochs >= least and 0 < count < all_of_them
        if self._was_active not in (None, self._is_active):
            raise InputError(
                f"`num_train_epochs` must be {'at least' if self._was_active else 'below'} {least} in this run, got "
                f"{epochs}: before the interruption they were {'enough' if self._was_active else 'too few'} to find an "
                "anchor. Resume with the same number of epochs, or start a new run."
            )
        if epochs < least:
            return (
                f"Anchored: {epochs} epochs are too few to find an anchor and be taught by it (at least {least}): "
                "plain fine-tuning."
            )
        if not self._is_active:
            return f"Anchored: {all_of_them} examples are too few to keep some out: plain fine-tuning."
        return f"Anchored: {count} of {all_of_them} examples are kept out at first."

    # ---- The anchor ----

    def on_epoch_begin(self, progress: Progress) -> None:
        super().on_epoch_begin(progress)
        epoch = progress.epoch - 1
        # Once, also where a run is resumed within the next one.
        if not self._is_active or self.memory is None or epoch < FIRST_ANCHOR or epoch <= self._seen_epoch:
            return
        self._seen_epoch = epoch
        # Each process has seen the labels of its own batches.
        self._labels = max_over_processes(self._labels, self.context.device)
        if self.anchor_epoch is None:
            self._judge(epoch)
        elif self.config.momentum < 1:
            self._follow()
        if self.anchor_epoch is not None:
            self._doubt()

    def _judge(self, epoch: int) -> None:
        """Looks at what an epoch, from 0, said of the examples kept out. All processes know the same."""
        rows = self.memory.latest.to(self.context.device)
        counts = self._kept_out & self.memory.written.to(self.context.device) & (self._labels >= 0)
        if not counts.any():  # a sampler of one's own that never draws them
            return
        self.kept_out_loss = float(torch.nn.functional.cross_entropy(rows[counts], self._labels[counts]))
        if self.kept_out_loss < self._best_loss:
            self._best_loss, self._best_epoch = self.kept_out_loss, epoch
            self._best_rows, self._best_written = self.memory.latest.clone(), self.memory.written.clone()
        elif self._best_rows is not None and epoch - self._best_epoch >= self.config.patience:
            self.anchor_epoch = self._best_epoch + 1

    def _follow(self) -> None:
        """Moves the teacher's predictions towards those of the last epoch."""
        share, rows, written = self.config.momentum, self.memory.latest, self.memory.written
        old = self._best_rows.log_softmax(dim=-1) + (math.log(share) if share else -math.inf)
        mixed = torch.logaddexp(old, rows.log_softmax(dim=-1) + math.log(1 - share))
        is_old, is_new = (item[:, None] for item in (self._best_written, written))
        self._best_rows = torch.where(is_old & is_new, mixed, torch.where(is_old, self._best_rows, rows))
        self._best_written = self._best_written | written

    def _doubt(self) -> None:
        """Which labels the teacher's predictions call wrong, and what they say instead."""
        device = self.context.device
        z, written = self._best_rows.to(device).softmax(dim=-1), self._best_written.to(device)
        has_label = written & (self._labels >= 0)
        labels = self._labels.clamp(min=0)
        given = torch.nn.functional.one_hot(labels, z.size(1)) * has_label[:, None]
        counts = given.sum(dim=0)
        thresholds = torch.where(counts > 0, (z * given).sum(dim=0) / counts.clamp(min=1), math.inf)
        probability, self._believed = z.max(dim=1)
        is_wrong = has_label & (self._believed != labels) & (probability >= thresholds[self._believed])
        self._is_doubted = is_wrong if self.config.rule != "constant" else torch.zeros_like(is_wrong)

    # ---- Loss ----

    def base_loss_weight(self, batch: TrainingBatch) -> float | Tensor:
        if not self._is_active:
            return 1.0
        like = batch.student_logits[:, 0].detach()
        if self.anchor_epoch is None:
            # The mean over those that take part; the base loss is one over those that have a label.
            has_label = class_labels(batch.labels) >= 0
            return self._not_kept_out(batch, has_label) * (has_label.sum() / len(has_label))
        shares = 1.0 - self._shares(batch, like)
        if self.config.rule == "flip":
            shares = shares.masked_fill(self._is_doubted[batch.indices], 0.0)
        return shares

    def _not_kept_out(self, batch: TrainingBatch, among: Tensor) -> Tensor:
        """Weights with a mean of 1 for those among some examples, bool `(batch_size,)`, that are not kept out."""
        return with_mean_one((among & ~self._kept_out[batch.indices]).to(batch.student_logits.dtype))

    def _shares(self, batch: TrainingBatch, like: Tensor) -> Tensor:
        """a of each example, `(batch_size,)`: 0 without a prediction at the anchor."""
        shares = torch.full_like(like, self.config.mixing)
        if self.config.rule == "cl":
            shares = shares.masked_fill(self._is_doubted[batch.indices], 1.0)
        return shares * self._best_written.to(like.device)[batch.indices]

    def loss_terms(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if not self._is_active:
            return {}
        check_one_label(batch, self.config.name)
        return self._pull(batch) if self.anchor_epoch is None else self._anchored(batch)

    def _pull(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        if not (self.config.pull and self.memory is not None and batch.progress.epoch):
            return {}
        # It needs no label.
        kind, weights = batch.problem_type, self._not_kept_out(batch, torch.ones_like(batch.indices, dtype=torch.bool))
        logits, written = self.recall(batch, batch.student_logits)
        targets = kind.targets(logits)
        divergences = kind.divergence("student_teacher", batch.student_logits, targets)
        divergences = divergences.where(written, 0.0) * weights
        return {"pull": DistillationTerm(divergences, self.config.pull, agreement_with(targets, batch, written))}

    def _anchored(self, batch: TrainingBatch) -> dict[str, DistillationTerm]:
        kind, logits, indices = batch.problem_type, batch.student_logits, batch.indices
        z = kind.targets(self._best_rows.to(logits.device)[indices].to(logits.dtype))
        divergences = kind.divergence("teacher_student", logits, z) * self._shares(batch, logits[:, 0].detach())
        terms = {"anchor": DistillationTerm(divergences, 1.0, kind.agreement(logits, z))}
        if self.config.rule == "flip" and self.config.mixing < 1:
            losses = torch.nn.functional.cross_entropy(logits, self._believed[indices], reduction="none")
            flipped = losses.where(self._is_doubted[indices], 0.0)
            terms["believed_labels"] = DistillationTerm(flipped, 1.0 - self.config.mixing)
        return terms

    def observe(self, batch: TrainingBatch) -> None:
        if not self._is_active or (self.anchor_epoch is not None and self.config.momentum == 1):
            return
        self._labels[batch.indices] = class_labels(batch.labels).to(self._labels.dtype)
        super().observe(batch)

    # ---- What is known of it ----

    def remembered_probabilities(self) -> tuple[Tensor, Tensor] | None:
        """The teacher's predictions; before the anchor is found, those of the best epoch so far, or the last one."""
        if self._best_rows is not None:
            return self._best_rows.softmax(dim=-1), self._best_written
        return None if self.memory is None else (self.memory.latest.softmax(dim=-1), self.memory.written)

    def log_metrics(self) -> dict[str, float]:
        found = {} if self.kept_out_loss is None else {"kept_out_loss": self.kept_out_loss}
        if self.anchor_epoch is not None and self._is_doubted is not None:
            found |= {"anchor_epoch": self.anchor_epoch, "labels_doubted": float(self._is_doubted.float().mean())}
        return found

    def state_dict(self) -> State:
        tables = {} if self._best_rows is None else {"best.rows": self._best_rows, "best.written": self._best_written}
        return {
            **{f"memory.{name}": value for name, value in super().state_dict().items()},
            **tables,
            "labels": max_over_processes(self._labels, self.context.device),
            "best_loss": self._best_loss if self._best_epoch >= 0 else None,
            "best_epoch": self._best_epoch,
            "seen_epoch": self._seen_epoch,
            "anchor_epoch": self.anchor_epoch,
            "kept_out_loss": self.kept_out_loss,
        }

    def load_state_dict(self, state: State) -> None:
        memory = entries_below(state, "memory.")
        super().load_state_dict(memory)
        # Plain fine-tuning remembers nothing.
        self._was_active = bool(memory)
        self._labels = state["labels"].to(self.context.device)
        self._best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        self._best_epoch, self._seen_epoch = state["best_epoch"], state["seen_epoch"]
        self.anchor_epoch, self.kept_out_loss = state["anchor_epoch"], state["kept_out_loss"]
        if "best.rows" in state:
            device = self.context.storage.device
            self._best_rows, self._best_written = state["best.rows"].to(device), state["best.written"].to(device)
        if self.anchor_epoch is not None:
            self._doubt()
