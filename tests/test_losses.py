import math
from functools import partial

import pytest
import torch

from lstsd_hf.losses import cross_entropy_to, kl_student_teacher, kl_teacher_student, teacher_log_probs

STUDENT = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)  # p = (1/4, 3/4)
TEACHER = torch.tensor([[0.0, 0.0]], dtype=torch.float64)  # z = (1/2, 1/2)


def test_kl_by_hand():
    log_z = teacher_log_probs(TEACHER)
    student_first = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    teacher_first = 0.5 * math.log(2.0) + 0.5 * math.log(2.0 / 3.0)
    assert kl_student_teacher(STUDENT, log_z).item() == pytest.approx(student_first, abs=1e-12)
    assert kl_teacher_student(STUDENT, log_z).item() == pytest.approx(teacher_first, abs=1e-12)


def test_temperature_divides_both_sides():
    log_z = teacher_log_probs(2 * TEACHER + STUDENT, temperature=2.0)
    expected = teacher_log_probs(STUDENT / 2)
    torch.testing.assert_close(log_z, expected)
    torch.testing.assert_close(
        kl_student_teacher(2 * STUDENT, teacher_log_probs(TEACHER), 2.0),
        kl_student_teacher(STUDENT, teacher_log_probs(TEACHER)),
    )


def test_floor_is_a_lower_bound_without_renormalising():
    logits = torch.tensor([[0.0, 20.0]], dtype=torch.float64)
    floored = teacher_log_probs(logits, floor=1e-4)
    assert floored[0, 0].item() == math.log(1e-4)
    assert floored[0, 1].item() == teacher_log_probs(logits)[0, 1].item()


@pytest.mark.parametrize("divergence", [kl_student_teacher, kl_teacher_student])
def test_divergence_is_zero_for_equals_and_positive_otherwise(divergence):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 50, 4, generator=generator, dtype=torch.float64)
    assert divergence(student, teacher_log_probs(student)).abs().max() < 1e-12
    values = divergence(student, teacher_log_probs(teacher))
    assert values.shape == (50,)
    assert (values > 0).all()


def test_two_literal_terms_distil_the_geometric_mean_of_the_teachers():
    """4.0 KL(p‖s) + 2.4 KL(p‖l) = 6.4 KL(p‖g) + const, g the geometric mean with weights 0.625 and 0.375."""
    generator = torch.Generator().manual_seed(1)
    student, short, long = torch.randn(3, 20, 3, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    log_short, log_long = teacher_log_probs(short), teacher_log_probs(long)
    separate = 4.0 * kl_student_teacher(student, log_short) + 2.4 * kl_student_teacher(student, log_long)
    joint = 6.4 * kl_student_teacher(student, teacher_log_probs(0.625 * log_short + 0.375 * log_long))
    first = torch.autograd.grad(separate.sum(), student)[0]
    second = torch.autograd.grad(joint.sum(), student)[0]
    torch.testing.assert_close(first, second)


def test_two_reverse_terms_distil_the_arithmetic_mean_of_the_teachers():
    generator = torch.Generator().manual_seed(2)
    student, short, long = torch.randn(3, 20, 3, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    log_short, log_long = teacher_log_probs(short), teacher_log_probs(long)
    separate = 4.0 * kl_teacher_student(student, log_short) + 2.4 * kl_teacher_student(student, log_long)
    joint = 6.4 * kl_teacher_student(student, (0.625 * log_short.exp() + 0.375 * log_long.exp()).log())
    first = torch.autograd.grad(separate.sum(), student)[0]
    second = torch.autograd.grad(joint.sum(), student)[0]
    torch.testing.assert_close(first, second)


def test_gradients_by_hand():
    """methods of the two directions: (p − z)/T, and p [(log p − log z) − KL]/T."""
    temperature = 2.0
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    log_z = teacher_log_probs(teacher, temperature)
    log_p = torch.log_softmax(student.detach() / temperature, dim=-1)
    reverse = torch.autograd.grad(kl_teacher_student(student, log_z, temperature).sum(), student)[0]
    torch.testing.assert_close(reverse, (log_p.exp() - log_z.exp()) / temperature)
    value = kl_student_teacher(student, log_z, temperature)
    literal = torch.autograd.grad(value.sum(), student)[0]
    torch.testing.assert_close(literal, log_p.exp() * ((log_p - log_z) - value.detach().unsqueeze(-1)) / temperature)


def between(divergence, both):
    return divergence(both[0], teacher_log_probs(both[1]))


def test_gradients_reach_a_teacher_that_learns_too():
    """As in R-Drop, whose two passes teach each other; against differences of the values."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    for divergence in (kl_student_teacher, kl_teacher_student):
        function = partial(between, divergence)
        assert torch.autograd.gradcheck(function, inputs)
        # As optimizers that look at the curvature ask for.
        assert torch.autograd.gradgradcheck(function, inputs)


def test_soft_targets_of_several_teachers():
    generator = torch.Generator().manual_seed(5)
    student, teachers = torch.randn(6, 3, generator=generator), torch.randn(2, 6, 3, generator=generator)
    log_z = teacher_log_probs(teachers)
    expected = torch.stack([cross_entropy_to(student, one) for one in log_z])
    torch.testing.assert_close(cross_entropy_to(student, log_z), expected)
