import random

import pytest
import torch

from lstsd_hf import ConstantMemory, LatestMemory, MovingAverageMemory, TeacherMemory
from lstsd_hf.errors import InputError
from lstsd_hf.reference import ReferenceTeachers


def assert_equal_tables(memory, naive):
    for logits, written, expected in (
        (memory.short_term_logits, memory.short_term_written, naive.short),
        (memory.long_term_logits, memory.long_term_written, naive.long),
    ):
        assert written.nonzero().flatten().tolist() == sorted(expected)
        for index, row in expected.items():
            torch.testing.assert_close(logits[index], row, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_equals_naive_memory_with_repeats_gaps_and_non_finite_rows(length):
    rng = random.Random(length)
    torch.manual_seed(length)
    memory, naive = TeacherMemory(20, 3, dtype=torch.float64), ReferenceTeachers()
    for epoch in range(1, 9):
        for _ in range(4):
            indices = torch.tensor(rng.choices(range(20), k=5))
            logits = torch.randn(5, 3, dtype=torch.float64)
            if rng.random() < 0.3:
                logits[rng.randrange(5), 0] = rng.choice([float("nan"), float("inf")])
            memory.stage(indices, logits)
            for index, row in zip(indices.tolist(), logits, strict=True):
                if row.isfinite().all():
                    naive.observe(index, row)
        memory.transition(epoch, epoch % length == 0)
        naive.end_epoch(epoch % length == 0)
        assert_equal_tables(memory, naive)


def test_nothing_staged_is_read_before_the_transition():
    memory = TeacherMemory(4, 2)
    memory.stage(torch.tensor([1]), torch.tensor([[5.0, -5.0]]))
    logits, written = memory.read(torch.tensor([0, 1]))
    assert not written.any()
    assert not logits.any()
    memory.transition(1, begins_mini_generation=False)
    logits, written = memory.read(torch.tensor([0, 1]))
    assert written.tolist() == [[False, True], [False, False]]
    assert logits[0, 1].tolist() == [5.0, -5.0]
    assert not logits[1].any()
    assert not memory.is_complete
    assert memory.coverage == 0.25


def test_transition_is_idempotent_and_in_order():
    memory = TeacherMemory(2, 2)
    memory.transition(0, True)
    memory.stage(torch.tensor([0]), torch.tensor([[1.0, 2.0]]))
    memory.transition(1, True)
    memory.stage(torch.tensor([0]), torch.tensor([[9.0, 9.0]]))
    memory.transition(1, True)
    assert memory.short_term_logits[0].tolist() == [1.0, 2.0]
    memory.transition(2, False)
    assert memory.short_term_logits[0].tolist() == [9.0, 9.0]
    assert memory.long_term_logits[0].tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"`epoch` must be 2 .* or 3 \(the next one\), got 5\."):
        memory.transition(5, False)


def test_state_dict_restores_everything_in_the_middle_of_an_epoch():
    memory = TeacherMemory(6, 2)
    memory.stage(torch.arange(4), torch.randn(4, 2))
    memory.transition(1, True)
    memory.stage(torch.arange(2, 5), torch.randn(3, 2))
    state = {name: value.clone() if torch.is_tensor(value) else value for name, value in memory.state_dict().items()}
    copy = TeacherMemory.from_state_dict(state)
    for item in (memory, copy):
        item.transition(2, False)
    for name, value in memory.state_dict().items():
        other = copy.state_dict()[name]
        assert torch.equal(value, other) if torch.is_tensor(value) else value == other


def test_gradient_does_not_enter_the_memory():
    memory = TeacherMemory(2, 2)
    memory.stage(torch.tensor([0, 1]), torch.randn(2, 2, requires_grad=True))
    memory.transition(1, True)
    assert not memory.short_term_logits.requires_grad


@pytest.mark.parametrize("index", [-1, 3])
@pytest.mark.parametrize("call", ["stage", "read"])
def test_index_out_of_range(index, call):
    memory = TeacherMemory(3, 2)

    def stage():
        memory.stage(torch.tensor([0, index]), torch.zeros(2, 2))
        memory.transition(1, True)

    with pytest.raises(IndexError) as error:
        stage() if call == "stage" else memory.read(torch.tensor([0, index]))
    assert str(error.value) == (
        f"`example_index` must be between 0 and 2 (the training set has 3 examples), got {index}. The index is a "
        "position in the training set; do not change the dataset while training."
    )


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"`num_labels` must be at least 1, got 0\."):
        TeacherMemory(3, 0)
    with pytest.raises(ValueError, match=r"\(batch_size, num_labels\) = \(2, 2\), got \(2, 3\)\."):
        TeacherMemory(3, 2).stage(torch.tensor([0, 1]), torch.zeros(2, 3))


# ---- Given predictions ----


GIVEN = torch.tensor([[2.0, -2.0], [0.5, 1.5], [-1.0, 1.0]])


@pytest.mark.parametrize("memory_class", [TeacherMemory, LatestMemory, MovingAverageMemory])
def test_a_filled_memory_reads_what_it_was_given(memory_class):
    memory = memory_class(3, 2)
    memory.fill(GIVEN, torch.tensor([True, False, True]))
    rows, written = memory.read(torch.tensor([2, 0, 1]))
    for table in range(memory.num_tables):
        assert torch.equal(rows[table, :2], GIVEN[[2, 0]])
        assert written[table].tolist() == [True, True, False]
    assert memory.coverage == pytest.approx(2 / 3)
    assert not memory.is_complete
    memory.fill(GIVEN)
    assert memory.is_complete
    again = memory_class.from_state_dict(memory.state_dict())
    assert torch.equal(again.read(torch.arange(3))[0], memory.read(torch.arange(3))[0])


def test_an_average_goes_on_from_what_it_was_given():
    memory = MovingAverageMemory(3, 2)
    memory.fill(GIVEN)
    memory.stage(torch.tensor([1]), torch.tensor([[1.0, 0.0]]))
    memory.transition(1, decay=0.75)
    expected = GIVEN.clone()
    expected[1] = 0.75 * GIVEN[1] + 0.25 * torch.tensor([1.0, 0.0])
    torch.testing.assert_close(memory.moving_average, expected)


def test_a_filling_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"must have the shape \(num_examples, num_labels\) = \(3, 2\), got \(2, 3\)"):
        LatestMemory(3, 2).fill(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"must have the shape \(num_examples, num_labels\), got \(6,\)"):
        ConstantMemory(torch.zeros(6))


def test_a_constant_memory_is_known_by_its_digest():
    memory, other = ConstantMemory(GIVEN), ConstantMemory(GIVEN, torch.tensor([True, False, True]))
    rows, written = other.read(torch.tensor([1, 2]))
    assert rows.tolist() == [[[0.5, 1.5], [-1.0, 1.0]]]
    assert written.tolist() == [[False, True]]
    assert (memory.coverage, memory.is_complete) == (1.0, True)
    assert (other.coverage, other.is_complete) == (pytest.approx(2 / 3), False)
    state = memory.state_dict()
    assert not any(torch.is_tensor(value) for value in state.values())
    ConstantMemory(GIVEN.clone()).check_state(state)
    changed = GIVEN.clone()
    changed[0, 0] += 1e-6
    for another in (other, ConstantMemory(changed), ConstantMemory(GIVEN.double())):
        with pytest.raises(InputError, match="The table of predictions must be what it was when the checkpoint was"):
            another.check_state(state)
