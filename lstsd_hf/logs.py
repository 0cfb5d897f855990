"""What is logged beside a training loss: its parts, and how far student and teacher agree."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .distributed import gather_objects
from .health import SilenceDetector
from .methods.base import DistillationTerm
from .observers import TrainingBatch

BASE = "base"


@dataclass(frozen=True)
class MicroBatch:
    """What is known of a micro-batch once its loss was computed.

    Attributes:
        batch: What teacher and observers see of it.
        parts: The base loss, and each term's mean on the base loss's scale, without its weight.
        terms: The teacher's terms.
        log_divisor: By what Trainer divides the micro-batch's loss when it sums up for the log.
    """

    batch: TrainingBatch
    parts: dict[str, Tensor]
    terms: dict[str, DistillationTerm]
    log_divisor: int


class TrainingLog:
    """Sums on the device; nothing waits for the device before the next log entry, or the end of the epoch."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forgets everything: training begins."""
        self._since_step: int | None = None  # of the sums
        self._collected_step: int | None = None
        self._silence = SilenceDetector()
        self._clear()
        self._clear_collected()

    def _clear(self) -> None:
        self._parts: dict[str, Tensor] = {}
        self._agreements: dict[str, tuple[Tensor | float, int]] = {}  # sums and numbers of micro-batches

    def _clear_collected(self) -> None:
        # Of all processes, as numbers.
        self._means: dict[str, float] = {}
        self._agreed: dict[str, tuple[float, int]] = {}

    def add(
        self, parts: Mapping[str, Tensor], terms: Mapping[str, DistillationTerm], divisor: float, global_step: int
    ) -> None:
        """Takes note of a micro-batch.

        Args:
            parts: The base loss under `BASE`, and each term's value without its weight.
            terms: The terms.
            divisor: By what Trainer divides the micro-batch's loss when it sums up for the log.
            global_step: Optimizer steps done before.
        """
        if self._since_step is None:
            self._since_step = self._collected_step = global_step
        for name, part in parts.items():
            # Hot path: skip no-op tensor operations.
            value = part.detach()
            value = value.mean() if value.dim() else value
            value = value if divisor == 1 else value / divisor
            self._parts[name] = self._parts[name] + value if name in self._parts else value
        for name, term in terms.items():
            if term.agreement is not None:
                total, count = self._agreements.get(name, (0.0, 0))
                self._agreements[name] = total + term.agreement.mean(), count + 1

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
        parts = {name: float(total) for name, total in self._parts.items()}
        agreements = {name: (float(total), count) for name, (total, count) in self._agreements.items()}
        everyone = gather_objects((parts, agreements))
        means = {
            name: sum(theirs.get(name, 0.0) for theirs, _ in everyone) / len(everyone)
            for name in dict.fromkeys(name for theirs, _ in everyone for name in theirs)
        }
        for name, mean in means.items():
            self._means[name] = self._means.get(name, 0.0) + mean
        for name, (total, count) in (item for _, theirs in everyone for item in theirs.items()):
            totals, counts = self._agreed.get(name, (0.0, 0))
            self._agreed[name] = totals + total, counts + count
        num_steps = global_step - (self._collected_step or 0)
        self._clear()
        self._collected_step = global_step
        self._silence.check({name: mean for name, mean in means.items() if name != BASE}, num_steps, steps_per_epoch)
