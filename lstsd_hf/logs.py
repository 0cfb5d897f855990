"""What is logged beside a training loss: its parts, and how far student and teacher agree."""

from collections.abc import Mapping

from torch import Tensor

from .distributed import gather_objects
from .health import SilenceDetector
from .teachers import DistillationTerm

BASE = "base"


class TrainingLog:
    """Sums on the device since the last log entry; nothing waits for the device before the next one."""

    def __init__(self):
        self._since_step: int | None = None
        self._silence = SilenceDetector()
        self._clear()

    def _clear(self) -> None:
        self._parts: dict[str, Tensor] = {}
        self._agreements: dict[str, tuple[Tensor | float, int]] = {}  # sums and numbers of micro-batches

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
            self._since_step = global_step
        for name, part in parts.items():
            # Nothing is done for nothing: this runs in every step.
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
        num_steps = max(1, global_step - (self._since_step or 0))
        parts = {name: float(total) for name, total in self._parts.items()}
        agreements = {name: (float(total), count) for name, (total, count) in self._agreements.items()}
        everyone = gather_objects((parts, agreements))
        means, agreed = {}, {}
        for name in dict.fromkeys(name for theirs, _ in everyone for name in theirs):
            means[name] = sum(theirs.get(name, 0.0) for theirs, _ in everyone) / len(everyone) / num_steps
        for name in dict.fromkeys(name for _, theirs in everyone for name in theirs):
            totals, counts = zip(*(theirs.get(name, (0.0, 0)) for _, theirs in everyone), strict=True)
            agreed[f"teacher_agreement_{name}"] = sum(totals) / sum(counts)
        self._clear()
        self._since_step = global_step
        self._silence.check({name: mean for name, mean in means.items() if name != BASE}, num_steps, steps_per_epoch)
        return {f"loss_{name}": mean for name, mean in means.items()} | agreed
