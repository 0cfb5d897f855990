"""When things happen, in epochs and optimizer steps. Pure numbers; epochs are counted from 0."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingPlan:
    """The length of a training run, known when it begins.

    Attributes:
        num_epochs: Epochs that will be begun; the last one may be cut short.
        steps_per_epoch: Optimizer steps in a full epoch.
        max_steps: Optimizer steps of the whole run.
    """

    num_epochs: int
    steps_per_epoch: int
    max_steps: int


@dataclass(frozen=True)
class Progress:
    """A position in a training run.

    Attributes:
        epoch: Index of the epoch that runs or is about to begin, from 0. At train end the number of epochs begun.
        global_step: Optimizer steps done.
        plan: The run's planned length.
    """

    epoch: int
    global_step: int
    plan: TrainingPlan


@dataclass(frozen=True)
class MiniGenerations:
    """Consecutive groups of `length` epochs; the last group may be shorter.

    Source: Jiang et al., "Long Short-Term Sample Distillation", AAAI 2020, arXiv 2003.00739, Algorithm 1.

    Attributes:
        length: Epochs in a mini-generation (E).
        num_epochs: Epochs planned in all.
    """

    length: int
    num_epochs: int

    @staticmethod
    def default_length(num_epochs: int) -> int:
        """The paper's 6 epochs where at least two such mini-generations fit, else a third of the run."""
        return 6 if num_epochs >= 12 else max(1, num_epochs // 3)

    @property
    def count(self) -> int:
        """How many mini-generations begin."""
        return -(-self.num_epochs // self.length)

    def begins_at(self, epoch: int) -> bool:
        """Whether `epoch` is the first of a mini-generation."""
        return epoch % self.length == 0

    def has_teachers(self, epoch: int) -> bool:
        """Whether `epoch` lies in the second mini-generation or later, where distillation acts."""
        return epoch >= self.length
