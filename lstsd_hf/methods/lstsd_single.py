"""LSTSD with one teacher for all examples, a row of the paper's ablation."""

from dataclasses import dataclass

from ..observers import TrainingBatch
from ..schedules import Progress
from .lstsd import LSTSD, LSTSDConfig


@dataclass(frozen=True)
class LSTSDSingleConfig(LSTSDConfig):
    """Options of LSTSD (single); those of `LSTSDConfig`.

    Source: Jiang et al., "Long Short-Term Sample Distillation", AAAI 2020, arXiv 2003.00739, Table 3.

    Examples:
        >>> LSTSDSingleConfig().build().runs_model
        True
    """

    name = "lstsd_single"

    def build(self) -> "LSTSDSingle":
        return LSTSDSingle(self)


class LSTSDSingle(LSTSD):
    """All examples are taught by the model as it was at the end of the previous epoch and of the last mini-generation.

    Before each epoch one pass over the training set, without gradient and dropout, fills the memory.

    Source: Jiang et al., "Long Short-Term Sample Distillation", AAAI 2020, arXiv 2003.00739, "Analysis of Model
    Variants" and Table 3.

    Differences from the paper:
        It does not say how the snapshots predict; here in evaluation mode, all examples at once.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data, teacher="lstsd_single")
        >>> type(trainer.teacher).__name__
        'LSTSDSingle'
    """

    runs_model = True
    # What it remembers is no process's own batches.
    needs_whole_tables = True
    takes_tokens = False

    def observe(self, batch: TrainingBatch) -> None:
        """The memory is written between epochs."""

    def on_train_end(self, progress: Progress) -> None:
        """No epoch follows that would read a last pass."""

    def on_epoch_begin(self, progress: Progress) -> None:
        is_ready = self.memory is not None and self.memory.epoch == progress.epoch
        if self.config.has_weight and progress.epoch > 0 and not is_ready:
            for indices, logits in self.context.student.predict_training_set():
                self.stage(indices, logits)
            # A run resumed with weights that had none begins its memory late.
            self.memory.skip_to(progress.epoch - 1)
        super().on_epoch_begin(progress)
