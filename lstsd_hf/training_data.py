"""The training data of a trainer with a teacher: the user's own, with an index beside each example."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from .example_index import IndexedDataset, collate_indices
from .fingerprint import is_hugging_face_dataset


class IndexedTrainingDataMixin:
    """A trainer whose training batches can carry the examples' indices, whatever loader or sampler a subclass has."""

    def _indexed_train_dataloader(self, get_train_dataloader: Callable[[], DataLoader]) -> DataLoader:
        """The training data loader, its batches with the key `example_index` added."""
        dataset = self.train_dataset
        # The parent would look for unused columns in the indexed view and find none, so they go here.
        bare_dataset, _ = self.training_examples()
        try:
            self.train_dataset = IndexedDataset(bare_dataset, source=dataset)
            return collate_indices(get_train_dataloader(), len(dataset))
        finally:
            self.train_dataset = dataset

    def training_examples(self) -> tuple[Any, Any]:
        """The training set and the collator for its examples, both without columns that the model does not take."""
        if is_hugging_face_dataset(self.train_dataset):
            return self._remove_unused_columns(self.train_dataset, "training"), self.data_collator
        return self.train_dataset, self._get_collator_with_removed_columns(self.data_collator, "training")

    def _get_train_sampler(self, train_dataset=None):
        # Length grouping needs the user's own rows, with the length column.
        if isinstance(train_dataset, IndexedDataset):
            train_dataset = train_dataset.source
        return super()._get_train_sampler(train_dataset)
