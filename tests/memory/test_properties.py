"""Any sequence of stage, transition, save, load and merge, against what dicts would hold."""

import copy
import io
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from safetensors.torch import load, save

from lstsd_hf import TeacherMemory
from lstsd_hf.memory import MovingAverageMemory
from lstsd_hf.reference import ReferenceTeachers

EXAMPLES, LABELS, DECAY = 6, 2, 0.6
NUMBERS = st.floats(-100, 100, width=32) | st.sampled_from([float("nan"), float("inf"), float("-inf")])
BATCHES = st.lists(
    st.tuples(st.integers(0, EXAMPLES - 1), st.lists(NUMBERS, min_size=LABELS, max_size=LABELS)), max_size=8
)


def is_kept(row):
    """-inf excludes a label; something must be left."""
    return all(value < float("inf") for value in row) and any(value > float("-inf") for value in row)


class Processes:
    """Several memories that believe they run on several processes: what is summed is what all have staged."""

    def __init__(self, memories):
        self.memories = memories

    def each(self, call):
        for memory in self.memories:
            memory._add_arrived()
        sums = [sum(memory._staged for memory in self.memories), sum(memory._counts for memory in self.memories)]
        results = []
        for position, memory in enumerate(self.memories):
            with (
                mock.patch("lstsd_hf.memory.staged.is_distributed", return_value=len(self.memories) > 1),
                mock.patch("lstsd_hf.memory.rows.rank", return_value=position),
                mock.patch(
                    "torch.distributed.all_reduce", lambda tensor: tensor.copy_(sums[not tensor.is_floating_point()])
                ),
            ):
                results.append(call(memory))
        return results


class MemoryMachine(RuleBasedStateMachine):
    """LSTSD's memory beside the reference of it."""

    saved = Bundle("saved")

    @initialize(count=st.integers(1, 3))
    def begin(self, count):
        self.processes = Processes([TeacherMemory(EXAMPLES, LABELS, dtype=torch.float64) for _ in range(count)])
        self.epoch, self.teachers = 0, ReferenceTeachers()

    @rule(batch=BATCHES, process=st.integers(0, 2))
    def stage(self, batch, process):
        memory = self.processes.memories[process % len(self.processes.memories)]
        indices = torch.tensor([index for index, _ in batch], dtype=torch.int64)
        rows = torch.tensor([row for _, row in batch], dtype=torch.float64).reshape(len(batch), LABELS)
        memory.stage(indices, rows.requires_grad_())
        for index, row in batch:
            if is_kept(row):
                self.teachers.observe(index, torch.tensor(row, dtype=torch.float64))

    @rule(begins=st.booleans())
    def transition(self, begins):
        self.epoch += 1
        self.processes.each(lambda memory: memory.transition(self.epoch, begins))
        self.teachers.end_epoch(begins)

    @rule(begins=st.booleans())
    def transition_again(self, begins):
        """As after a resume at an epoch's beginning."""
        self.processes.each(lambda memory: memory.transition(self.epoch, begins))

    @rule(distance=st.integers(-3, 4).filter(lambda distance: distance not in (0, 1)))
    def transition_to_another_epoch(self, distance):
        with pytest.raises(ValueError, match="`epoch` must be"):
            self.processes.each(lambda memory: memory.transition(self.epoch + distance, True))

    @rule(target=saved)
    def save(self):
        """The state of every process is the same and goes through a file."""
        states = self.processes.each(lambda memory: memory.state_dict())
        files = [save({k: v.contiguous() for k, v in state.items() if torch.is_tensor(v)}) for state in states]
        assert all(file == files[0] for file in files)
        plain = {name: value for name, value in states[0].items() if not torch.is_tensor(value)}
        return io.BytesIO(files[0]).getvalue(), plain, copy.deepcopy(self.teachers)

    @rule(state=saved, count=st.integers(1, 3))
    def load(self, state, count):
        """On another number of processes too."""
        content, plain, teachers = state
        new = Processes([None] * count)
        memories = []
        for position in range(count):
            with (
                mock.patch("lstsd_hf.memory.staged.is_distributed", return_value=count > 1),
                mock.patch("lstsd_hf.memory.rows.rank", return_value=position),
            ):
                memories.append(TeacherMemory.from_state_dict({**load(content), **plain}))
        new.memories = memories
        self.processes = new
        self.epoch, self.teachers = plain["epoch"], copy.deepcopy(teachers)

    @invariant()
    @precondition(lambda self: hasattr(self, "processes"))
    def same(self):
        for memory in self.processes.memories:
            rows, written = memory.read(torch.arange(EXAMPLES))
            for table, mask, account in zip(rows, written, (self.teachers.short, self.teachers.long), strict=True):
                assert mask.nonzero().flatten().tolist() == sorted(account)
                for index, row in account.items():
                    torch.testing.assert_close(table[index], row, rtol=1e-9, atol=1e-9)
                assert (table[~mask] == 0).all()
            assert memory.epoch == self.epoch
            assert memory.coverage == len(self.teachers.short) / EXAMPLES
            assert memory.is_complete == (len(self.teachers.short) == len(self.teachers.long) == EXAMPLES)


def test_staged_rows_of_a_checkpoint_are_counted_once():
    """Taken over by every process, they would outweigh what is staged after the resume."""
    machine = MemoryMachine()
    machine.begin(count=2)
    machine.stage([(1, [1.0, 0.0])], process=1)
    machine.load(machine.save(), count=2)
    machine.stage([(1, [2.0, 4.0])], process=0)
    machine.transition(begins=True)
    assert {index: row.tolist() for index, row in machine.teachers.short.items()} == {1: [1.5, 2.0]}
    machine.same()


class AverageMachine(RuleBasedStateMachine):
    """Temporal ensembling's memory beside a dict."""

    def __init__(self):
        super().__init__()
        self.memory, self.means, self.staged = MovingAverageMemory(EXAMPLES, LABELS, dtype=torch.float64), {}, {}

    @rule(batch=BATCHES)
    def stage(self, batch):
        for index, row in batch:
            self.memory.stage(torch.tensor([index]), torch.tensor([row], dtype=torch.float64))
            if is_kept(row):
                self.staged.setdefault(index, []).append(row)

    @rule()
    def transition(self):
        self.memory.transition(self.memory.epoch + 1, DECAY)
        for index, rows in self.staged.items():
            mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
            self.means.setdefault(index, []).append(mean)
        self.staged = {}

    @rule()
    def save_and_load(self):
        self.memory = MovingAverageMemory.from_state_dict(self.memory.state_dict())

    @invariant()
    def same(self):
        """The mean of an example's rows, each weighted by `DECAY` to the number of rows after it."""
        assert self.memory.written.nonzero().flatten().tolist() == sorted(self.means)
        for index, means in self.means.items():
            weights = [DECAY**age for age in reversed(range(len(means)))]
            expected = [
                sum(w * value for w, value in zip(weights, column, strict=True)) / sum(weights)
                for column in zip(*means, strict=True)
            ]
            torch.testing.assert_close(
                self.memory.moving_average[index], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9
            )


SETTINGS = settings(max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
MemoryMachine.TestCase.settings = SETTINGS
AverageMachine.TestCase.settings = SETTINGS
TestTeacherMemory = MemoryMachine.TestCase
TestMovingAverageMemory = AverageMachine.TestCase
