"""LSTSD as its paper prints it: a slow reference to read top to bottom, and what the trainer is tested against.

Source: Jiang et al., "Long Short-Term Sample Distillation", AAAI 2020, arXiv 2003.00739, Algorithm 1.
"""

import math

import torch


def _kl(student_logits, teacher_logits, temperature, kl_direction, teacher_floor):
    """KL between one student row and one stored teacher row, summed over classes from the definition."""
    log_p = torch.log_softmax(student_logits / temperature, dim=-1)
    log_z = torch.log_softmax(teacher_logits / temperature, dim=-1)
    if teacher_floor > 0 and kl_direction == "student_teacher":
        log_z = log_z.clamp(min=math.log(teacher_floor))  # not renormalised
    total = 0.0
    for log_p_k, log_z_k in zip(log_p, log_z, strict=True):
        if kl_direction == "student_teacher":
            total = total + log_p_k.exp() * (log_p_k - log_z_k)
        elif kl_direction == "teacher_student":
            total = total + log_z_k.exp() * (log_z_k - log_p_k)
        else:
            raise ValueError(f"unknown kl_direction {kl_direction!r}")
    return total


class ReferenceTeachers:
    """The two teachers of every example, in dicts: Algorithm 1's rules for what is remembered, and from when.

    Attributes:
        short: Example id -> short-term teacher's logits, shape (num_labels,).
        long: Example id -> long-term teacher's logits, shape (num_labels,).
        drawn: Example id -> list of the outputs that the present epoch has given it so far.
    """

    def __init__(self):
        self.short, self.long, self.drawn = {}, {}, {}

    def observe(self, index, row):
        """Notes the output of one example, logits of shape (num_labels,), which no loss reads before `end_epoch`."""
        self.drawn.setdefault(index, []).append(row)

    def end_epoch(self, ends_mini_generation):
        """Makes the epoch's outputs the teachers of the next one; examples that were not drawn keep what they had."""
        for index, rows in self.drawn.items():
            self.short[index] = sum(rows) / len(rows)
            if ends_mini_generation:
                self.long[index] = self.short[index].clone()
        self.drawn = {}


def train_algorithm_1(
    model, epochs, optimizer, scheduler, *, mini_generation_epochs, lambda_short, lambda_long,
    temperature=1.0, kl_direction="student_teacher", teacher_floor=0.0, t_squared=False, max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` by Algorithm 1, one example at a time, and pauses after every epoch.

    Args:
        model: Sequence classifier called as `model(**inputs).logits`; put in train mode before each step.
        epochs: One list of mini-batches per epoch. A mini-batch is `(indices, inputs, labels)`: example ids,
            the model's inputs without labels, and a LongTensor of shape (batch,).
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler stepped after every update, or None.
        mini_generation_epochs: Epochs in a mini-generation (E in the paper).
        lambda_short: Weight of the short-term term; zero leaves it out.
        lambda_long: Weight of the long-term term; zero leaves it out.
        temperature: Divides student and teacher logits in the distillation terms only.
        kl_direction: "student_teacher" for KL(p || z), as printed, or "teacher_student" for KL(z || p).
        teacher_floor: Lower bound on teacher probabilities in KL(p || z), without renormalising; 0 for none.
        t_squared: Whether to multiply the distillation terms by the squared temperature.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, short, long)` after each epoch: its 0-based number and copies of the short-term and long-term
        tables (example id -> logits) as the next epoch will read them.
    """
    teachers = ReferenceTeachers()
    kl_scale = temperature**2 if t_squared else 1.0
    for epoch, batches in enumerate(epochs):
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            loss = 0.0
            for row, label in zip(logits, labels.tolist(), strict=True):
                loss = loss - torch.log_softmax(row, dim=-1)[label] / size

            if epoch >= mini_generation_epochs:  # m > 1
                for weight, table in ((lambda_long, teachers.long), (lambda_short, teachers.short)):
                    if weight == 0:
                        continue
                    for index, row in zip(indices, logits, strict=True):
                        if index in table:  # a sample without a teacher contributes 0
                            kl = _kl(row, table[index], temperature, kl_direction, teacher_floor)
                            loss = loss + weight * kl_scale * kl / size

            loss.backward()
            if max_grad_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            model.zero_grad()

            for index, row in zip(indices, logits, strict=True):  # the forward made before the update
                teachers.observe(index, row.detach().clone())

        teachers.end_epoch(ends_mini_generation=(epoch + 1) % mini_generation_epochs == 0)
        yield epoch, dict(teachers.short), dict(teachers.long)
