"""Snapshot Ensembles: the models at the ends of learning-rate cycles predict together."""

import uuid
from dataclasses import dataclass, field
from typing import ClassVar, Self

from safetensors import safe_open
from safetensors.torch import save_file

from ..distributed import gather_objects
from ..errors import InputError
from ..files import replacing
from ..model_copy import ModelCopy, check_covers
from ..observers import State
from ..schedules import Progress
from .cyclic import CyclicConfig, CyclicTeacher

SNAPSHOT_FOLDER = "snapshots"


@dataclass(frozen=True)
class SnapshotEnsembleConfig(CyclicConfig):
    """Options of Snapshot Ensembles.

    Source: Huang et al., "Snapshot Ensembles: Train 1, Get M for Free", ICLR 2017, arXiv 1704.00109.

    Attributes:
        cycle_epochs: Epochs in a learning-rate cycle; `None` is a fifth of the planned epochs (5 snapshots, or a few
            more where that is no whole number).
        cyclic_learning_rate: Restart the learning rate with each cycle; `False` keeps the schedule of
            `TrainingArguments`, to tell the ensemble from its schedule.
        max_snapshots: How many of the newest snapshots predict; `None` is all, 1 the model alone.

    Differences from the paper:
        Cycles are whole epochs; a last cycle that is cut short falls along its own length.
        Before a cycle has ended the current model stands for its snapshot.

    Examples:
        >>> SnapshotEnsembleConfig.paper().cycle_epochs
        10
    """

    name = "snapshot_ensemble"
    search_space: ClassVar = {"cycle_epochs": (1, 2, 3, 5, 10)}

    max_snapshots: int | None = field(default=None, metadata={"help": "How many of the newest snapshots predict."})

    def __post_init__(self):
        super().__post_init__()
        if self.max_snapshots is not None and self.max_snapshots < 1:
            raise InputError(f"`max_snapshots` must be at least 1, got {self.max_snapshots}. 1: the model alone.")

    @classmethod
    def paper(cls) -> Self:
        """Cycles of 10 epochs: 5 snapshots in the LSTSD paper's 50 epochs, as many as the source takes."""
        return cls(cycle_epochs=10)

    @classmethod
    def paper_for_images(cls) -> Self:
        """The LSTSD paper's setting for CIFAR-100: cycles of 40 epochs."""
        return cls(cycle_epochs=40)

    @classmethod
    def neutral(cls) -> Self:
        """No cycles, and the model predicts alone."""
        return cls(cyclic_learning_rate=False, max_snapshots=1, cycle_epochs=1)

    def build(self) -> "SnapshotEnsemble":
        return SnapshotEnsemble(self)


class SnapshotEnsemble(CyclicTeacher):
    """Plain cross-entropy with a cyclic learning rate; `evaluate` and `predict` average the softmax of the snapshots.

    The snapshots are files in `<output_dir>/snapshots`, one for each cycle: the trainable parameters and buffers. All
    processes must see the same `output_dir`.

    Source: Huang et al., "Snapshot Ensembles: Train 1, Get M for Free", ICLR 2017, arXiv 1704.00109, Sec. 3.

    Args:
        config: Options; `None` is `SnapshotEnsembleConfig()`.

    Examples:
        >>> config = SnapshotEnsembleConfig(cycle_epochs=1)
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, eval_dataset=data, teacher=config)
        >>> _ = trainer.train()
        >>> len(trainer.teacher.ensemble())
        2
    """

    config_class = SnapshotEnsembleConfig
    card_note = (
        "Loss and scores are those of the ensemble of snapshots, of which only the last is saved here; those that "
        "begin with `Student` are its own."
    )

    needs_batches = False
    runs_model = True

    def reset(self) -> None:
        super().reset()
        self._steps_done = 0
        self._run_id: str | None = None
        # Names of the parameters in the last snapshot that was taken.
        self._held: frozenset[str] | None = None

    def on_epoch_begin(self, progress: Progress) -> None:
        super().on_epoch_begin(progress)
        if self._held is not None:
            check_covers(self._held, self.context.student.model)

    def on_train_begin(self) -> str | None:
        if self._run_id is None:
            self._run_id = gather_objects(uuid.uuid4().hex)[0]
        return super().on_train_begin()

    def on_step_end(self, progress: Progress) -> None:
        self._steps_done = progress.global_step
        if self._cycles.ends_after(progress.global_step) and self.config.max_snapshots != 1:
            model = self.context.student.model
            self._held = frozenset(name for name, own in model.named_parameters() if own.requires_grad)
            if self.context.student.writes_files:
                path = self._path(self._cycles.of_last_step(progress.global_step))
                path.parent.mkdir(parents=True, exist_ok=True)
                tensors = {name: value.contiguous() for name, value in ModelCopy.of(model).tensors.items()}
                with replacing(path) as temporary:
                    save_file(tensors, temporary, {"run": self._run_id})
            self.context.student.wait_for_everyone()

    def _path(self, cycle: int):
        return self.context.student.output_dir / SNAPSHOT_FOLDER / f"cycle-{cycle + 1}.safetensors"

    @property
    def predicts_as_ensemble(self) -> bool:
        return self.config.max_snapshots != 1

    def ensemble(self) -> list[ModelCopy]:
        """The snapshots of the cycles before the current one; the current model stands for its own cycle."""
        if self._cycles is None:
            self._check_none_is_lost()
            return []
        current = self._cycles.of_last_step(self._steps_done)
        limit = self.config.max_snapshots
        oldest = 0 if limit is None else max(0, current + 1 - limit)
        return [self._load(cycle) for cycle in range(oldest, current)]

    def _check_none_is_lost(self) -> None:
        """An untrained trainer knows no run, and would score a saved model alone as if it were the ensemble."""
        if self.context.student is not None and self._path(0).is_file():
            raise InputError(
                f"The snapshots in {self._path(0).parent} must be those of a training of this trainer, which has not "
                "been trained. Resume the run (`train(resume_from_checkpoint=...)`), use another `output_dir`, or "
                "evaluate the model alone with `NoTeacherConfig()`."
            )

    def _load(self, cycle: int) -> ModelCopy:
        path = self._path(cycle)
        if not path.is_file():
            raise InputError(
                f"The snapshot {path} must exist, found none: it was moved or deleted, or the run was resumed with "
                "another `output_dir`. Put it back, or start a new run."
            )
        device = next(self.context.student.model.parameters()).device
        with safe_open(path, framework="pt", device=str(device)) as file:
            if file.metadata()["run"] != self._run_id:
                raise InputError(
                    f"The snapshot {path} must be of the same run as the model, found another run's: it wrote into "
                    "this `output_dir` later. Start a new run in an empty one."
                )
            snapshot = ModelCopy({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
        snapshot.check_covers(self.context.student.model)
        return snapshot

    def state_dict(self) -> State:
        return {"steps_done": self._steps_done, "run_id": self._run_id}

    def load_state_dict(self, state: State) -> None:
        self._steps_done, self._run_id = state["steps_done"], state["run_id"]
