"""Tables divided over processes: what one process can tell; `tests/distributed` has the rest."""

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from lstsd_hf import InputError, LatestMemory, LSTSDTrainer, TableStorage, TeacherMemory, setups
from lstsd_hf.epoch_examples import LoaderWithoutIndices, announce_examples
from lstsd_hf.example_index import IndexedDataset
from lstsd_hf.memory import ShardedMemory, new_memory, sharded
from tests.helpers import make_examples, make_model


def test_one_process_has_all_examples():
    memory = new_memory(TeacherMemory, 3, torch.zeros(1, 2), TableStorage.parse("sharded"))
    assert type(memory) is TeacherMemory
    assert memory.short_term_logits.shape == (3, 2)


@pytest.fixture
def four_processes(monkeypatch):
    for module in (sharded, setups):
        monkeypatch.setattr(module, "num_processes", lambda: 4)


def test_shares(four_processes):
    memory = new_memory(TeacherMemory, 10, torch.zeros(1, 2), TableStorage.parse("sharded"))
    assert isinstance(memory, ShardedMemory)
    assert memory._shares == [slice(0, 2), slice(2, 5), slice(5, 7), slice(7, 10)]
    with pytest.raises(AttributeError, match="has no `short_term_logits`: its tables are on no process as a whole"):
        _ = memory.short_term_logits
    with pytest.raises(InputError, match="set `needs_whole_tables`"):
        memory.stage(torch.tensor([0]), torch.zeros(1, 2))


def test_a_table_that_is_not_whole_ranks_nothing(four_processes):
    trainer = LSTSDTrainer(model=make_model(), train_dataset=make_examples(8), teacher="lstsd")
    trainer.teacher.memory = new_memory(TeacherMemory, 8, torch.zeros(1, 2), TableStorage.parse("sharded"))
    with pytest.raises(InputError, match="cannot be ranked by a memory with `memory_storage='sharded'`"):
        trainer.teacher.rank_label_errors()


def test_an_unexpected_example_is_an_error(four_processes):
    memory = new_memory(LatestMemory, 10, torch.zeros(1, 2), TableStorage.parse("sharded"))
    memory.expect(torch.tensor([7, 2, 7]))
    memory.stage(torch.tensor([2, 7]), torch.ones(2, 2))
    assert not memory.read(torch.tensor([7]))[1].any()
    with pytest.raises(IndexError, match=r"was to train on in this epoch, got \[8, 0\]"):
        memory.read(torch.tensor([8, 2, 0]))


@pytest.mark.parametrize(
    ("storage", "num_examples", "message"),
    [("sharded,top-1", 10, "must keep all labels to be sharded, got top-k"), ("sharded", 3, "got 3 for 4")],
)
def test_what_cannot_be_divided(four_processes, storage, num_examples, message):
    with pytest.raises(InputError, match=message):
        new_memory(LatestMemory, num_examples, torch.zeros(1, 9), TableStorage.parse(storage))


@pytest.mark.parametrize("method", ["anchored", "lstsd_single", "regulated_lstsd", "snapshot_distillation"])
def test_methods_that_need_whole_tables_are_refused(four_processes, method):
    trainer = LSTSDTrainer(model=make_model(), train_dataset=make_examples(8), teacher=method, memory_storage="sharded")
    with pytest.raises(InputError, match="`memory_storage` must not be sharded with"):
        setups.check_setup(trainer, trainer._group)


def indexed_loader(dataset, **options):
    return DataLoader(dataset, collate_fn=lambda batch: batch.indices, **options)


def test_a_loader_tells_what_an_epoch_draws():
    loader, told = indexed_loader(IndexedDataset(make_examples(5)), batch_size=2, shuffle=True), []
    announce_examples(loader, [].append)
    announce_examples(loader, told.append)  # once, also where a loader is used again
    assert len(loader) == len(loader.batch_sampler) == 3
    assert loader.batch_sampler.drop_last is False
    for epoch in range(2):
        drawn = [index for batch in loader for index in batch]
        assert told[epoch].tolist() == drawn
        assert sorted(drawn) == [0, 1, 2, 3, 4]
    assert len([*LoaderWithoutIndices(indexed_loader_of_dicts(loader))]) == 3
    assert len(told) == 2


def indexed_loader_of_dicts(loader):
    loader.collate_fn = lambda batch: {"example_index": torch.tensor(batch.indices)}
    return loader


def test_rows_of_a_subset_are_told_as_examples():
    examples = Subset(Subset(IndexedDataset(make_examples(9)), [8, 2, 6, 0]), [3, 1, 2])
    loader, told = indexed_loader(examples, batch_size=2), []
    announce_examples(loader, told.append)
    assert [index for batch in loader for index in batch] == told[0].tolist() == [0, 2, 6]


class Endless:
    def __iter__(self):
        while True:
            yield [0]


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (IndexedDataset(make_examples(3)), {"batch_size": None}, "needs a data loader that draws batches of its own"),
        (IndexedDataset(make_examples(3)), {"batch_sampler": Endless()}, "and has a length"),
        (ConcatDataset([IndexedDataset(make_examples(3))]), {}, "a `torch.utils.data.Subset` of it, got ConcatDataset"),
    ],
)
def test_loaders_whose_epochs_are_not_known_are_refused(dataset, options, message):
    with pytest.raises(InputError, match=message):
        announce_examples(indexed_loader(dataset, **options), print)
