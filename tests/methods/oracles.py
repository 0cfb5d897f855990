"""Literal, loop-based references of self-distillation training methods other than LSTSD's Algorithm 1, for tests.

Each `train_*` is a generator that trains `model` and pauses after every epoch. They share these arguments:

    model: Sequence classifier called as `model(**inputs).logits`; put in train mode before each training forward.
    epochs: One list of mini-batches per epoch. A mini-batch is `(indices, inputs, labels)`: example ids, the
        model's inputs without labels, and a LongTensor of shape (batch,). An id may occur twice in an epoch or
        not at all.
    optimizer: Optimizer over the model's parameters, stepped once per mini-batch.
    scheduler: Learning rate scheduler stepped after every update, or None.
    max_grad_norm: Gradient clipping norm; None or 0 for none.

and yield `(epoch, losses, targets)`: the 0-based epoch number, the total loss of each of its steps, and whatever
the method keeps for the next epoch to read (copies). A term whose weight is zero is left out together with its
teacher: no extra forward is made, no copy of the model is taken and nothing is stored for it. The student's forward
on the new mini-batch always comes first within a step.
"""

import copy
import math

import torch


def _cross_entropy_sum(logits, labels):
    """Sum over the rows of -log softmax(row)[label]."""
    total = 0.0
    for row, label in zip(logits, labels.tolist(), strict=True):
        total = total - torch.log_softmax(row, dim=-1)[label]
    return total


def _divergence(log_p, log_q, divergence):
    """Divergence between one student row and one teacher row of log-probabilities, summed over classes."""
    total = 0.0
    for log_p_k, log_q_k in zip(log_p, log_q, strict=True):
        p_k, q_k = log_p_k.exp(), log_q_k.exp()
        if divergence == "student_teacher":
            total = total + p_k * (log_p_k - log_q_k)
        elif divergence == "teacher_student":
            if q_k > 0:  # 0 log 0 = 0
                total = total + q_k * (log_q_k - log_p_k)
        elif divergence == "mse":
            total = total + (p_k - q_k) ** 2 / len(log_p)
        else:
            raise ValueError(f"unknown divergence {divergence!r}")
    return total


def _tempered_divergence(teacher_row, row, temperature):
    """KL(softmax(teacher_row / temperature) || softmax(row / temperature)) for one row of logits each."""
    log_q = torch.log_softmax(teacher_row / temperature, dim=-1)
    log_p = torch.log_softmax(row / temperature, dim=-1)
    total = 0.0
    for log_q_k, log_p_k in zip(log_q, log_p, strict=True):
        q_k = log_q_k.exp()
        if q_k > 0:  # 0 log 0 = 0
            total = total + q_k * (log_q_k - log_p_k)
    return total


def _ramp(epoch, rampup_epochs):
    """Ramp-up factor of the consistency weight at a 0-based epoch."""
    if epoch < rampup_epochs:
        return math.exp(-5.0 * (1.0 - epoch / rampup_epochs) ** 2)
    return 1.0


def _update(model, loss, optimizer, scheduler, max_grad_norm):
    """One optimizer step on `loss`; returns the loss as a float."""
    loss.backward()
    if max_grad_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    if scheduler is not None:
        scheduler.step()
    model.zero_grad()
    return loss.item()


def train_temporal_ensemble(
    model, epochs, optimizer, scheduler, *, prediction_decay, consistency_weight, rampup_epochs, divergence,
    max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` by temporal ensembling (arXiv 1610.02242), with a sparse table of predictions.

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        prediction_decay: Decay of the accumulated predictions, once per epoch an example was seen in.
        consistency_weight: Weight of the consistency term when fully ramped up; zero leaves it out.
        rampup_epochs: Epochs over which the weight ramps up; 0 for none.
        divergence: "student_teacher", "teacher_student" or "mse".
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, targets)`, where targets is example id -> target distribution for the next epoch.
    """
    accumulated, targets = {}, {}  # Z and Z / sum(Z)
    for epoch, batches in enumerate(epochs):
        losses = []
        drawn = {}  # example id -> list of softmax rows produced in this epoch
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            loss = _cross_entropy_sum(logits, labels) / size
            if consistency_weight != 0 and epoch >= 1:
                weight = consistency_weight * _ramp(epoch, rampup_epochs)
                for index, row in zip(indices, logits, strict=True):
                    if index in targets:  # an example without a target contributes 0
                        log_p = torch.log_softmax(row, dim=-1)
                        loss = loss + weight * _divergence(log_p, targets[index].log(), divergence) / size

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))

            for index, row in zip(indices, logits, strict=True):  # the forward made before the update
                drawn.setdefault(index, []).append(torch.softmax(row.detach(), dim=-1))

        if consistency_weight != 0:
            for index, rows in drawn.items():  # examples not drawn keep what they had
                mean_row = sum(rows) / len(rows)
                before = accumulated.get(index, torch.zeros_like(mean_row))
                accumulated[index] = prediction_decay * before + (1 - prediction_decay) * mean_row
                targets[index] = accumulated[index] / accumulated[index].sum()
        yield epoch, losses, {index: row.clone() for index, row in targets.items()}


def train_mean_teacher(
    model, epochs, optimizer, scheduler, *, ema_decay, consistency_weight, rampup_epochs, divergence,
    max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` by mean teacher (arXiv 1703.01780), both networks in train mode.

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        ema_decay: Upper bound on the decay of the averaged parameters; after the t-th step it is at most
            1 - 1 / (t + 1).
        consistency_weight: Weight of the consistency term when fully ramped up; zero leaves it out.
        rampup_epochs: Epochs over which the weight ramps up; 0 for none.
        divergence: "student_teacher", "teacher_student" or "mse".
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, teacher_parameters)`, the last name -> copy of the teacher's parameter ({} when the
        consistency weight is zero, as there is no teacher).
    """
    teacher = copy.deepcopy(model) if consistency_weight != 0 else None
    steps_done = 0
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            loss = _cross_entropy_sum(logits, labels) / size
            if teacher is not None:
                teacher.train()
                with torch.no_grad():
                    teacher_logits = teacher(**inputs).logits
                weight = consistency_weight * _ramp(epoch, rampup_epochs)
                for row, teacher_row in zip(logits, teacher_logits, strict=True):
                    log_p, log_q = torch.log_softmax(row, dim=-1), torch.log_softmax(teacher_row, dim=-1)
                    loss = loss + weight * _divergence(log_p, log_q, divergence) / size

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
            steps_done += 1

            if teacher is not None:
                decay = min(1.0 - 1.0 / (steps_done + 1), ema_decay)
                student_parameters = dict(model.named_parameters())
                with torch.no_grad():  # buffers are not averaged
                    for name, parameter in teacher.named_parameters():
                        parameter.copy_(decay * parameter + (1.0 - decay) * student_parameters[name])

        teacher_parameters = {}
        if teacher is not None:
            for name, parameter in teacher.named_parameters():
                teacher_parameters[name] = parameter.detach().clone()
        yield epoch, losses, teacher_parameters


def _cycle(step, cycle_steps, total_steps):
    """Start and length of the cycle the 0-based step is in; the last cycle may be shorter than the others."""
    start = 0
    while start + cycle_steps <= step:
        start += cycle_steps
    return start, min(cycle_steps, total_steps - start)


def cyclic_factor(step, cycle_steps, total_steps):
    """Factor on the base learning rate of a cosine that restarts every `cycle_steps` steps.

    Args:
        step: 0-based step.
        cycle_steps: Steps in a full cycle.
        total_steps: Steps in the whole training.

    Returns:
        A float in (0, 1]: 1 at the first step of every cycle.
    """
    start, length = _cycle(step, cycle_steps, total_steps)
    return 0.5 * (1.0 + math.cos(math.pi * (step - start) / length))


def train_snapshot_ensemble(
    model, epochs, optimizer, scheduler, *, cycle_epochs, snapshots, max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` on the cross-entropy with a cyclic learning rate, keeping snapshots (arXiv 1704.00109).

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch, all of the same length.
        optimizer: Optimizer whose learning rates at the start are the base of the cosine.
        scheduler: Ignored; pass None.
        cycle_epochs: Epochs in a cycle; the last cycle may be shorter.
        snapshots: List that a copy of the model is appended to after the last step of each cycle, the final
            one included.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, {})` after each epoch.
    """
    base_rates = [group["lr"] for group in optimizer.param_groups]
    cycle_steps, total_steps = cycle_epochs * len(epochs[0]), len(epochs) * len(epochs[0])
    step = 0
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            for group, base_rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = base_rate * cyclic_factor(step, cycle_steps, total_steps)

            model.train()
            loss = _cross_entropy_sum(model(**inputs).logits, labels) / len(indices)
            losses.append(_update(model, loss, optimizer, None, max_grad_norm))

            start, length = _cycle(step, cycle_steps, total_steps)
            if step == start + length - 1:
                snapshots.append(copy.deepcopy(model))
            step += 1
        yield epoch, losses, {}


def ensemble_probabilities(snapshots, model, inputs):
    """Mean of the softmax outputs of all the snapshots given and of the model, in eval mode.

    Args:
        snapshots: List of models.
        model: One more member. Where the list holds a copy of its present state, that counts twice.
        inputs: The inputs of one mini-batch, without labels.

    Returns:
        Tensor of shape (batch, num_labels) without gradient. Each member is put back in the mode it was in.
    """
    members = [*snapshots, model]
    total = 0.0
    for member in members:
        was_training = member.training
        member.eval()
        with torch.no_grad():
            total = total + torch.softmax(member(**inputs).logits, dim=-1)
        member.train(was_training)
    return total / len(members)


def train_snapshot_distillation(
    model, epochs, optimizer, scheduler, *, cycle_epochs, temperature, lambda_student, lambda_teacher, cyclic=True,
    max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` by snapshot distillation (arXiv 1812.00123): each cycle learns from the end of the one before.

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch, all of the same length.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None; ignored when `cyclic`.
        cycle_epochs: Epochs in a cycle; the last cycle may be shorter.
        temperature: Divides the teacher's logits only; the term is not multiplied by its square.
        lambda_student: Weight of the cross-entropy from the second cycle on.
        lambda_teacher: Weight of the distillation term; zero leaves it out.
        cyclic: Whether the learning rate follows `cyclic_factor` rather than `scheduler`.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, {})` after each epoch.
    """
    base_rates = [group["lr"] for group in optimizer.param_groups]
    cycle_steps, total_steps = cycle_epochs * len(epochs[0]), len(epochs) * len(epochs[0])
    teacher = None
    step = 0
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            if cyclic:
                for group, base_rate in zip(optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = base_rate * cyclic_factor(step, cycle_steps, total_steps)

            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            loss = _cross_entropy_sum(logits, labels) / size
            if step >= cycle_steps:  # from the second cycle on
                loss = lambda_student * loss
                if lambda_teacher != 0:
                    with torch.no_grad():
                        teacher_logits = teacher(**inputs).logits
                    for row, teacher_row in zip(logits, teacher_logits, strict=True):
                        log_p = torch.log_softmax(row, dim=-1)
                        q = torch.softmax(teacher_row / temperature, dim=-1)
                        for log_p_k, q_k in zip(log_p, q, strict=True):
                            loss = loss - lambda_teacher * q_k * log_p_k / size

            losses.append(_update(model, loss, optimizer, None if cyclic else scheduler, max_grad_norm))

            start, length = _cycle(step, cycle_steps, total_steps)
            if step == start + length - 1 and lambda_teacher != 0:
                teacher = copy.deepcopy(model)
                teacher.eval()
            step += 1
        yield epoch, losses, {}


def train_lstsd_single(
    model, epochs, optimizer, scheduler, *, all_inputs, mini_generation_epochs, lambda_short, lambda_long,
    max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` by LSTSD with teachers from a separate pass over all examples in eval mode after each epoch.

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        all_inputs: Example id -> the inputs of a mini-batch of that example alone.
        mini_generation_epochs: Epochs in a mini-generation (E in the paper).
        lambda_short: Weight of the short-term term; zero leaves it out, with its table.
        lambda_long: Weight of the long-term term; zero leaves it out, with its table.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, (short, long))`, the last two example id -> logits. The pass after an epoch is made only
        if a table of non-zero weight takes its logits.
    """
    short, long = {}, {}
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            loss = _cross_entropy_sum(logits, labels) / size
            if epoch >= mini_generation_epochs:
                for weight, teachers in ((lambda_long, long), (lambda_short, short)):
                    if weight == 0:
                        continue
                    for index, row in zip(indices, logits, strict=True):
                        log_p, log_q = torch.log_softmax(row, dim=-1), torch.log_softmax(teachers[index], dim=-1)
                        loss = loss + weight * _divergence(log_p, log_q, "student_teacher") / size

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))

        keep_short = lambda_short != 0
        keep_long = lambda_long != 0 and (epoch + 1) % mini_generation_epochs == 0
        if keep_short or keep_long:
            model.eval()
            for index, inputs in all_inputs.items():
                with torch.no_grad():
                    row = model(**inputs).logits[0]
                if keep_short:
                    short[index] = row.clone()
                if keep_long:
                    long[index] = row.clone()
            model.train()
        yield (
            epoch,
            losses,
            (
                {index: row.clone() for index, row in short.items()},
                {index: row.clone() for index, row in long.items()},
            ),
        )


def train_dlb(
    model, epochs, optimizer, scheduler, *, alpha, temperature, carry_over_epochs, max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` by self-distillation from the last mini-batch (arXiv 2203.16172), in its official form.

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        alpha: Weight of the distillation term; zero means plain cross-entropy on the new mini-batch, without a
            second forward.
        temperature: Divides student and teacher logits in the distillation term, which is multiplied by its square.
        carry_over_epochs: Whether an epoch's first step still has the last mini-batch of the epoch before.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, {})` after each epoch.
    """
    previous = None  # (inputs, labels, logits given before the update) of the step before
    for epoch, batches in enumerate(epochs):
        losses = []
        if not carry_over_epochs:
            previous = None
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            if previous is None or alpha == 0:
                loss = _cross_entropy_sum(logits, labels) / size
            else:
                previous_inputs, previous_labels, previous_logits = previous
                previous_size = len(previous_labels)
                logits_again = model(**previous_inputs).logits  # with gradient
                loss = _cross_entropy_sum(logits, labels) + _cross_entropy_sum(logits_again, previous_labels)
                loss = loss / (size + previous_size)
                for row, teacher_row in zip(logits_again, previous_logits, strict=True):
                    log_p = torch.log_softmax(row / temperature, dim=-1)
                    log_q = torch.log_softmax(teacher_row / temperature, dim=-1)
                    kl = _divergence(log_p, log_q, "teacher_student")
                    loss = loss + alpha * temperature**2 * kl / previous_size

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
            previous = (inputs, labels, logits.detach().clone())  # the forward made before the update
        yield epoch, losses, {}


def train_label_smoothing(
    model, epochs, optimizer, scheduler, *, smoothing, max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` on the cross-entropy with uniformly smoothed labels.

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        smoothing: Probability mass spread over all classes, the label's included.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, {})` after each epoch.
    """
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            loss = 0.0
            for row, label in zip(logits, labels.tolist(), strict=True):
                log_p = torch.log_softmax(row, dim=-1)
                for k in range(len(row)):
                    target_k = (1 - smoothing) * (1.0 if k == label else 0.0) + smoothing / len(row)
                    loss = loss - target_k * log_p[k] / size

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
        yield epoch, losses, {}


def train_r_drop(model, epochs, optimizer, scheduler, *, alpha, official_bert, max_grad_norm=1.0):
    """Trains `model` by R-Drop (arXiv 2106.14448): two forwards of each mini-batch, which differ by their dropout.

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        alpha: Weight of the symmetric divergence; zero means plain cross-entropy, without a second forward.
        official_bert: Whole instead of half cross-entropies, and divergences summed over the mini-batch.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, {})` after each epoch.
    """
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            model.train()
            size = len(indices)
            first = model(**inputs).logits
            loss = _cross_entropy_sum(first, labels) / size
            if alpha:
                second = model(**inputs).logits
                loss = loss + _cross_entropy_sum(second, labels) / size
                if not official_bert:
                    loss = loss / 2
                for row, other in zip(first, second, strict=True):
                    log_p, log_q = torch.log_softmax(row, dim=-1), torch.log_softmax(other, dim=-1)
                    both = _divergence(log_p, log_q, "student_teacher") + _divergence(log_q, log_p, "student_teacher")
                    loss = loss + alpha / 2 * both / (1 if official_bert else size)
            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
        yield epoch, losses, {}


def _one_hot(label, row):
    """Distribution over the classes of `row`, all of it on `label`."""
    target = torch.zeros_like(row)
    target[label] = 1.0
    return target


def _soft_cross_entropy(target, log_p):
    """-sum over classes of target log p, for one row."""
    total = 0.0
    for target_k, log_p_k in zip(target, log_p, strict=True):
        total = total - target_k * log_p_k
    return total


def train_ps_kd(model, epochs, optimizer, scheduler, *, alpha, max_grad_norm=1.0):
    """Trains `model` by progressive self-knowledge distillation (arXiv 2006.12000).

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch; how many there are sets the slope of the weight.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        alpha: Weight, in the last epoch, of the softmax of the logits an example had at its appearance before; it
            grows linearly from alpha / (number of epochs) in the first epoch. Zero leaves it out, with its table.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, targets)`, where targets is example id -> stored logits for the next epoch.
    """
    stored = {}  # P, as logits
    for epoch, batches in enumerate(epochs):
        losses = []
        drawn = {}  # example id -> logits produced in this epoch
        alpha_t = alpha * (epoch + 1) / len(epochs)
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            if alpha == 0:
                loss = _cross_entropy_sum(logits, labels) / size
            else:
                loss = 0.0
                for index, row, label in zip(indices, logits, labels.tolist(), strict=True):
                    target = _one_hot(label, row)
                    if index in stored:
                        target = (1 - alpha_t) * target + alpha_t * torch.softmax(stored[index], dim=-1)
                    loss = loss + _soft_cross_entropy(target, torch.log_softmax(row, dim=-1)) / size
                for index, row in zip(indices, logits, strict=True):
                    drawn[index] = row.detach().clone()  # the forward made before the update

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))

        for index, row in drawn.items():  # examples not drawn keep what they had
            stored[index] = row
        yield epoch, losses, {index: row.clone() for index, row in stored.items()}


def train_elr(model, epochs, optimizer, scheduler, *, beta, weight, max_grad_norm=1.0):
    """Trains `model` by early-learning regularization (arXiv 2007.00151).

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        beta: Decay of an example's target, which starts at zeros and is moved in the step before its use.
        weight: Weight of the mean of log(1 - <target, p>), lambda in the paper; zero leaves it out, with its table.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, targets)`, where targets is example id -> target, for the examples drawn so far.
    """
    table = {}  # t
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            loss = _cross_entropy_sum(logits, labels) / size
            if weight != 0:
                for index, row in zip(indices, logits, strict=True):
                    p = torch.clamp(torch.softmax(row, dim=-1), 1e-4, 1 - 1e-4)
                    fixed = p.detach()
                    before = table.get(index, torch.zeros_like(fixed))
                    table[index] = beta * before + (1 - beta) * fixed / fixed.sum()
                    inner = 0.0
                    for t_k, p_k in zip(table[index], p, strict=True):
                        inner = inner + t_k * p_k  # the gradient goes through p only
                    loss = loss + weight * torch.log(1 - inner) / size

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
        yield epoch, losses, {index: row.clone() for index, row in table.items()}


def train_sat(model, epochs, optimizer, scheduler, *, momentum, warmup_epochs, max_grad_norm=1.0):
    """Trains `model` by self-adaptive training (arXiv 2002.10319).

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        momentum: Decay of an example's target, which starts as its one-hot label and is moved in the step before
            its use; 1 would keep it there, and leaves the targets out, with their table.
        warmup_epochs: Epochs of plain cross-entropy at the start, in which no target moves.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, targets)`, where targets is example id -> target, for the examples drawn so far after the
        warm-up; the others' are still their one-hot labels.
    """
    table = {}  # t, where it has left the label
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            if momentum == 1 or epoch < warmup_epochs:
                loss = _cross_entropy_sum(logits, labels) / size
            else:
                weighted_sum, weight_sum = 0.0, 0.0
                for index, row, label in zip(indices, logits, labels.tolist(), strict=True):
                    before = table[index] if index in table else _one_hot(label, row)
                    table[index] = momentum * before + (1 - momentum) * torch.softmax(row.detach(), dim=-1)
                    weight = max(table[index].tolist())
                    cross_entropy = _soft_cross_entropy(table[index], torch.log_softmax(row, dim=-1))
                    weighted_sum = weighted_sum + weight * cross_entropy
                    weight_sum = weight_sum + weight
                loss = weighted_sum / weight_sum

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
        yield epoch, losses, {index: row.clone() for index, row in table.items()}


def train_kd(
    model, epochs, optimizer, scheduler, *, teacher_logits, weight, temperature, max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` by knowledge distillation (arXiv 1503.02531) from a fixed table of a teacher's logits.

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        teacher_logits: Example id -> the teacher's logits. An example it lacks has its cross-entropy alone, whole.
        weight: Weight of the distillation term, that of the cross-entropy being 1 - weight; zero leaves it out.
        temperature: Divides student and teacher logits in the distillation term, which is multiplied by its square.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, {})` after each epoch.
    """
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            if weight == 0:
                loss = _cross_entropy_sum(logits, labels) / size
            else:
                loss = 0.0
                for index, row, label in zip(indices, logits, labels.tolist(), strict=True):
                    cross_entropy = -torch.log_softmax(row, dim=-1)[label]
                    if index in teacher_logits:
                        kl = _tempered_divergence(teacher_logits[index].detach(), row, temperature)
                        loss = loss + ((1 - weight) * cross_entropy + weight * temperature**2 * kl) / size
                    else:
                        loss = loss + cross_entropy / size

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
        yield epoch, losses, {}


def train_dlb_overlap(model, epochs, optimizer, scheduler, *, alpha, temperature, max_grad_norm=1.0):
    """Trains `model` by self-distillation from the last mini-batch (arXiv 2203.16172), with overlapping mini-batches.

    Unlike `train_dlb` it makes one forward per step: the examples the new mini-batch shares with the one before are
    among its own rows.

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch, the second half of each being the first half of the next. A row
            counts as shared if its id was anywhere in the mini-batch just before.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        alpha: Weight of the distillation term, averaged over the shared rows; zero leaves it out.
        temperature: Divides student and teacher logits in the distillation term, which is multiplied by its square.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, {})` after each epoch.
    """
    for epoch, batches in enumerate(epochs):
        losses = []
        previous = {}  # example id -> logits given before the update of the step before; none at an epoch's start
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            loss = _cross_entropy_sum(logits, labels) / size
            if alpha != 0:
                kl_sum, shared = 0.0, 0
                for index, row in zip(indices, logits, strict=True):
                    if index in previous:
                        kl_sum = kl_sum + _tempered_divergence(previous[index], row, temperature)
                        shared += 1
                if shared > 0:
                    loss = loss + alpha * temperature**2 * kl_sum / shared
                previous = {}  # only the mini-batch just before is remembered
                for index, row in zip(indices, logits, strict=True):
                    previous[index] = row.detach().clone()

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
        yield epoch, losses, {}


def train_self_regulated(
    model, epochs, optimizer, scheduler, *, threshold, ungated_epochs, max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` on the examples it is not yet sure of, the gating of arXiv 2102.07125's teacher.

    Args:
        model: See the module's docstring, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        threshold: A row takes part if its prediction is wrong or its label's probability is below this, both by
            the forward of the step itself, in train mode.
        ungated_epochs: Epochs at the start in which every row takes part.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, participations)`, the last example id -> how many times it has taken part so far (an int,
        0 for an example that was drawn but never took part).
    """
    participations = {}  # s
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits

            cross_entropies = []  # of the rows that take part
            for index, row, label in zip(indices, logits, labels.tolist(), strict=True):
                p = torch.softmax(row.detach(), dim=-1)
                takes_part = epoch < ungated_epochs or p.argmax().item() != label or bool(p[label] < threshold)
                participations[index] = participations.get(index, 0) + (1 if takes_part else 0)
                if takes_part:
                    cross_entropies.append(-torch.log_softmax(row, dim=-1)[label])
            if cross_entropies:
                loss = sum(cross_entropies) / len(cross_entropies)
            else:  # a loss of 0 whose gradients are zeros: the optimizer steps all the same
                loss = sum((0.0 * parameter).sum() for parameter in model.parameters())

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
        yield epoch, losses, dict(participations)


def _significance(count, counts, max_significance):
    """How often one example took part, relative to the mean of the list `counts`, at most `max_significance`."""
    return min(max_significance, count / (sum(counts) / len(counts)))


def _mean_or_zero(terms, model):
    """Mean of a list of losses; for an empty list a loss of 0 whose gradients are zeros."""
    if terms:
        return sum(terms) / len(terms)
    return sum((0.0 * parameter).sum() for parameter in model.parameters())


def train_self_regulated_student(
    model, epochs, optimizer, scheduler, *, teacher_logits, participations, mode, threshold, ungated_epochs, weight,
    temperature, max_significance, max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` by distillation from a self-regulated teacher, the student of arXiv 2102.07125.

    Args:
        model: See the docstring of `tests.methods.oracles`, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        teacher_logits: Example id -> the fixed teacher's logits, for every example.
        participations: Example id -> how many times it took part in the teacher's training, for every example.
        mode: "significance" (every row takes part, with its weight), "regulated" (the rows the gate lets through, all
            of weight 1) or "hybrid" (the rows the gate lets through, with their weights).
        threshold: The gate lets a row through if its prediction is wrong or its label's probability is below this,
            both by the forward of the step itself, in train mode.
        ungated_epochs: Epochs at the start in which the gate lets every row through.
        weight: Weight of the distillation term, that of the cross-entropy being 1 - weight; zero leaves it out.
        temperature: Divides student and teacher logits in the distillation term, which is multiplied by its square.
        max_significance: Upper bound on an example's weight, its participations divided by their mean over all
            examples.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, own_participations)`, the last example id -> how many times it has taken part in the
        student's training so far (an int, 0 for an example that was drawn but never took part).
    """
    if mode not in ("significance", "regulated", "hybrid"):
        raise ValueError(f"unknown mode {mode!r}")
    own_participations = {}
    for epoch, batches in enumerate(epochs):
        losses = []
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits

            terms = []  # w K or K, of the rows that take part
            for index, row, label in zip(indices, logits, labels.tolist(), strict=True):
                p = torch.softmax(row.detach(), dim=-1)
                gate = epoch < ungated_epochs or p.argmax().item() != label or bool(p[label] < threshold)
                takes_part = mode == "significance" or gate
                own_participations[index] = own_participations.get(index, 0) + (1 if takes_part else 0)
                if takes_part:
                    term = (1 - weight) * -torch.log_softmax(row, dim=-1)[label]
                    if weight != 0:
                        kl = _tempered_divergence(teacher_logits[index].detach(), row, temperature)
                        term = term + weight * temperature**2 * kl
                    if mode != "regulated":
                        counts = list(participations.values())
                        term = _significance(participations[index], counts, max_significance) * term
                    terms.append(term)
            loss = _mean_or_zero(terms, model)  # the optimizer steps all the same when nobody takes part

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
        yield epoch, losses, dict(own_participations)


def train_regulated_lstsd(
    model, epochs, optimizer, scheduler, *, mini_generation_epochs, lambda_short, lambda_long, mode, threshold,
    max_significance, max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` by long short-term self-distillation, on the examples it was not yet sure of.

    Args:
        model: See the docstring of `tests.methods.oracles`, as for the arguments not listed here. It has no batch
            norm: rows that do not take part do not change the logits of the others.
        epochs: One list of mini-batches per epoch. The ids of the first epoch are all the examples there are.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        mini_generation_epochs: Epochs in a mini-generation. The divergences start with the second one.
        lambda_short: Weight of the divergence from the short-term teacher; zero leaves the term out, but its table
            is kept, as the gate reads it.
        lambda_long: Weight of the divergence from the long-term teacher; zero leaves the term out.
        mode: "significance" (every row takes part, with its weight), "regulated" (the rows the gate lets through,
            all of weight 1) or "hybrid" (the rows the gate lets through, with their weights). The weight is on the
            divergences only, and counts how often the gate has let an example through or, in "significance", would
            have.
        threshold: Outside of the first epoch and the last epochs of the mini-generations, the gate stops an example
            whose short-term logits predict its label with at least this probability.
        max_significance: Upper bound on an example's weight, its participations in the epochs before divided by
            their mean over all examples.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, (short, long))`, each of the two example id -> stored logits for the next epoch.
    """
    if mode not in ("significance", "regulated", "hybrid"):
        raise ValueError(f"unknown mode {mode!r}")
    short, long = {}, {}
    participations = {}  # s, by the epochs before the current one
    for indices, _, _ in epochs[0]:
        for index in indices:
            participations[index] = 0
    for epoch, batches in enumerate(epochs):
        losses = []
        collected = {}  # example id -> logits of the rows that took part in this epoch
        counted = []  # example ids that needed training, as far as the gate knows
        is_last_of_generation = epoch % mini_generation_epochs == mini_generation_epochs - 1
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits

            terms = []  # of the rows that take part
            for index, row, label in zip(indices, logits, labels.tolist(), strict=True):
                needs_training = True
                if epoch != 0 and not is_last_of_generation and index in short:
                    q = torch.softmax(short[index], dim=-1)
                    needs_training = not (q.argmax().item() == label and bool(q[label] >= threshold))
                if needs_training:
                    counted.append(index)
                elif mode != "significance":
                    continue

                term = _cross_entropy_sum([row], labels.new_tensor([label]))
                if epoch >= mini_generation_epochs:
                    significance = 1.0
                    if mode != "regulated":
                        counts = list(participations.values())
                        significance = _significance(participations[index], counts, max_significance)
                    log_p = torch.log_softmax(row, dim=-1)
                    if lambda_short != 0 and index in short:  # an example without an entry contributes 0
                        log_q = torch.log_softmax(short[index], dim=-1)
                        term = term + significance * lambda_short * _divergence(log_p, log_q, "student_teacher")
                    if lambda_long != 0 and index in long:
                        log_q = torch.log_softmax(long[index], dim=-1)
                        term = term + significance * lambda_long * _divergence(log_p, log_q, "student_teacher")
                terms.append(term)
                collected[index] = row.detach().clone()  # the forward made before the update
            loss = _mean_or_zero(terms, model)  # the optimizer steps all the same when nobody takes part

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))

        for index, row in collected.items():  # examples that did not take part keep what they had
            short[index] = row
            if is_last_of_generation:
                long[index] = row
        for index in counted:
            participations[index] += 1
        short_copy = {index: row.clone() for index, row in short.items()}
        long_copy = {index: row.clone() for index, row in long.items()}
        yield epoch, losses, (short_copy, long_copy)


def _convolution(x, weight, bias):
    """1-D convolution of one example x (channels, length), zero-padded by half the kernel; keeps the length."""
    length, taps = x.shape[1], weight.shape[2]
    columns = []
    for position in range(length):
        column = bias
        for tap in range(taps):
            source = position + tap - taps // 2
            if 0 <= source < length:  # outside there are zeros
                column = column + weight[:, :, tap] @ x[:, source]
        columns.append(column)
    return torch.stack(columns, dim=1)


def _cell_step(x, hidden, cell, weight, bias):
    """One step of a convolutional LSTM cell on x (1, length); returns the new hidden and cell, both (h, length)."""
    h = hidden.shape[0]
    gates = _convolution(torch.cat([x, hidden], dim=0), weight, bias)
    entry, forget, output, candidate = gates[:h], gates[h : 2 * h], gates[2 * h : 3 * h], gates[3 * h :]
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(entry) * torch.tanh(candidate)
    return torch.sigmoid(output) * torch.tanh(cell), cell


def _predict(sequence, weights):
    """The map that a convolutional LSTM expects after `sequence`, a list of maps of shape (length,)."""
    h, length = weights["readout.weight"].shape[1], len(sequence[0])
    hidden = sequence[0].new_zeros(h, length)
    cell = sequence[0].new_zeros(h, length)
    for x in sequence:
        gates = (weights["encoder.gates.weight"], weights["encoder.gates.bias"])
        hidden, cell = _cell_step(x.reshape(1, length), hidden, cell, *gates)
    gates = (weights["forecaster.gates.weight"], weights["forecaster.gates.bias"])
    hidden, cell = _cell_step(sequence[0].new_zeros(1, length), hidden, cell, *gates)
    return _convolution(hidden, weights["readout.weight"], weights["readout.bias"])[0]


def _energy_map(states, mask):
    """Energy map of one example: states (length, hidden), mask a list of one 0 or 1 per position."""
    energies = []
    for state, is_token in zip(states, mask, strict=True):
        energy = (state * state).sum() / len(state)
        energies.append(energy if is_token else torch.zeros_like(energy))
    norm = torch.sqrt(sum(energy * energy for energy in energies))
    return torch.stack(energies) / torch.clamp(norm, min=1e-12)


def _three_layers(hidden_states):
    """The three of a model's hidden states whose maps are used, by its own number of layers."""
    n = len(hidden_states) - 1
    return [hidden_states[0], hidden_states[n // 3], hidden_states[2 * n // 3]]


def _temporal_term(layers, memory_layers, teacher_layers, predictors, example, mask):
    """Temporal term of the example at a place in the mini-batch.

    Args:
        layers: The student's three hidden states of the mini-batch, with gradient.
        memory_layers: Three such lists, of memories 1, 2 and 3.
        teacher_layers: Such a list of the teacher's, or None.
        predictors: List of three dicts of weights, one per layer.
        example: Place of the example in the mini-batch.
        mask: List of one 0 or 1 per position, of this example.

    Returns:
        A scalar tensor: the mean squared error over the example's tokens, summed over the three layers.
    """
    total = 0.0
    for k in range(3):
        a_1, a_2, a_3 = (_energy_map(memory[k][example], mask) for memory in memory_layers)
        a_c = _energy_map(layers[k][example], mask)
        sequence = [(a_1 - a_2).abs(), (a_2 - a_3).abs()]
        if teacher_layers is not None:
            sequence.append((a_c - a_3).abs())
            target = (a_c - _energy_map(teacher_layers[k][example], mask)).abs()
        else:
            target = (a_c - a_3).abs()
        tokens = [place for place, is_token in enumerate(mask) if is_token]  # padding is not there at all
        prediction = _predict([increment[tokens] for increment in sequence], predictors[k])

        squares = []
        for prediction_l, target_l in zip(prediction, target[tokens], strict=True):
            squares.append((prediction_l - target_l) ** 2)  # the gradient goes through both
        total = total + sum(squares) / len(squares)
    return total


def train_tskd(
    model, epochs, optimizer, scheduler, *, teacher, predictors, interval_epochs, distillation_weight, temperature,
    review_weight, max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` by temporal-supervised distillation: it reviews, with a teacher or without, how its maps moved.

    Args:
        model: See the docstring of `tests.methods.oracles`, as for the arguments not listed here. It gives its
            hidden states when called with `output_hidden_states=True`.
        epochs: One list of mini-batches per epoch.
        optimizer: Optimizer over the model's parameters and the predictors' weights.
        scheduler: Learning rate scheduler or None.
        teacher: Such a model in eval mode, which is never trained, or None.
        predictors: List of three dicts of weights, of one convolutional LSTM per layer used.
        interval_epochs: Epochs from one point to the next. The points are, in turn, three epochs after which the
            model is remembered and one epoch of review.
        distillation_weight: Weight of the divergence from the teacher; zero leaves it out.
        temperature: Divides student and teacher logits in the distillation term, which is multiplied by its square.
        review_weight: Weight of the temporal term in the epochs of review; zero leaves it out, with its memories.
        max_grad_norm: Gradient clipping norm of the model's parameters; None or 0 for none.

    Yields:
        `(epoch, losses, memories)`, the last a list of copies of the state dicts remembered, at most three.
    """
    memories = []
    for epoch, batches in enumerate(epochs):
        losses = []
        slot = None  # between the points
        if review_weight != 0 and epoch % interval_epochs == 0:
            slot = (epoch // interval_epochs) % 4
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits
            size = len(indices)

            loss = _cross_entropy_sum(logits, labels) / size
            teacher_outputs = None
            if teacher is not None and (distillation_weight != 0 or slot == 3):
                with torch.no_grad():
                    teacher_outputs = teacher(**inputs, output_hidden_states=True)
            if teacher is not None and distillation_weight != 0:
                for row, teacher_row in zip(logits, teacher_outputs.logits, strict=True):
                    kl = _tempered_divergence(teacher_row, row, temperature)
                    loss = loss + distillation_weight * temperature**2 * kl / size

            if slot == 3:
                layers = _three_layers(model(**inputs, output_hidden_states=True).hidden_states)  # with gradient
                memory_layers = []
                for memory in memories:
                    with torch.no_grad():
                        memory_layers.append(_three_layers(memory(**inputs, output_hidden_states=True).hidden_states))
                teacher_layers = None if teacher is None else _three_layers(teacher_outputs.hidden_states)
                masks = inputs.get("attention_mask")
                if masks is None:
                    masks = torch.ones_like(inputs["input_ids"])
                for example, mask in enumerate(masks.tolist()):
                    term = _temporal_term(layers, memory_layers, teacher_layers, predictors, example, mask)
                    loss = loss + review_weight * term / size

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))
            for weights in predictors:
                for weight in weights.values():
                    weight.grad = None

        if slot in (0, 1, 2):
            if slot == 0:  # a new group of four
                memories = []
            memory = copy.deepcopy(model)
            memory.eval()
            memories.append(memory)
        states = []
        for memory in memories:
            states.append({name: tensor.clone() for name, tensor in memory.state_dict().items()})
        yield epoch, losses, states


def _doubted(teacher, labels):
    """Ids whose teacher predicts another class than the label, at least as surely as that class's examples are.

    Args:
        teacher: Example id -> logits or log-probabilities, for every example.
        labels: Example id -> label, for every example.

    Returns:
        Dict of example id -> the class predicted, for the doubted examples alone.
    """
    own = {}  # class -> probabilities of that class over the examples labelled with it
    for index, row in teacher.items():
        label = labels[index]
        own.setdefault(label, []).append(torch.softmax(row, dim=-1)[label])
    thresholds = {label: sum(probabilities) / len(probabilities) for label, probabilities in own.items()}

    corrections = {}
    for index, row in teacher.items():
        z = torch.softmax(row, dim=-1)
        predicted = z.argmax().item()
        if predicted == labels[index] or predicted not in thresholds:  # a class without examples corrects nothing
            continue
        if bool(z[predicted] >= thresholds[predicted]):
            corrections[index] = predicted
    return corrections


def train_anchored(
    model, epochs, optimizer, scheduler, *, held_out, patience, mixing, rule, pull, momentum, max_grad_norm=1.0,
):  # fmt: skip
    """Trains `model` without the held-out examples until their loss stops falling, then on all, near that epoch.

    Args:
        model: See the docstring of `tests.methods.oracles`, as for the arguments not listed here.
        epochs: One list of mini-batches per epoch. Every example occurs exactly once in each.
        optimizer: Optimizer over the model's parameters.
        scheduler: Learning rate scheduler or None.
        held_out: Set of the example ids kept out of the loss until the run is anchored.
        patience: Epochs without a new smallest held-out loss after which the run is anchored.
        mixing: Weight of the divergence from the teacher, that of the cross-entropy being 1 - mixing.
        rule: What is different for the doubted examples: "constant" (nothing), "flip" (the class the teacher predicts
            is their label) or "cl" (they have the divergence alone, whole).
        pull: Weight, until the run is anchored, of the divergence from the logits of the epoch before; zero leaves
            it out.
        momentum: Share, from 0 to 1, of its old probabilities that the teacher keeps at the end of each epoch trained
            with it; the rest are those the model gave in that epoch. The teacher starts as the anchor, and with 1 it
            stays there. Which examples are doubted is found anew whenever it has moved.
        max_grad_norm: Gradient clipping norm; None or 0 for none.

    Yields:
        `(epoch, losses, info)`, where info has "anchor_epoch" (the 0-based epoch whose logits are the anchor, None
        as long as there is none), "held_out_loss" (the mean at the end of the epoch; None for the first one and for
        those trained with an anchor), "doubted" (sorted list of ids) and "teacher" (example id -> probabilities). The
        last two are those that the next epoch uses, None as long as there is no anchor.
    """
    if rule not in ("constant", "flip", "cl"):
        raise ValueError(f"unknown rule {rule!r}")
    latest, labels_seen = {}, {}
    best, best_epoch = None, None
    held_out_losses = []  # L, of the second epoch and those after it
    teacher, corrections = None, None  # logits or log-probabilities of z, and doubted id -> predicted class
    for epoch, batches in enumerate(epochs):
        losses = []
        collected = {}  # example id -> logits produced in this epoch
        anchored_before = teacher is not None
        for indices, inputs, labels in batches:
            model.train()
            logits = model(**inputs).logits

            terms = []  # of the rows that count
            for index, row, label in zip(indices, logits, labels.tolist(), strict=True):
                log_p = torch.log_softmax(row, dim=-1)
                if teacher is None:
                    if index in held_out:
                        continue
                    term = _cross_entropy_sum([row], labels.new_tensor([label]))
                    if pull != 0 and index in latest:
                        log_q = torch.log_softmax(latest[index], dim=-1)
                        term = term + pull * _divergence(log_p, log_q, "student_teacher")
                else:
                    a, target = mixing, label
                    if index in corrections and rule == "flip":
                        target = corrections[index]
                    if index in corrections and rule == "cl":
                        a = 1.0
                    log_q = torch.log_softmax(teacher[index], dim=-1)
                    cross_entropy = _cross_entropy_sum([row], labels.new_tensor([target]))
                    term = (1 - a) * cross_entropy + a * _divergence(log_p, log_q, "teacher_student")
                terms.append(term)
            loss = _mean_or_zero(terms, model)  # the optimizer steps all the same when all rows are held out

            losses.append(_update(model, loss, optimizer, scheduler, max_grad_norm))

            for index, row, label in zip(indices, logits, labels.tolist(), strict=True):
                collected[index] = row.detach().clone()  # the forward made before the update
                labels_seen[index] = label

        for index, row in collected.items():
            latest[index] = row

        held_out_loss = None
        if not anchored_before and epoch >= 1:
            total = 0.0
            for index in sorted(held_out):
                total = total - torch.log_softmax(latest[index], dim=-1)[labels_seen[index]]
            held_out_loss = (total / len(held_out)).item()
            if all(held_out_loss < earlier for earlier in held_out_losses):
                best, best_epoch = {index: row.clone() for index, row in latest.items()}, epoch
            elif epoch - best_epoch >= patience:
                teacher = best  # the anchor
                corrections = _doubted(teacher, labels_seen)
            held_out_losses.append(held_out_loss)

        if anchored_before and momentum != 1:  # with 1 it stays, to the last digit
            for index, row in teacher.items():
                old, new = torch.softmax(row, dim=-1), torch.softmax(latest[index], dim=-1)
                teacher[index] = (momentum * old + (1 - momentum) * new).log()
            corrections = _doubted(teacher, labels_seen)

        probabilities = None
        if teacher is not None:
            probabilities = {index: torch.softmax(row, dim=-1) for index, row in teacher.items()}

        info = {
            "anchor_epoch": None if teacher is None else best_epoch,
            "held_out_loss": held_out_loss,
            "doubted": None if teacher is None else sorted(corrections),
            "teacher": probabilities,
        }
        yield epoch, losses, info
