"""The terms of several teachers as one, against each alone."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lstsd_hf import DistillationTerm, LSTSDConfig, Teacher
from lstsd_hf.agreement import agreement_with, answers
from lstsd_hf.deferred_means import DeferredMeans, means
from lstsd_hf.joint_term import JointTerm
from lstsd_hf.logs import MicroBatch, TrainingLog
from lstsd_hf.losses import kl_student_teacher, teacher_log_probs, total_kl_student_teacher
from lstsd_hf.methods.base import separate
from lstsd_hf.problem_types import PROBLEM_TYPES
from tests.helpers import make_trainer

SINGLE = PROBLEM_TYPES["single_label_classification"]
NAMES = ("short", "long")
WEIGHTS = (4.0, 2.4)
SCALES = [1.0, 1, 0.5, torch.tensor(0.5), torch.full((2, 1), 0.5)]  # the last one under DataParallel
same = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6, check_dtype=False)


def joint_term(seed=0, batch_size=5, temperature=1.5, factor=2.25, floor=1e-4, weights=WEIGHTS):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(batch_size, 3, generator=generator, dtype=torch.float64).requires_grad_()
    teachers = 3 * torch.randn(2, batch_size, 3, generator=generator, dtype=torch.float64)
    targets = SINGLE.targets(teachers, temperature, floor)
    batch = SimpleNamespace(problem_type=SINGLE, student_logits=student)
    agreement = agreement_with(targets, batch, torch.ones(2, batch_size, dtype=torch.bool))
    return JointTerm(student, targets, weights, agreement, temperature, factor)


def per_teacher(term):
    return torch.stack([divergences.detach() for divergences, _, _ in term.separate()])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("loss", [torch.tensor(0.3), torch.tensor([0.3, 0.5])])
@pytest.mark.parametrize("batch_size", [5, 1000])
def test_joint_terms_are_the_sum_of_terms_alone(scale, loss, batch_size):
    term = joint_term(batch_size=batch_size)
    together, deferred = term.added_to(loss, scale)
    alone, own_means = loss, []
    for single in separate({NAMES: term}).values():
        alone, mean = single.added_to(alone, scale)
        own_means.append(mean.mean())
    assert together.dim() <= 1
    same(together.mean(), alone.mean())
    assert isinstance(deferred, Tensor if batch_size > 5 else DeferredMeans)
    assert not getattr(deferred, "requires_grad", False)
    same(means([deferred]).reshape(-1, 2).mean(dim=0), torch.stack(own_means))
    gradients = [torch.autograd.grad(value.mean(), term.student_logits)[0] for value in (together, alone)]
    assert gradients[0].abs().max() > 5e-3 / batch_size
    same(*gradients)


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "t_squared": True, "lambda_short": 3.0}])
def test_lstsd_has_them_where_every_example_has_both_teachers(make_args, options):
    trainer = make_trainer(make_args, LSTSDConfig(mini_generation_epochs=2, **options), num_train_epochs=3)
    trainer.train()
    teacher = trainer.teacher
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    batch = SimpleNamespace(indices=torch.arange(4), student_logits=logits, problem_type=SINGLE)
    assert teacher.memory.is_complete
    assert not teacher.memory.short_term_logits.equal(teacher.memory.long_term_logits)
    (joint,) = teacher.loss_terms(batch).values()
    teacher.memory.is_complete = False
    apart = teacher.loss_terms(batch)
    assert isinstance(joint, JointTerm)
    together, _ = joint.added_to(torch.tensor(0.0), 0.5)
    for name, term in separate({NAMES: joint}).items():
        assert isinstance(apart[name], DistillationTerm)
        assert apart[name].weight == term.weight
        same(apart[name].per_example, term.per_example)
        assert answers([apart[name].agreement]).equal(answers([term.agreement]))
    same(together, sum(0.5 * term.weight * term.per_example.mean() for term in apart.values()))


def test_a_term_with_other_weights():
    term = replace(joint_term(), weights=(0.5, 3.0))
    expected = sum(weight * divergences.mean() for divergences, weight, _ in term.separate())
    same(term.added_to(torch.tensor(0.0), 1.0)[0], expected)


@pytest.mark.parametrize("factor", [0.5, torch.tensor(0.5), torch.full((2, 1), 0.5)])
def test_the_means_of_many_batches_are_those_of_each(factor):
    terms = [joint_term(seed) for seed in range(3)]
    parts = [DeferredMeans(term.agreement, term.temperature, factor) for term in terms]
    assert len({part.form for part in parts}) == 1
    expected = torch.stack([0.5 * per_teacher(term).mean(dim=-1) / term.factor for term in terms])
    same(means(parts).reshape(3, -1, 2).mean(dim=1), expected)


def test_the_log_adds_up_batches_of_every_kind():
    """Larger and smaller ones, at other temperatures and on other scales."""
    options = [
        *({}, {}, {"batch_size": 2}, {"factor": 1.0}, {"temperature": 1.0}, {"factor": 3.0}),
        {"temperature": 3.0, "batch_size": 1},
    ]
    terms = [joint_term(seed, **chosen) for seed, chosen in enumerate(options)]
    log = TrainingLog()
    for step, term in enumerate(terms):
        scale = 0.5 if step % 2 else torch.tensor(0.5)
        _, part = term.added_to(torch.tensor(1.0), scale)
        log.add(MicroBatch(None, None, {"base": torch.tensor(1.0), NAMES: part}, {NAMES: term}, 1), step)
    logged = log.drain(len(terms), len(terms))
    expected = 0.5 * torch.stack([per_teacher(term).mean(dim=-1) for term in terms]).mean(dim=0)
    same(torch.tensor([logged[f"loss_{name}"] for name in NAMES]), expected)


def test_several_names_need_joint_terms(make_args):
    class Stacked(Teacher):
        def loss_terms(self, batch):
            return {NAMES: DistillationTerm(batch.student_logits.square().mean(-1).expand(2, -1), 1.0)}

    with pytest.raises(TypeError, match="must return a `JointTerm` for the terms `short` and `long`, got Distillation"):
        make_trainer(make_args, Stacked()).train()


def test_what_waits_for_the_log_keeps_no_graph():
    _, part = joint_term().added_to(torch.tensor(1.0), 1.0)
    assert not part.agreement.student_logits.requires_grad
    assert not part.agreement.targets.requires_grad


@pytest.mark.parametrize("floor", [0.0, 1e-4])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_total_is_the_sum_of_each_teachers_divergences(floor, temperature):
    """Also where labels are excluded: by student and teachers, by the student alone, or for want of precision."""
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(6, 4, generator=generator)
    teachers = 3 * torch.randn(2, 6, 4, generator=generator)
    student[0, 1] = teachers[:, 0, 1] = student[1, 2] = -math.inf
    student[2, 0] = -1e4
    student = student.double().requires_grad_()
    log_z = teacher_log_probs(teachers.double(), temperature, floor)
    shares = torch.tensor([0.625, 0.375], dtype=torch.float64)
    total = total_kl_student_teacher(student, log_z, shares[:, None, None], temperature)
    expected = (shares[:, None] * kl_student_teacher(student, log_z, temperature)).sum()
    assert expected.isfinite()
    same(total, expected)
    gradients = [torch.autograd.grad(value, student)[0] for value in (total, expected)]
    assert gradients[0].isfinite().all()
    same(*gradients)


def test_the_total_is_infinite_where_one_teacher_alone_excludes_a_label():
    teachers = torch.tensor([[[0.0, 0.0]], [[0.0, -math.inf]]])
    shares = torch.full((2, 1, 1), 0.5)
    assert total_kl_student_teacher(torch.zeros(1, 2), teacher_log_probs(teachers), shares) == math.inf


def test_derivatives_of_the_total():
    term, shares = joint_term(), torch.tensor([0.625, 0.375], dtype=torch.float64)[:, None, None]

    def total(logits):
        return total_kl_student_teacher(logits, term.targets, shares, term.temperature)

    assert torch.autograd.gradcheck(total, (term.student_logits,))
    # As optimizers that look at the curvature ask for.
    assert torch.autograd.gradgradcheck(total, (term.student_logits,))


@pytest.mark.parametrize("changed", [{"lambda_short": 0.25}, {"lambda_long": 0.0}])
def test_weights_that_are_changed_in_between_act_at_once(make_args, changed):
    trainer = make_trainer(make_args, LSTSDConfig(mini_generation_epochs=2), num_train_epochs=5)
    teacher, found = trainer.teacher, []
    loss_terms = teacher.loss_terms

    def spy(batch):
        terms = loss_terms(batch)
        apart = separate(terms)
        found.append({name: term.weight for name, term in apart.items()})
        together = sum(term.added_to(torch.tensor(0.0), 1.0)[0] for term in terms.values())
        same(together, sum(term.weight * term.per_example.mean() for term in apart.values()))
        if len(found) == 14:  # in the middle of the fourth epoch, whose teachers differ
            teacher.config = replace(teacher.config, **changed)
        return terms

    teacher.loss_terms = spy
    trainer.train()
    before = {"short": 1.0, "long": 1.0}
    after = {name: weight for name in before if (weight := changed.get(f"lambda_{name}", 1.0))}
    assert found == [{}] * 8 + [before] * 6 + [after] * 6
