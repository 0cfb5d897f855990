"""What the search for `anchored` tried; see `anchor_search`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import matthews_corrcoef
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

WARMUP = 0.1


@dataclass
class Slice:
    """A part of a training split to train on, and another one to score.

    Attributes:
        inputs: To train on, `(num_rows, feature_size)`.
        given: Their labels, some of them replaced.
        held_out: To score, `(num_held_out, feature_size)`.
        true: Their labels.
        num_labels: How many classes.
    """

    inputs: Tensor
    given: Tensor
    held_out: Tensor
    true: Tensor
    num_labels: int


class Vanilla:
    """Plain training; the base of the other methods. Tables are `(num_seeds, num_rows, num_labels)`."""

    def start(self, seeds: int, data: Slice) -> None:
        self.data, self.seeds = data, torch.arange(seeds)[:, None]
        # Log-probabilities of the last epoch.
        self.latest = torch.zeros(seeds, len(data.inputs), data.num_labels)

    def epoch_begin(self, epoch: int) -> None:
        """Before each epoch, from 0."""

    def loss(self, rows: Tensor, logits: Tensor, epoch: int) -> Tensor:
        """The loss of each seed `(num_seeds,)` for rows `(num_seeds, batch_size)`."""
        labels = self.data.given[rows]
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)

    def observe(self, rows: Tensor, logits: Tensor) -> None:
        self.latest[self.seeds, rows] = logits.log_softmax(-1)

    def rates(self, step: int, steps: int, steps_per_epoch: int) -> Tensor:
        """The factor of each seed on the learning rate: a warm-up of a tenth of the run, then a linear decay."""
        warmup = math.ceil(WARMUP * steps)
        factor = step / warmup if step < warmup else (steps - step) / max(1, steps - warmup)
        return torch.full((len(self.seeds),), factor)

    def notes(self) -> dict[str, Any]:
        return {}


class LSTSD(Vanilla):
    """The paper's weights and E."""

    def epoch_begin(self, epoch: int) -> None:
        self.previous = self.latest.clone()
        if epoch % 6 == 0:
            self.long = self.latest.clone()

    def loss(self, rows: Tensor, logits: Tensor, epoch: int) -> Tensor:
        loss = super().loss(rows, logits, epoch)
        if epoch >= 6:
            log_probs = logits.log_softmax(-1)
            for weight, table in ((4.0, self.previous), (2.4, self.long)):
                divergences = (log_probs.exp() * (log_probs - table[self.seeds, rows])).sum(-1)
                loss = loss + weight * divergences.mean(1)
        return loss


def elr_term(targets: Tensor, seeds: Tensor, rows: Tensor, probabilities: Tensor) -> Tensor:
    """ELR's term of each example, after its target has moved, `(num_seeds, batch_size)`."""
    targets[seeds, rows] = 0.7 * targets[seeds, rows] + 0.3 * probabilities.detach()
    return torch.log(1 - (targets[seeds, rows] * probabilities.clamp(1e-4, 1 - 1e-4)).sum(-1))


class ELR(Vanilla):
    """Its defaults: weight 3, decay 0.7."""

    def start(self, seeds: int, data: Slice) -> None:
        super().start(seeds, data)
        self.targets = torch.zeros_like(self.latest)

    def loss(self, rows: Tensor, logits: Tensor, epoch: int) -> Tensor:
        term = elr_term(self.targets, self.seeds, rows, logits.softmax(-1))
        return super().loss(rows, logits, epoch) + 3.0 * term.mean(1)


@dataclass(frozen=True)
class Options:
    """What was varied.

    Attributes:
        share: Of the rows kept out at first.
        patience: Epochs without improvement.
        mixing: Share of the teacher in the target.
        rule: "flip", "cl" or "constant", for doubted labels.
        first: The earliest anchor, an epoch from 0.
        pull: Weight of the previous epoch's prediction before the anchor.
        average: The anchor is so much of an average over earlier epochs.
        momentum: Of the teacher after the anchor; 1: it stays.
        doubts_again: Whether labels are doubted anew when the teacher has moved.
        criterion: "nll" of the rows kept out, or their "score".
        elr: Weight of ELR's term after the anchor.
        elr_before: The same before it.
        keeps_out: Whether the rows kept out stay out to the end.
        provisional: Whether the best epoch so far teaches before it is known to be the anchor. Until then the rows kept
            out stay out.
        constant_until: Share of the run after which the rate decays linearly; before it is constant, after an epoch of
            warm-up. 0: it decays from the anchor on, or from 0.8 without one before. `None`: as in A1.
    """

    share: float = 0.1
    patience: int = 2
    mixing: float = 0.7
    rule: str = "flip"
    first: int = 1
    pull: float = 0.0
    average: float = 0.0
    momentum: float = 1.0
    doubts_again: bool = False
    criterion: str = "nll"
    elr: float = 0.0
    elr_before: float = 0.0
    keeps_out: bool = False
    constant_until: float | None = None
    provisional: bool = False


class Anchored(Vanilla):
    """Anchored sample distillation, with everything that was tried; see `lstsd_hf.methods.anchored`."""

    def __init__(self, task: str, options: Options):
        self.task, self.options = task, options

    def start(self, seeds: int, data: Slice) -> None:
        super().start(seeds, data)
        count = len(data.inputs)
        self.is_out = torch.zeros(count, dtype=torch.bool)
        self.is_out[np.random.default_rng(0).permutation(count)[: round(self.options.share * count)]] = True
        self.mean, self.teacher, self.target, self.targets = (torch.zeros_like(self.latest) for _ in range(4))
        self.best, self.best_epoch = torch.full((seeds,), math.inf), torch.zeros(seeds, dtype=torch.long)
        self.is_anchored = torch.zeros(seeds, dtype=torch.bool)
        self.anchored_at = torch.zeros(seeds, dtype=torch.long)
        self.teaches = torch.zeros(seeds, dtype=torch.bool)
        self.is_doubted: Tensor | None = None
        self.previous: Tensor | None = None

    def rates(self, step: int, steps: int, steps_per_epoch: int) -> Tensor:
        share = self.options.constant_until
        if share is None:
            return super().rates(step, steps, steps_per_epoch)
        self.anchored_at = torch.where(self.is_anchored, self.anchored_at, step)
        latest = int((share or 0.8) * steps)
        begins = self.anchored_at.clamp(max=latest) if share == 0 else torch.full_like(self.anchored_at, latest)
        decayed = (steps - step) / (steps - begins).clamp(min=1)
        return decayed.clamp(max=1.0) * min(1.0, (step + 1) / steps_per_epoch)

    def criterion(self) -> Tensor:
        """The smaller the better, `(num_seeds,)`."""
        labels, log_probs = self.data.given[self.is_out], self.latest[:, self.is_out]
        if self.options.criterion == "nll":
            return -log_probs.gather(2, labels.expand(len(log_probs), -1)[..., None])[..., 0].mean(1)
        predicted = log_probs.argmax(-1)
        if self.task == "cola":
            return torch.tensor([-matthews_corrcoef(labels, own) for own in predicted]).float()
        return -(predicted == labels).float().mean(1)

    def epoch_begin(self, epoch: int) -> None:
        options = self.options
        if epoch == 0:
            return
        self.previous, probabilities = self.latest.clone(), self.latest.exp()
        share = options.average if epoch > 1 else 0.0
        self.mean = share * self.mean + (1 - share) * probabilities
        value, seen = self.criterion(), epoch - 1
        if seen < options.first:
            return
        is_better = (value < self.best) & ~self.is_anchored
        self.best = torch.where(is_better, value, self.best)
        self.best_epoch = torch.where(is_better, seen, self.best_epoch)
        self.teacher = torch.where(is_better[:, None, None], self.mean, self.teacher)
        is_new = ~self.is_anchored & (seen - self.best_epoch >= options.patience)
        moved = options.momentum * self.teacher + (1 - options.momentum) * probabilities
        self.teacher = torch.where(self.is_anchored[:, None, None], moved, self.teacher)
        self.is_anchored |= is_new
        if options.provisional:
            self.teaches |= is_better | self.is_anchored
            self.make_target(is_new | is_better)
        elif is_new.any() or (options.momentum < 1 and self.is_anchored.any()):
            self.make_target(is_new)

    def make_target(self, is_new: Tensor) -> None:
        options, z = self.options, self.teacher
        given = one_hot(self.data.given, self.data.num_labels).float()
        thresholds = (z * given).sum(1) / given.sum(0).clamp(min=1)
        largest, believed = z.max(-1)
        is_doubted = (believed != self.data.given) & (largest >= thresholds.gather(1, believed))
        if options.rule == "constant":
            is_doubted = torch.zeros_like(is_doubted)
        if not options.doubts_again and self.is_doubted is not None:
            is_doubted = torch.where(is_new[:, None], is_doubted, self.is_doubted)
        self.is_doubted = is_doubted
        share, labels = torch.full((*z.shape[:2], 1), options.mixing), given.expand(len(z), -1, -1)
        if options.rule == "flip":
            labels = torch.where(is_doubted[..., None], one_hot(believed, self.data.num_labels).float(), labels)
        if options.rule == "cl":
            share = torch.where(is_doubted[..., None], 1.0, share)
        moves = self.is_anchored if options.momentum < 1 else is_new
        if options.provisional:
            moves = self.teaches
        self.target = torch.where(moves[:, None, None], (1 - share) * labels + share * z, self.target)

    def loss(self, rows: Tensor, logits: Tensor, epoch: int) -> Tensor:
        options, log_probs = self.options, logits.log_softmax(-1)
        probabilities, labels = log_probs.exp(), self.data.given[rows]
        weights = (~self.is_out[rows]).float()
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        before = (-log_probs.gather(2, labels[..., None])[..., 0] * weights).sum(1)
        if options.pull and self.previous is not None:
            divergences = (probabilities * (log_probs - self.previous[self.seeds, rows])).sum(-1)
            before = before + options.pull * (divergences * weights).sum(1)
        after = -(self.target[self.seeds, rows] * log_probs).sum(-1)
        if options.elr or options.elr_before:
            term = elr_term(self.targets, self.seeds, rows, probabilities)
            before, after = before + options.elr_before * (term * weights).sum(1), after + options.elr * term
        taught = (after * weights).sum(1)
        after = taught if options.keeps_out else after.mean(1)
        before = torch.where(self.teaches, taught, before)
        return torch.where(self.is_anchored, after, before)

    def notes(self) -> dict[str, Any]:
        return {"anchors": (self.best_epoch + 1).tolist()}


FOLLOWS = {"momentum": 0.9, "doubts_again": True}
VARIANTS: dict[str, Options] = {
    name: Options(**options)
    for name, options in {
        "anchored": {},
        "first-0": {"first": 0},
        "score": {"criterion": "score"},
        # Begun only, when the teacher that follows was found to be better.
        "mixing 0.5": {"mixing": 0.5},
        "elr after": {"elr": 1.0},
        "follow-0.95": FOLLOWS | {"momentum": 0.95},
        "follow-0.9": FOLLOWS,
        "follow-0.8": FOLLOWS | {"momentum": 0.8},
        "follow-0.7": FOLLOWS | {"momentum": 0.7},
        # As far as 0.9 goes in 30 epochs, in 10.
        "follow-0.73": FOLLOWS | {"momentum": 0.9**3},
        "follow-0.5": FOLLOWS | {"momentum": 0.5},
        "follow-0.9, patience 1": FOLLOWS | {"patience": 1},
        "follow-0.9, score": FOLLOWS | {"criterion": "score"},
        "follow-0.9, elr before": FOLLOWS | {"elr_before": 3.0},
        "follow-0.9, elr": FOLLOWS | {"elr": 1.0},
        "follow-0.9, elr, elr before": FOLLOWS | {"elr": 1.0, "elr_before": 3.0},
        "follow-0.9, pull": FOLLOWS | {"pull": 2.0},
        "follow-0.9, mixing 0.5": FOLLOWS | {"mixing": 0.5},
        "follow-0.9, mixing 0.85": FOLLOWS | {"mixing": 0.85},
        "follow-0.9, share 0.15": FOLLOWS | {"share": 0.15},
        "follow-0.9, cl": FOLLOWS | {"rule": "cl"},
        "follow-0.9, constant": FOLLOWS | {"rule": "constant"},
        "follow-0.9, patience 3": FOLLOWS | {"patience": 3},
        "follow-0.9, doubts once": FOLLOWS | {"doubts_again": False},
        "follow-0.9, average": FOLLOWS | {"average": 0.5},
        "follow-0.9, keeps out": FOLLOWS | {"keeps_out": True},
        "follow-0.9, decay from the anchor": FOLLOWS | {"constant_until": 0.0},
        "follow-0.9, decay from 0.5": FOLLOWS | {"constant_until": 0.5},
        "follow-0.9, decay from 0.8": FOLLOWS | {"constant_until": 0.8},
        "follow-0.9, constant rate": FOLLOWS | {"constant_until": 1.0},
        "follow-0.9, provisional": FOLLOWS | {"provisional": True},
        "follow-0.9, provisional, mixing 0.5": FOLLOWS | {"provisional": True, "mixing": 0.5},
        "follow-0.9, mixing 0.6, share 0.15, patience 3": FOLLOWS | {"mixing": 0.6, "share": 0.15, "patience": 3},
    }.items()
}
EPOCHS = 30
CONTROLS: dict[str, tuple[Callable[[], Vanilla], int]] = {
    "vanilla": (Vanilla, EPOCHS),
    "vanilla, 3 epochs": (Vanilla, 3),
    "lstsd": (LSTSD, EPOCHS),
    "elr": (ELR, EPOCHS),
}


def epochs_of(name: str) -> int:
    """How long a variant or control runs, unless other lengths are asked for."""
    return CONTROLS[name][1] if name in CONTROLS else EPOCHS
