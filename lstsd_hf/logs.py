"""What is logged beside a training loss: its parts, and how far student and teacher agree."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .agreement import MOST_NUMBERS_TO_KEEP, Agreement, answers
from .deferred_means import DeferredMeans, means
from .distributed import gather_objects
from .health import SilenceDetector
from .joint_term import JointTerm
from .methods.base import DistillationTerm
from .observers import TrainingBatch
from .term_names import Names, by_name

BASE = "base"

# Micro-batches to collect before they are added up.
_MOST_BATCHES = 64


@dataclass(frozen=True)
class MicroBatch:
    """What is known of a micro-batch once its loss was computed.

    Attributes:
        batch: What teacher and observers see of it.
        loss: Base loss and terms with their weights.
        parts: The base loss, and what `added_to` says of each term's mean, without its weight; detached.
        terms: The teacher's terms.
        log_divisor: By what Trainer divides the micro-batch's loss when it sums up for the log.
    """

    batch: TrainingBatch
    loss: Tensor
    parts: Mapping[Names, Tensor | DeferredMeans]
    terms: Mapping[Names, DistillationTerm | JointTerm]
    log_divisor: int


class TrainingLog:
    """Sums on the device; nothing waits for the device before the next log entry, or the end of the epoch.

    Attributes:
        has_diverged: Whether the base loss was not finite when last looked at; `None` before.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forgets everything: training begins."""
        self._since_step: int | None = None  # of the sums
        self._collected_step: int | None = None
        self._silence = SilenceDetector()
        self.has_diverged: bool | None = None
        self._clear()
        self._clear_collected()

    def _clear(self) -> None:
        # By name and divisor (`None` for agreements): the sum, and the number of micro-batches.
        self._sums: dict[tuple[str, int | None], tuple[Tensor | float, int]] = {}
        # What the sums do not have yet: one addition for many micro-batches costs what it costs for one.
        self._waiting: dict[tuple[Names, int | None], list[Tensor | Agreement | DeferredMeans]] = {}

    def _clear_collected(self) -> None:
        # Means over all processes, as numbers.
        self._means: dict[str, float] = {}
        self._agreed: dict[str, tuple[float, int]] = {}

    def add(self, done: MicroBatch, global_step: int) -> None:
        """Takes note of a micro-batch.

        Args:
            done: The micro-batch.
            global_step: Optimizer steps done before.
        """
        if self._since_step is None:
            self._since_step = self._collected_step = global_step
        for names, part in done.parts.items():
            # A compiled model may write its next loss to the same place.
            value = part.clone() if names == BASE else part
            self._waiting.setdefault((names, done.log_divisor), []).append(value)
        for names, term in done.terms.items():
            if term.agreement is not None:
                agreement = term.agreement.detach() if isinstance(term.agreement, Tensor) else term.agreement
                if agreement.numel() > MOST_NUMBERS_TO_KEEP:
                    agreement = answers([agreement])[0].mean(dim=-1, keepdim=True)
                self._waiting.setdefault((names, None), []).append(agreement)
        if len(self._waiting[BASE, done.log_divisor]) == _MOST_BATCHES:
            self._add_waiting()

    def _add_waiting(self) -> None:
        for (names, divisor), values in self._waiting.items():
            # The last batch of an epoch may be a smaller one.
            by_form: dict[Hashable, list[Tensor | Agreement | DeferredMeans]] = {}
            for value in values:
                by_form.setdefault(_form(value), []).append(value)
            for alike in by_form.values():
                found = means(alike) if divisor else answers(alike).mean(dim=-1)
                for name, mean in by_name(names, found).items():
                    total, count = self._sums.get((name, divisor), (0.0, 0))
                    self._sums[name, divisor] = total + mean * len(alike), count + len(alike)
        self._waiting = {}

    def drain(self, global_step: int, steps_per_epoch: int) -> dict[str, float]:
        """The means since the last call over all processes, as numbers for the log. All processes must call it.

        A term that only some micro-batches or processes had counts as zero in the others.

        Args:
            global_step: Optimizer steps done.
            steps_per_epoch: Optimizer steps in an epoch.

        Raises:
            InputError: If the terms have all been zero for an epoch.
        """
        self.collect(global_step, steps_per_epoch)
        num_steps = max(1, global_step - (self._since_step or 0))
        logs = {f"loss_{name}": total / num_steps for name, total in self._means.items()}
        logs |= {f"teacher_agreement_{name}": total / count for name, (total, count) in self._agreed.items()}
        self._since_step = global_step
        self._clear_collected()
        return logs

    def collect(self, global_step: int, steps_per_epoch: int) -> None:
        """Looks at what was added since the last call. All processes must call it.

        Args:
            global_step: Optimizer steps done.
            steps_per_epoch: Optimizer steps in an epoch.

        Raises:
            InputError: If the terms have all been zero for an epoch.
        """
        if global_step == self._collected_step:
            return
        parts, agreements = self._totals()
        everyone = gather_objects((parts, agreements))
        averages = {
            name: sum(theirs.get(name, 0.0) for theirs, _ in everyone) / len(everyone)
            for name in dict.fromkeys(name for theirs, _ in everyone for name in theirs)
        }
        for name, mean in averages.items():
            self._means[name] = self._means.get(name, 0.0) + mean
        for name, (total, count) in (item for _, theirs in everyone for item in theirs.items()):
            totals, counts = self._agreed.get(name, (0.0, 0))
            self._agreed[name] = totals + total, counts + count
        num_steps = global_step - (self._collected_step or 0)
        self._clear()
        self._collected_step = global_step
        if BASE in averages:
            self.has_diverged = not math.isfinite(averages.pop(BASE))
        # Then the terms are silent through no fault of their own.
        self._silence.check({} if self.has_diverged else averages, num_steps, steps_per_epoch)

    def _totals(self) -> tuple[dict[str, float], dict[str, tuple[float, int]]]:
        """The sums of the parts, and those of the agreements with their number of micro-batches."""
        self._add_waiting()
        parts: dict[str, float] = {}
        agreements: dict[str, tuple[float, int]] = {}
        for (name, divisor), (total, count) in self._sums.items():
            if divisor is None:
                agreements[name] = float(total), count
            else:
                parts[name] = parts.get(name, 0.0) + float(total) / divisor
        return parts, agreements


def _form(value: Tensor | Agreement | DeferredMeans) -> Hashable:
    """The same for what can be added up together."""
    return type(value), value.shape if isinstance(value, Tensor) else value.form
