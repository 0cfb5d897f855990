"""Tables divided over processes: what one process can tell; `tests/distributed` has the rest."""

import pytest
import torch
from torch.utils.data import DataLoader

from lstsd_hf import InputError, LatestMemory, LSTSDTrainer, TableStorage, TeacherMemory, setups
from lstsd_hf.epoch_examples import AnnouncedBatches, announce_examples
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
    with pytest.raises(AttributeError, match="is on no process as a whole"):
        _ = memory.short_term_logits


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


def test_a_loader_tells_what_an_epoch_draws():
    loader, told = DataLoader(range(10, 15), batch_size=2, shuffle=True), []
    announce_examples(loader, told.append)
    assert isinstance(loader.batch_sampler, AnnouncedBatches)
    assert len(loader) == len(loader.batch_sampler) == 3
    for _ in range(2):
        drawn = torch.cat([*loader]) - 10
        assert torch.equal(told[-1], drawn)
    assert len(told) == 2
    assert loader.batch_sampler.drop_last is False


def test_a_loader_that_draws_no_batches_is_refused():
    with pytest.raises(InputError, match="needs batches that each process draws itself"):
        announce_examples(DataLoader(range(3), batch_size=None), print)
