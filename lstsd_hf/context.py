"""What a trainer tells its teacher and observers of a training run."""

from dataclasses import dataclass
from typing import Any

import torch

from .memory import IN_MEMORY, TableStorage
from .problem_types import ProblemType
from .schedules import TrainingPlan
from .student import Student
from .tokens import TokenIndex


@dataclass
class TrainingContext:
    """A training run as a teacher or an observer may know it. The trainer fills it in as things become known.

    Attributes:
        num_examples: Examples in the training set; in a token-level task its labelled tokens.
        student: The model being trained and its training set; `None` outside a trainer.
        train_dataset: The training set of this run; the trainer may have been given another one since.
        device: Device of the training.
        storage: Where tables of predictions are kept, and how precisely.
        plan: The length of the run; `None` until training begins.
        problem_type: What the model's outputs mean; `None` until the first training batch.
        token_index: Of a token-level task, which examples the tokens are in; `None` until the first training batch.
        has_diverged: Whether the base loss was not finite when last looked at, which happens at least once an epoch;
            `None` until then.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data)
        >>> _ = trainer.train()
        >>> context = trainer.teacher.context
        >>> context.num_examples == len(data), context.problem_type.name, context.plan.num_epochs
        (True, 'single_label_classification', 3)
    """

    num_examples: int = 0
    student: Student | None = None
    device: torch.device | str = "cpu"
    storage: TableStorage = IN_MEMORY
    plan: TrainingPlan | None = None
    problem_type: ProblemType | None = None
    token_index: TokenIndex | None = None
    has_diverged: bool | None = None
    train_dataset: Any = None

    def __post_init__(self):
        self.storage = self.storage.on(self.device)
