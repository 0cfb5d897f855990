"""Divergences between a student and a stored teacher, one value for each example, or their sum.

Pure functions on tensors: no state, no mean over the batch (only the trainer knows by what the base loss was divided),
and no dependency but torch.

A label of logit -inf is excluded: its probability is 0. A label that student and teacher both exclude contributes
nothing to a divergence or its gradient. Where only the one that is compared against excludes it, a KL is infinite.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def teacher_log_probs(teacher_logits: Tensor, temperature: float = 1.0, floor: float = 0.0) -> Tensor:
    """Log-probabilities of a teacher, `log z = max(log softmax(teacher_logits / T), log floor)`.

    A floor bounds the pull of a confidently wrong teacher. The floored distribution is not renormalised, so its sum may
    exceed one by at most `num_labels * floor`.

    Args:
        teacher_logits: Stored student outputs, logits of shape `(…, num_labels)`.
        temperature: Softmax temperature T, positive.
        floor: Lower bound of every teacher probability; 0 keeps the teacher as it is.

    Returns:
        Log-probabilities of the same shape.

    Examples:
        >>> teacher_log_probs(torch.tensor([[0.0, 0.0]])).exp().tolist()
        [[0.5, 0.5]]
    """
    log_probs = _log_softmax(teacher_logits, temperature)
    return log_probs.clamp(min=math.log(floor)) if floor > 0 else log_probs


def kl_student_teacher(student_logits: Tensor, teacher_log_probs: Tensor, temperature: float = 1.0) -> Tensor:
    """KL[student ‖ teacher] = Σ p (log p − log z), the direction of LSTSD's Eq. 1.

    Source: Jiang et al., "Long Short-Term Sample Distillation", AAAI 2020, arXiv 2003.00739, Eq. 1.

    Args:
        student_logits: Logits of shape `(batch_size, num_labels)`, with gradient.
        teacher_log_probs: Log-probabilities at the same temperature, `(batch_size, num_labels)`, or several teachers
            stacked, `(num_teachers, batch_size, num_labels)`.
        temperature: Softmax temperature of the student.

    Returns:
        One divergence for each example, shape `(batch_size,)` or `(num_teachers, batch_size)`.

    Examples:
        >>> kl_student_teacher(torch.tensor([[0.0, 0.0]]), teacher_log_probs(torch.tensor([[0.0, 0.0]]))).tolist()
        [0.0]
    """
    student_log_probs = _log_softmax(student_logits, temperature)
    return _expectation(student_log_probs.exp(), student_log_probs - teacher_log_probs)


def total_kl_student_teacher(
    student_logits: Tensor, teacher_log_probs: Tensor, shares: Tensor, temperature: float = 1.0
) -> Tensor:
    """Σ of share · KL[student ‖ teacher] over the examples and several teachers, with the cost of one teacher.

    Where the shares add up to 1 the teachers count as one, which is their geometric mean up to a constant:
    Σ s KL[p ‖ z] = Σ p (log p − Σ s log z).

    Args:
        student_logits: Logits of shape `(batch_size, num_labels)`, with gradient.
        teacher_log_probs: Log-probabilities of the teachers, `(num_teachers, batch_size, num_labels)`.
        shares: Positive, with a sum of 1, `(num_teachers, 1, 1)`.
        temperature: Softmax temperature of the student.

    Returns:
        One number.

    Examples:
        >>> teachers = teacher_log_probs(torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]]))
        >>> float(total_kl_student_teacher(torch.tensor([[0.0, 0.0]]), teachers, torch.tensor([[[0.5]], [[0.5]]])))
        0.0
    """
    student_log_probs = _log_softmax(student_logits, temperature)
    values = student_log_probs - (teacher_log_probs * shares).sum(dim=0)
    return _weighted(student_log_probs.exp(), values).sum()


def kl_teacher_student(student_logits: Tensor, teacher_log_probs: Tensor, temperature: float = 1.0) -> Tensor:
    """KL[teacher ‖ student] = Σ z (log z − log p), the direction of Hinton et al., arXiv 1503.02531.

    Arguments and return value are those of `kl_student_teacher`.

    Examples:
        >>> certain = teacher_log_probs(torch.tensor([[20.0, 0.0]]))
        >>> round(float(kl_teacher_student(torch.tensor([[0.0, 0.0]]), certain)), 3)
        0.693
    """
    student_log_probs = _log_softmax(student_logits, temperature)
    return _expectation(teacher_log_probs.exp(), teacher_log_probs - student_log_probs)


def squared_error(student_logits: Tensor, teacher_log_probs: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over the classes of (p - z)², the consistency cost of Laine & Aila, arXiv 1610.02242.

    Arguments and return value are those of `kl_student_teacher`.

    Examples:
        >>> certain = teacher_log_probs(torch.tensor([[20.0, 0.0]]))
        >>> round(float(squared_error(torch.tensor([[0.0, 0.0]]), certain)), 3)
        0.25
    """
    return (_log_softmax(student_logits, temperature).exp() - teacher_log_probs.exp()).square().mean(dim=-1)


def cross_entropy_to(student_logits: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """Cross-entropy against soft targets, -Σ z log p, one value for each example, `(batch_size,)`.

    Examples:
        >>> uniform = teacher_log_probs(torch.tensor([[0.0, 0.0]]))
        >>> round(float(cross_entropy_to(torch.tensor([[0.0, 0.0]]), uniform)), 3)
        0.693
    """
    z = teacher_log_probs.exp()
    return -(z * torch.log_softmax(student_logits, dim=-1).masked_fill(z == 0, 0.0)).sum(dim=-1)


def kl_top_k(student_logits: Tensor, top_log_probs: Tensor, top_labels: Tensor) -> Tensor:
    """KL[teacher ‖ student] where only the teacher's k largest probabilities are known: the rest counts as one label.

    It is at most the KL over all labels, and equal to it where teacher and student spread the rest alike.

    Args:
        student_logits: Logits `(batch_size, num_labels)`, with gradient.
        top_log_probs: The teacher's log-probabilities `(batch_size, k)`, k below `num_labels`.
        top_labels: Whose they are, int64 `(batch_size, k)`.

    Returns:
        One divergence for each example, `(batch_size,)`.

    Examples:
        >>> uniform, top = torch.zeros(1, 4), torch.tensor([[0.25]]).log()
        >>> abs(round(float(kl_top_k(uniform, top, torch.tensor([[2]]))), 6))
        0.0
    """
    log_p = _log_softmax(student_logits, 1.0)
    rest = log_p.scatter(1, top_labels, -math.inf).logsumexp(dim=1, keepdim=True)
    log_p = torch.cat([log_p.gather(1, top_labels), rest], dim=1)
    left = (1.0 - top_log_probs.exp().sum(dim=1, keepdim=True)).clamp(min=0.0)
    log_z = torch.cat([top_log_probs, left.log()], dim=1)
    return _expectation(log_z.exp(), log_z - log_p)


def _expectation(probs: Tensor, values: Tensor) -> Tensor:
    """Σ probs · values over the labels, where 0 times anything is 0, also in the gradient.

    Values where `probs` is 0 may be infinite or NaN (0 · log 0); a product would pass that on. They are overwritten.
    """
    return _weighted(probs, values).sum(dim=-1)


def _weighted(probs: Tensor, values: Tensor) -> Tensor:
    return probs * values.masked_fill_(probs.detach().logical_not(), 0.0)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


KL_DIRECTIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "student_teacher": kl_student_teacher,
    "teacher_student": kl_teacher_student,
}

DIVERGENCES = {**KL_DIRECTIONS, "mse": squared_error}
