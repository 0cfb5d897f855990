import pickle

import datasets
import pytest
import torch
from transformers import default_data_collator

from lstsd_hf import ExampleIndexCollator, InputError
from lstsd_hf.example_index import IndexedDataset, IndexedExamples
from tests.helpers import make_examples


def test_indices_stand_beside_their_examples():
    for data in (make_examples(6), datasets.Dataset.from_list(make_examples(6))):
        indexed = IndexedDataset(data)
        assert len(indexed) == 6
        assert indexed[4] == data[4]  # what a sampler of the user's own reads
        fetched = indexed.__getitems__([5, 0])
        assert fetched == [data[5], data[0]]
        assert fetched.indices == [5, 0]


def test_epochs_and_attributes_are_passed_on_and_it_pickles():
    class Changing(list):
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

    data = Changing([1, 2])
    indexed = IndexedDataset(data)
    indexed.set_epoch(3)
    assert data.epoch == indexed.epoch == 3
    with pytest.raises(AttributeError):
        _ = indexed.no_such_attribute
    assert pickle.loads(pickle.dumps(IndexedDataset([7, 8]))).__getitems__([1]) == [8]


def test_collator_adds_the_indices():
    data = make_examples(6)
    batch = ExampleIndexCollator(default_data_collator, 6)(IndexedExamples([data[5], data[2]], [5, 2]))
    assert batch["example_index"].tolist() == [5, 2]
    assert batch["example_index"].dtype == torch.int64
    assert batch["input_ids"].tolist() == [data[5]["input_ids"], data[2]["input_ids"]]


@pytest.mark.parametrize(
    ("collate", "index", "error_type", "message"),
    [
        (
            default_data_collator,
            6,
            IndexError,
            "`example_index` must be between 0 and 5 (the training set has 6 examples), got 6. The index is a position "
            "in the training set; do not change the dataset while training.",
        ),
        (
            lambda features: [1],
            0,
            TypeError,
            "The data collator must return a mapping such as a dict, got list: the example indices travel in it as one "
            "more key.",
        ),
        (
            lambda features: {"example_index": 1},
            0,
            ValueError,
            "The batch must not have a key `example_index` of its own: it is where the example indices travel. Rename "
            "that column of the training set.",
        ),
    ],
)
def test_refusals(collate, index, error_type, message):
    with pytest.raises(error_type) as error:
        ExampleIndexCollator(collate, 6)(IndexedExamples(make_examples(1), [index]))
    assert str(error.value) == message


def test_a_dataset_that_drops_rows_is_refused():
    with pytest.raises(InputError, match="must return one example for each index, got 1 for 2 indices"):
        ExampleIndexCollator(default_data_collator, 6)(IndexedExamples(make_examples(1), [0, 1]))
