"""The training data of a trainer with a teacher: the user's own, with an index beside each example."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import has_length

from .datasets_library import is_hugging_face_dataset
from .distributed import num_processes
from .epoch_examples import announce_examples
from .errors import InputError, noting
from .example_index import IndexedDataset, collate_indices, has_indices
from .label_errors import example_labels, text_columns
from .length_groups import SeededLengthGroups
from .overlapping import Batching
from .text_columns import LABEL, choose_text_columns

logger = logging.getLogger(__name__)

_WRAPPED = (
    "While the training loader is made, `train_dataset` is a view that adds each example's index to the {} given. A "
    "Trainer class that asks for its type cannot have a teacher: use `NoTeacherConfig()` without observers."
)


class IndexedTrainingDataMixin:
    """A trainer whose training batches can carry the examples' indices, whatever loader or sampler a subclass has.

    Attributes:
        cache_dir: Where a teacher keeps what other runs can use too, such as another model's outputs.
        seeds_length_groups: Whether length grouping is exactly resumed without a teacher and observers too, where by
            default it is Trainer's; see `SeededLengthGroups`.
    """

    cache_dir: str | Path = Path(HF_HOME) / "lstsd_hf"
    seeds_length_groups: bool = False

    def _indexed_train_dataloader(self, get_train_dataloader: Callable[[], DataLoader]) -> DataLoader:
        """The training data loader, its batches with the key `example_index` added."""
        dataset = self.train_dataset
        # The parent would look for unused columns in the indexed view and find none, so they go here.
        bare_dataset, _ = self.training_examples()
        try:
            self.train_dataset = IndexedDataset(bare_dataset, source=dataset)
            with noting(_WRAPPED.format(type(dataset).__name__)):
                loader = collate_indices(get_train_dataloader(), len(dataset))
        finally:
            self.train_dataset = dataset
        if self._context.storage.sharded and num_processes() > 1:
            announce_examples(loader, self._group.on_epoch_examples)
        return loader

    def _get_dataloader(self, dataset, *args, **kwargs):
        loader = super()._get_dataloader(dataset, *args, **kwargs)
        # Here too, for a `get_train_dataloader` of one's own may join several.
        return collate_indices(loader, len(self.train_dataset)) if has_indices(dataset) else loader

    def training_examples(self) -> tuple[Any, Any]:
        """The training set and the collator for its examples, both without columns that the model does not take."""
        if is_hugging_face_dataset(self.train_dataset):
            return self._remove_unused_columns(self.train_dataset, "training"), self.data_collator
        return self.train_dataset, self._get_collator_with_removed_columns(self.data_collator, "training")

    def training_texts(self) -> list[list[str]] | None:
        """The columns of text of the training set, one or two, for a teacher with a tokenizer of its own.

        By default they are chosen as in one's own files (`choose_text_columns`): by name, or what looks like text and
        does not tell the label. `None` if there is no column of strings. Override it if they are elsewhere.

        Raises:
            InputError: If it is not clear which columns are meant.
        """
        columns = text_columns(self.train_dataset)
        if not columns:
            return None
        try:
            labels: Any = example_labels(self.train_dataset)
        except InputError:
            # No classes, so that no column tells them.
            labels = range(len(self.train_dataset))
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        rows = [{**row, LABEL: label} for row, label in zip(rows, labels, strict=True)]
        try:
            chosen, left_out = choose_text_columns(rows, "The training set")
        except InputError as error:
            reason = str(error).rpartition(" Name")[0]
            raise InputError(
                f"{reason} A teacher with a tokenizer of its own reads them: remove the other columns, or override "
                "`training_texts` of the trainer."
            ) from error
        if left_out and self.is_world_process_zero():
            logger.info(f"The teacher reads {', '.join(chosen)}, not {', '.join(left_out)}.")
        return [columns[name] for name in chosen]

    def _get_train_sampler(self, train_dataset=None):
        own = self.teacher.training_sampler(self._batching()) if has_length(self.train_dataset) else None
        if own is not None:
            self._check_own_sampler()
            return own
        # Length grouping needs the user's own rows, with the length column.
        if isinstance(train_dataset, IndexedDataset):
            train_dataset = train_dataset.source
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler) and (self.seeds_length_groups or self._group.takes_part):
            return SeededLengthGroups(sampler, self._data_seed(), lambda: int(self.state.epoch or 0))
        return sampler

    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _batching(self) -> Batching:
        args = self.args
        return Batching(
            num_examples=len(self.train_dataset),
            batch_size=args.train_batch_size,
            accumulation_steps=args.gradient_accumulation_steps,
            num_processes=args.world_size,
            drop_last=args.dataloader_drop_last,
            seed=self._data_seed(),
        )

    def _check_own_sampler(self) -> None:
        """Refuses what would reorder or resize the batches that a teacher chose."""
        if self.args.auto_find_batch_size:
            raise InputError(
                f"`auto_find_batch_size` must be False with {type(self.teacher).__name__}, which chooses the batches "
                "itself, got True. Give a size that fits as `per_device_train_batch_size`."
            )
        strategy, config = self.args.train_sampling_strategy, self.args.accelerator_config
        if strategy != "random":
            raise InputError(
                f"`train_sampling_strategy` must be random with {type(self.teacher).__name__}, which chooses the "
                f"batches itself, got {strategy}. Leave it out."
            )
        if config.split_batches and self.args.world_size > 1:
            raise InputError(
                f"`split_batches` must be False with {type(self.teacher).__name__}, which chooses the batches of each "
                "process, got True. Leave it out."
            )
