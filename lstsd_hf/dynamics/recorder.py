"""An observer that keeps what each epoch said of the training examples."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from ..distributed import gather_objects, max_over_processes
from ..errors import InputError
from ..files import file_checksum
from ..label_errors import example_texts
from ..memory import EpochMemory, TableStorage
from ..observers import Observer, State, TrainingBatch
from ..problem_types import SingleLabel
from ..schedules import Progress

FOLDER_NAME = "dynamics"
_NO_LABEL = -1


class DynamicsRecorder(Observer):
    """Writes each example's log-probabilities of every epoch to `<output_dir>/dynamics`, a Parquet file for each epoch.

    They are those of the training forwards, with dropout, so that nothing is run twice. A file has the examples that
    the epoch saw: `index`, `given` (the label), `log_probs` (half precision; of more than 64 labels the 16 largest and
    the given one; of an example drawn several times their mean, normalized). `examples.parquet` has the texts. In a
    token-level task an example is a labelled token, and its text shows it among its neighbours.
    `lstsd_hf.dynamics.History.read` reads the folder.

    A resumed run goes on with the files that are there. One that begins anew removes those of an earlier run.

    Args:
        folder: Where to write; `None` is `<output_dir>/dynamics`.
        texts: A text for each example; `None` looks for them in the training set.

    Attributes:
        folder: Where it writes.

    Raises:
        InputError: In training, unless there is one label of several for each text; on resuming, if the file of an
            epoch is missing or another run's.

    Examples:
        >>> from lstsd_hf.dynamics import History
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="vanilla", record_dynamics=True)
        >>> _ = trainer.train()
        >>> History.read(trainer.dynamics_folder).log_probs.shape == (3, len(data), 2)
        True
    """

    name = "dynamics"
    needs_whole_tables = True
    takes_tokens = True

    def __init__(self, folder: str | Path | None = None, texts: Sequence[str | None] | None = None):
        # Missing packages are found before training and not at the end of its first epoch.
        _ = self._files
        self._folder = folder
        self._texts = texts
        self.reset()

    @property
    def _files(self) -> ModuleType:
        from . import files

        return files

    @property
    def folder(self) -> Path:
        return Path(self._folder) if self._folder is not None else self.context.student.output_dir / FOLDER_NAME

    @property
    def _storage(self) -> TableStorage:
        # In the teacher's place, but all labels as they are: they are what is recorded.
        return replace(self.context.storage, dtype=None, top_k=None)

    def reset(self) -> None:
        self.memory: EpochMemory | None = None
        self._given: Tensor | None = None
        self._suspects: int | None = None
        # They tell the files written so far from another run's.
        self._checksums: list[str] = []

    def on_train_begin(self) -> None:
        if not self.context.student.writes_files:
            return
        fault = self.fault_of_files()
        if fault is not None:
            raise InputError(f"{fault} Resume with the same `output_dir`, or start a new run.")
        for path in set(self._files.epoch_paths(self.folder)) - set(self._own_paths()):
            path.unlink()

    def _own_paths(self) -> list[Path]:
        done = 0 if self.memory is None else self.memory.epoch
        return [self._files.epoch_path(self.folder, epoch) for epoch in range(done)]

    def fault_of_files(self) -> str | None:
        """What is wrong if the folder has not the epochs that this recorder wrote, asked on the process that writes."""
        for path, checksum in zip(self._own_paths(), self._checksums, strict=True):
            if not path.is_file() or file_checksum(path) != checksum:
                what = "another run's, or damaged" if path.is_file() else "missing"
                return f"{self.folder} must have the epochs of this run, but {path.name} is {what}."
        return None

    def on_epoch_begin(self, progress: Progress) -> None:
        self._move_on(progress)

    def on_train_end(self, progress: Progress) -> None:
        self._move_on(progress)
        # So that every process can read the last epoch's file.
        self.context.student.wait_for_everyone()

    def observe(self, batch: TrainingBatch) -> None:
        logits, labels = batch.student_logits.detach(), batch.labels
        if batch.problem_type.name != SingleLabel.name or (labels is not None and labels.is_floating_point()):
            raise InputError(
                "`record_dynamics` needs single-label classification, with class indices as labels; got a model for "
                f"{batch.problem_type.name}{'' if labels is None else f' with {labels.dtype} labels'}. Leave it out."
            )
        if self.memory is None:
            self._begin(logits)
        self.memory.stage(batch.indices, logits.log_softmax(-1))
        if labels is not None:
            device = self._given.device
            self._given[batch.indices.to(device)] = labels.clamp(min=_NO_LABEL).to(self._given)

    def _meet_all(self) -> None:
        """Begins a memory where this process has met nobody yet and another has: all must take part in a merge."""
        own = None if self.memory is None else (self.memory.num_labels, self.memory.latest.dtype)
        form = next(filter(None, gather_objects(own)), None)
        if self.memory is None and form is not None:
            num_labels, dtype = form
            self._begin(torch.empty(0, num_labels, dtype=dtype, device=self.context.device))

    def _begin(self, logits: Tensor) -> None:
        context = self.context
        self.memory = EpochMemory.for_rows(context.num_examples, logits, self._storage)
        self._given = torch.full((context.num_examples,), _NO_LABEL, device=context.storage.device)

    def _move_on(self, progress: Progress) -> None:
        self._meet_all()
        if self.memory is None or self.memory.epoch == progress.epoch:
            return
        self.memory.transition(progress.epoch)
        self._given = max_over_processes(self._given, self.context.device)
        is_suspect = self.memory.written & (self._given >= 0) & (self.memory.latest.argmax(-1) != self._given)
        self._suspects = int(is_suspect.sum())
        if self.context.student.writes_files:
            self._write(progress.epoch - 1)

    def _write(self, epoch: int) -> None:
        student, files = self.context.student, self._files
        # The mean of what several draws of an example said is no distribution any more.
        log_probs = self.memory.latest.float().log_softmax(-1).masked_fill(~self.memory.written[:, None], torch.nan)
        table = files.EpochTable(log_probs.cpu().numpy(), self._given.cpu().numpy())
        path = files.epoch_path(self.folder, epoch)
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_epoch(path, table)
        self._checksums.append(file_checksum(path))
        examples = self.folder / files.EXAMPLES_NAME
        if epoch == 0 or not examples.is_file():
            files.write_examples(examples, self._texts or self._found_texts(), student.class_names)

    def _found_texts(self) -> list[str | None]:
        student, index = self.context.student, self.context.token_index
        if index is not None:
            return index.texts(student)
        return example_texts(student.train_dataset, student.processing_class)

    def log_metrics(self) -> dict[str, float]:
        """`dynamics_suspects`: for how many examples the last finished epoch believed another label than the given."""
        return {} if self._suspects is None else {"dynamics_suspects": float(self._suspects)}

    def state_dict(self) -> State:
        self._meet_all()
        if self.memory is None:
            return {}
        given = max_over_processes(self._given, self.context.device)
        files = " ".join(self._checksums)
        return {**self.memory.state_dict(), "given": given, "suspects": self._suspects, "files": files}

    def load_state_dict(self, state: State) -> None:
        if state:
            context = self.context
            self.memory = EpochMemory.from_state_dict(state, self._storage, merge_device=context.device)
            self._given = state["given"].to(context.storage.device)
            self._suspects = state["suspects"]
            self._checksums = state["files"].split()
