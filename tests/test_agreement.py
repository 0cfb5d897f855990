"""Whether student and teacher agree, of many batches at once."""

from types import SimpleNamespace

import pytest
import torch

from lstsd_hf import DistillationTerm
from lstsd_hf.agreement import Agreement, agreement_with, answers
from lstsd_hf.logs import MicroBatch, TrainingLog
from lstsd_hf.problem_types import PROBLEM_TYPES

SINGLE, MULTI = PROBLEM_TYPES["single_label_classification"], PROBLEM_TYPES["multi_label_classification"]
FIRST, SECOND = [2.0, -1.0], [-1.0, 2.0]
NAMES = ("short", "long")


def test_two_teachers_and_two_batches_by_hand():
    """The first batch's second example has no long-term teacher, though the empty row agrees with the student."""
    batches = [
        Agreement(
            SINGLE,
            torch.tensor([FIRST, FIRST]),
            torch.tensor([[FIRST, SECOND], [SECOND, FIRST]]),
            torch.tensor([[True, True], [True, False]]),
        ),
        Agreement(
            SINGLE,
            torch.tensor([SECOND, FIRST]),
            torch.tensor([[SECOND, FIRST], [FIRST, FIRST]]),
            torch.ones(2, 2, dtype=torch.bool),
        ),
    ]
    assert answers(batches).tolist() == [[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]]]


def test_several_labels_by_hand():
    """Of the first example one answer of two is the teacher's; the second has no teacher."""
    logits = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    targets = MULTI.targets(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
    batch = Agreement(MULTI, logits, targets, torch.tensor([True, False]))
    assert answers([batch, batch]).tolist() == [[0.5, 0.0]] * 2


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
def test_a_method_may_say_itself_whether_they_agree(dtype):
    assert answers([torch.tensor([1, 0], dtype=dtype)] * 2).tolist() == [[1.0, 0.0]] * 2


def test_a_large_batch_and_one_of_a_single_example():
    """What a large batch leaves behind has the shape of the other, and is of another kind."""
    large = Agreement(
        SINGLE,
        torch.tensor(FIRST).repeat(1500, 1),
        torch.tensor([FIRST, SECOND])[:, None].repeat(1, 1500, 1),
        torch.arange(1500).remainder(4).gt(0).expand(2, -1),
    )
    single = Agreement(
        SINGLE,
        torch.tensor([SECOND]),
        torch.tensor([[FIRST], [SECOND]]),
        torch.ones(2, 1, dtype=torch.bool),
    )
    log = TrainingLog()
    for step, agreement in enumerate([large, single]):
        term = SimpleNamespace(agreement=agreement)
        parts = {"base": torch.tensor(1.0), NAMES: torch.ones(2)}
        log.add(MicroBatch(None, None, parts, {NAMES: term}, 1), step)
    logged = log.drain(2, 2)
    assert logged["teacher_agreement_short"] == 0.75 / 2
    assert logged["teacher_agreement_long"] == 1 / 2


def test_what_waits_for_the_log_keeps_no_graph():
    agreement = torch.tensor([0.5, 1.0], requires_grad=True) * 1.0
    log = TrainingLog()
    term = DistillationTerm(torch.zeros(2), 1.0, agreement)
    log.add(MicroBatch(None, None, {"base": torch.tensor(1.0), "own": torch.tensor(1.0)}, {"own": term}, 1), 0)
    assert not any(value.requires_grad for values in log._waiting.values() for value in values)
    assert log.drain(1, 1)["teacher_agreement_own"] == 0.75


def test_a_model_may_overwrite_its_outputs():
    logits = torch.tensor([FIRST, SECOND])
    batch = SimpleNamespace(problem_type=SINGLE, student_logits=logits)
    agreement = agreement_with(SINGLE.targets(logits), batch, torch.ones(2, dtype=torch.bool))
    logits.copy_(logits.flip(0))
    assert answers([agreement]).tolist() == [[1.0, 1.0]]


def test_numbers_are_no_answers():
    batch = SimpleNamespace(problem_type=PROBLEM_TYPES["regression"], student_logits=torch.zeros(2, 1))
    assert agreement_with(torch.zeros(2, 1), batch, torch.ones(2, dtype=torch.bool)) is None
