"""Every method against a literal loop that shares no code with the package: losses, targets and weights."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from lstsd_hf import (
    KD,
    METHODS,
    TSKD,
    AnchoredConfig,
    DLBConfig,
    ELRConfig,
    KDConfig,
    LabelSmoothingConfig,
    LSTSDConfig,
    LSTSDNoLongConfig,
    LSTSDNoShortConfig,
    LSTSDSingleConfig,
    LSTSDTrainer,
    MeanTeacherConfig,
    ModelCopy,
    PSKDConfig,
    RDropConfig,
    RegulatedLSTSDConfig,
    SATConfig,
    SelfRegulatedConfig,
    SnapshotDistillationConfig,
    SnapshotEnsembleConfig,
    TeacherOutputs,
    TemporalEnsembleConfig,
    TrainingContext,
    TSKDConfig,
)
from lstsd_hf.losses import kl_student_teacher, teacher_log_probs
from lstsd_hf.reference import train_algorithm_1
from lstsd_hf.schedules import CosineCycles
from tests.helpers import assert_same_weights, make_examples, make_model, weights
from tests.methods import oracles

NUM_EXAMPLES = 14  # batches of 4, the last one of 2
STEPS_PER_EPOCH = 4
LEARNING_RATE = 0.2


class Recording(LSTSDTrainer):
    """Keeps every step's loss, batch and random state, and what each epoch left behind."""

    def __init__(self, **options):
        self.batches, self.rng_states, self.losses, self.epochs = [], [], [], []
        super().__init__(data_collator=self.collate, **options)
        self.add_callback(EpochEnds(self))
        self.model.register_forward_pre_hook(self.before_forward)

    def collate(self, features):
        if self.model.training:  # not the passes over the training set between epochs
            self.batches.append([feature["uid"] for feature in features])
        return {name: torch.tensor([feature[name] for feature in features]) for name in ("input_ids", "labels")}

    def before_forward(self, module, args):
        if module.training:
            self.rng_states.append(torch.get_rng_state())

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        return loss


class EpochEnds(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.trainer.batches.clear()  # what was collated before training

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step and state.global_step % STEPS_PER_EPOCH == 0:
            self.on_train_end(args, state, control)

    def on_train_end(self, args, state, control, **kwargs):
        kept = copy.deepcopy(self.trainer.teacher.state_dict())
        self.trainer.epochs.append((weights(self.trainer.model), kept))


def compare(
    make_args,
    config,
    oracle,
    options,
    *,
    check_targets,
    epochs=5,
    scheduled=True,
    dropout=0.1,
    atol=1e-9,
    others=(),
    change=lambda model: None,
):
    """Trains both and compares; returns the trainer and the reference model.

    `others` are parameters that the reference's optimizer trains too; `change` is done to both models first.
    """
    data = [{**row, "uid": index} for index, row in enumerate(make_examples(NUM_EXAMPLES, num_labels=3))]
    model = make_model(num_labels=3, dropout=dropout).double()
    change(model)
    reference = copy.deepcopy(model)
    trainer = Recording(
        model=model,
        args=make_args(num_train_epochs=epochs, optim="sgd", learning_rate=LEARNING_RATE, remove_unused_columns=False),
        train_dataset=data,
        teacher=config,
    )
    trainer.train()

    steps = [
        (
            uids,
            {"input_ids": torch.tensor([data[uid]["input_ids"] for uid in uids])},
            torch.tensor([data[uid]["labels"] for uid in uids]),
        )
        for uids in trainer.batches[: STEPS_PER_EPOCH * epochs]
    ]
    states = iter(trainer.rng_states)
    if dropout:
        reference.register_forward_pre_hook(
            lambda module, args: torch.set_rng_state(next(states)) if module.training else None
        )
    optimizer = torch.optim.SGD([*reference.parameters(), *others], lr=LEARNING_RATE)
    total = len(steps)
    scheduler = None
    if scheduled:
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, (total - step) / total))
    if oracle is oracles.train_lstsd_single:
        options = {
            **options,
            "all_inputs": {i: {"input_ids": torch.tensor([r["input_ids"]])} for i, r in enumerate(data)},
        }
    results = oracle(
        reference,
        [steps[start : start + STEPS_PER_EPOCH] for start in range(0, total, STEPS_PER_EPOCH)],
        optimizer,
        scheduler,
        **options,
    )
    compared = 0
    for (epoch, losses, targets), (found, state) in zip(results, trainer.epochs, strict=True):
        expected_losses = trainer.losses[epoch * STEPS_PER_EPOCH : (epoch + 1) * STEPS_PER_EPOCH]
        assert losses is None or losses == pytest.approx(expected_losses, abs=atol)
        assert_same_weights(found, weights(reference), atol=atol, rtol=0)
        check_targets(state, targets, epoch)
        compared += 1
    assert compared == epochs
    assert not dropout or next(states, None) is None  # as many training forwards on both sides
    return trainer, reference


def no_targets(state, targets, epoch):
    assert targets == {}


@pytest.mark.parametrize("divergence", ["student_teacher", "teacher_student", "mse"])
@pytest.mark.parametrize("rampup_epochs", [0.0, 2.5])
def test_temporal_ensemble(make_args, divergence, rampup_epochs):
    def check(state, targets, epoch):
        rows = state["rows"][0]
        assert sorted(targets) == state["written"][0].nonzero().flatten().tolist() == list(range(NUM_EXAMPLES))
        for index, row in targets.items():
            torch.testing.assert_close(rows[index] / rows[index].sum(), row, atol=1e-9, rtol=0)

    options = {
        "prediction_decay": 0.6,
        "consistency_weight": 3.0,
        "divergence": divergence,
        "rampup_epochs": rampup_epochs,
    }
    config = TemporalEnsembleConfig(**options)
    compare(make_args, config, oracles.train_temporal_ensemble, options, check_targets=check)


@pytest.mark.parametrize("divergence", ["student_teacher", "teacher_student", "mse"])
@pytest.mark.parametrize("ema_decay", [0.5, 0.9])
def test_mean_teacher(make_args, divergence, ema_decay):
    def check(state, targets, epoch):
        assert {name for name in state if name in targets} == set(targets)
        for name, value in targets.items():
            torch.testing.assert_close(state[name], value, atol=1e-9, rtol=0)

    options = {
        "ema_decay": ema_decay,
        "consistency_weight": 3.0,
        "divergence": divergence,
        "rampup_epochs": 1.5,
    }
    compare(make_args, MeanTeacherConfig(**options), oracles.train_mean_teacher, options, check_targets=check)


def test_mean_teacher_decay_per_epoch(make_args):
    """0.6 an epoch at 4 steps an epoch is 0.6^(1/4) a step."""
    options = {"consistency_weight": 2.0, "divergence": "teacher_student", "rampup_epochs": 0.0}
    compare(
        make_args,
        MeanTeacherConfig(**options, ema_decay_per_epoch=0.6),
        oracles.train_mean_teacher,
        {**options, "ema_decay": 0.6**0.25},
        check_targets=lambda state, targets, epoch: None,
    )


@pytest.mark.parametrize("cycle_epochs", [1, 2])
def test_snapshot_ensemble(make_args, cycle_epochs):
    snapshots = []
    trainer, reference = compare(
        make_args,
        SnapshotEnsembleConfig(cycle_epochs=cycle_epochs),
        oracles.train_snapshot_ensemble,
        {"cycle_epochs": cycle_epochs, "snapshots": snapshots},
        check_targets=no_targets,
        scheduled=False,
    )
    # 5 epochs: a last cycle of one epoch where cycles have two.
    assert len(snapshots) == -(-5 // cycle_epochs)
    test = [{**row, "uid": index} for index, row in enumerate(make_examples(6, num_labels=3, seed=4))]
    inputs = {"input_ids": torch.tensor([row["input_ids"] for row in test])}
    expected = oracles.ensemble_probabilities(snapshots[:-1], reference, inputs).numpy()
    prediction = trainer.predict(test)
    np.testing.assert_allclose(np.exp(prediction.predictions), expected, atol=1e-9)
    labels = [row["labels"] for row in test]
    # The ensemble's own loss, not the last snapshot's.
    assert prediction.metrics["test_loss"] == pytest.approx(-np.log(expected[range(6), labels]).mean(), abs=1e-6)
    # The newest two only.
    trainer.teacher.config = SnapshotEnsembleConfig(cycle_epochs=cycle_epochs, max_snapshots=2)
    newest = oracles.ensemble_probabilities(snapshots[-2:-1], reference, inputs).numpy()
    np.testing.assert_allclose(np.exp(trainer.predict(test).predictions), newest, atol=1e-9)


@pytest.mark.parametrize("store_predictions", [False, True])
@pytest.mark.parametrize(
    "options", [{"cycle_epochs": 1}, {"cycle_epochs": 2, "temperature": 1.0, "lambda_student": 0.7}]
)
def test_snapshot_distillation(make_args, store_predictions, options):
    config = SnapshotDistillationConfig(**options, lambda_teacher=1.5, store_predictions=store_predictions)
    compare(
        make_args,
        config,
        oracles.train_snapshot_distillation,
        {
            "cycle_epochs": config.cycle_epochs,
            "temperature": config.temperature,
            "lambda_teacher": 1.5,
            "lambda_student": config.lambda_student or 1 + 1 / config.temperature,
        },
        check_targets=no_targets,
        scheduled=False,
    )


def test_snapshot_distillation_without_cycles_of_the_rate(make_args):
    config = SnapshotDistillationConfig(cycle_epochs=2, cyclic_learning_rate=False)
    options = {"temperature": 3.0, "lambda_teacher": 1.0, "lambda_student": 4 / 3, "cyclic": False}
    compare(
        make_args,
        config,
        oracles.train_snapshot_distillation,
        {"cycle_epochs": 2, **options},
        check_targets=no_targets,
    )


def test_lstsd_single(make_args):
    def check(state, targets, epoch):
        if epoch == 4:  # no epoch follows that would read a last pass
            return
        for table, expected in zip(state["rows"], targets, strict=True):
            for index, row in expected.items():
                torch.testing.assert_close(table[index], row, atol=1e-9, rtol=0)
        assert len(targets[0]) == NUM_EXAMPLES

    options = {"mini_generation_epochs": 2, "lambda_short": 4.0, "lambda_long": 2.4}
    config = LSTSDSingleConfig(**options, teacher_floor=0.0)
    compare(make_args, config, oracles.train_lstsd_single, options, check_targets=check)


@pytest.mark.parametrize(
    ("config", "weights_of_terms"),
    [
        (LSTSDNoLongConfig(lambda_short=4.0, mini_generation_epochs=2, teacher_floor=0.0), (4.0, 0.0)),
        (LSTSDNoShortConfig(lambda_long=2.4, mini_generation_epochs=2, teacher_floor=0.0), (0.0, 2.4)),
    ],
    ids=["no_long", "no_short"],
)
def test_lstsd_variants(make_args, config, weights_of_terms):
    def oracle(*args, **options):
        for epoch, short, long in train_algorithm_1(*args, **options):
            yield epoch, None, (short, long)  # this oracle keeps no losses

    def check(state, targets, epoch):
        for table, expected in zip(state["rows"], targets, strict=True):
            for index, row in expected.items():
                torch.testing.assert_close(table[index], row, atol=1e-9, rtol=0)

    short, long = weights_of_terms
    options = {"mini_generation_epochs": 2, "lambda_short": short, "lambda_long": long}
    compare(make_args, config, oracle, options, check_targets=check)


@pytest.mark.parametrize("carry_over_epochs", [True, False])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 3.0), (2.0, 1.0)])
def test_dlb(make_args, alpha, temperature, carry_over_epochs):
    options = {"alpha": alpha, "temperature": temperature, "carry_over_epochs": carry_over_epochs}
    compare(make_args, DLBConfig(**options), oracles.train_dlb, options, check_targets=no_targets)


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 3.0), (2.0, 1.0)])
def test_dlb_with_overlapping_batches(make_args, alpha, temperature):
    config = DLBConfig(alpha=alpha, temperature=temperature, form="overlap")
    options = {"alpha": alpha, "temperature": temperature}
    compare(make_args, config, oracles.train_dlb_overlap, options, check_targets=no_targets)


def test_label_smoothing(make_args):
    options = {"smoothing": 0.2}
    compare(
        make_args, LabelSmoothingConfig(**options), oracles.train_label_smoothing, options, check_targets=no_targets
    )


@pytest.mark.parametrize("official_bert", [False, True])
def test_r_drop(make_args, official_bert):
    options = {"alpha": 0.7, "official_bert": official_bert}
    compare(make_args, RDropConfig(**options), oracles.train_r_drop, options, check_targets=no_targets)


def same_rows(state, targets, epoch):
    """A table of the memory, in which an example without a row has no entry."""
    rows, written = (state["rows"][0], state["written"][0]) if targets or state else (torch.zeros(0), torch.zeros(0))
    assert sorted(targets) == written.nonzero().flatten().tolist()
    for index, row in targets.items():
        torch.testing.assert_close(rows[index].double(), row, atol=1e-9, rtol=0)


@pytest.mark.parametrize("alpha", [0.8, 1.0])
def test_ps_kd(make_args, alpha):
    compare(make_args, PSKDConfig(alpha=alpha), oracles.train_ps_kd, {"alpha": alpha}, check_targets=same_rows)


@pytest.mark.parametrize(("decay", "weight"), [(0.7, 3.0), (0.0, 1.0)])
def test_elr(make_args, decay, weight):
    config = ELRConfig(target_decay=decay, regularization_weight=weight)
    compare(make_args, config, oracles.train_elr, {"beta": decay, "weight": weight}, check_targets=same_rows)


@pytest.mark.parametrize(("momentum", "warmup"), [(0.9, 2), (0.6, 0)])
def test_sat(make_args, momentum, warmup):
    config = SATConfig(target_momentum=momentum, warmup_epochs=warmup)
    options = {"momentum": momentum, "warmup_epochs": warmup}
    compare(make_args, config, oracles.train_sat, options, check_targets=same_rows)


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 2.0), (0.9, 1.0), (1.0, 4.0)])
@pytest.mark.parametrize("source", ["model", "outputs"])
def test_kd(make_args, weight, temperature, source):
    """A table that lacks two examples, or a model."""
    teacher = make_model(num_labels=3, seed=7).double().eval()
    data = make_examples(NUM_EXAMPLES, num_labels=3)
    with torch.no_grad():
        table = dict(enumerate(teacher(torch.tensor([row["input_ids"] for row in data])).logits))
    config, given = KDConfig(distillation_weight=weight, temperature=temperature), {"model": copy.deepcopy(teacher)}
    if source == "outputs":
        del table[3], table[8]
        given = {"outputs": TeacherOutputs(torch.stack([*table.values()]), "logits", torch.tensor([*table]))}
    options = {"teacher_logits": table, "weight": weight, "temperature": temperature}
    compare(make_args, KD(config, **given), oracles.train_kd, options, check_targets=no_targets)


def same_counts(state, targets, epoch):
    assert state["participation.participations"].tolist() == [targets[index] for index in range(NUM_EXAMPLES)]


@pytest.mark.parametrize(("threshold", "ungated"), [(0.9, 1), (0.5, 0)])
def test_self_regulated(make_args, threshold, ungated):
    """Without dropout: here the gate has a forward of its own."""
    config = SelfRegulatedConfig(confidence_threshold=threshold, ungated_epochs=ungated)
    options = {"threshold": threshold, "ungated_epochs": ungated}
    compare(make_args, config, oracles.train_self_regulated, options, check_targets=same_counts, dropout=0.0)


@pytest.mark.parametrize("mode", ["significance", "regulated", "hybrid"])
def test_students_of_self_regulated_teachers(make_args, tmp_path, mode):
    counts = torch.arange(NUM_EXAMPLES) % 5
    make_model(num_labels=3, seed=7).save_pretrained(tmp_path / "teacher")
    save_file({"participations": counts.float()}, tmp_path / "teacher" / "participations.safetensors")
    with torch.no_grad():
        inputs = torch.tensor([row["input_ids"] for row in make_examples(NUM_EXAMPLES, num_labels=3)])
        table = make_model(num_labels=3, seed=7).eval()(inputs).logits.double()
    own = {"temperature": 2.0, "max_significance": 1.5, "ungated_epochs": 1}
    config = SelfRegulatedConfig(
        distillation=mode,
        teacher_model_name_or_path=str(tmp_path / "teacher"),
        distillation_weight=0.4,
        confidence_threshold=0.6,
        **own,
    )
    options = {**own, "mode": mode, "weight": 0.4, "threshold": 0.6, "teacher_logits": dict(enumerate(table))}
    options["participations"] = dict(enumerate(counts.tolist()))
    compare(
        make_args,
        config,
        oracles.train_self_regulated_student,
        options,
        check_targets=same_counts,
        dropout=0.0 if mode != "significance" else 0.1,
        atol=1e-6,  # the teacher's table and the significance are fp32
    )


@pytest.mark.parametrize("mode", ["significance", "regulated", "hybrid"])
def test_regulated_lstsd(make_args, mode):
    def check(state, targets, epoch):
        for table, expected in zip(state["lstsd.rows"], targets, strict=True):
            for index, row in expected.items():
                torch.testing.assert_close(table[index], row, atol=1e-6, rtol=0)

    options = {"mini_generation_epochs": 2, "lambda_short": 2.0, "lambda_long": 1.5, "max_significance": 1.2}
    config = RegulatedLSTSDConfig(regulation=mode, confidence_threshold=0.5, teacher_floor=0.0, **options)
    options |= {"mode": mode, "threshold": 0.5}
    own = {"check_targets": check, "epochs": 7, "dropout": 0.0, "atol": 1e-6}  # the significance is fp32
    compare(make_args, config, oracles.train_regulated_lstsd, options, **own)


@pytest.mark.parametrize("rule", ["flip", "cl", "constant"])
@pytest.mark.parametrize(("pull", "momentum"), [(0.0, 1.0), (2.0, 0.8), (0.0, 0.0)])
def test_anchored(make_args, rule, pull, momentum):
    own = {"rule": rule, "pull": pull, "mixing": 0.7, "patience": 1, "momentum": momentum}
    config = AnchoredConfig(**own, kept_out_share=0.3)
    teacher, found = config.build(), []
    teacher.context = TrainingContext(NUM_EXAMPLES)
    teacher.reset()
    held_out = set(teacher._kept_out.nonzero()[:, 0].tolist())
    assert len(held_out) == 4

    def check(state, info, epoch):
        if epoch == 9:  # nobody looks at what the last epoch said
            return
        anchor = info["anchor_epoch"]
        assert state["anchor_epoch"] == (None if anchor is None else anchor + 1)
        if info["held_out_loss"] is not None:
            assert state["kept_out_loss"] == pytest.approx(info["held_out_loss"], abs=1e-6)
        found.append(info["doubted"])
        for index, row in (info["teacher"] or {}).items():
            torch.testing.assert_close(state["best.rows"][index].double().softmax(-1), row.double(), atol=1e-6, rtol=0)

    options = {**own, "held_out": held_out}
    trainer, _ = compare(make_args, config, oracles.train_anchored, options, check_targets=check, epochs=10)
    assert found[-1] is not None
    if rule != "constant":
        assert trainer.teacher._is_doubted.nonzero()[:, 0].tolist() == found[-1]


@pytest.mark.parametrize("teacher_free", [False, True])
def test_tskd(make_args, teacher_free):
    """A review in the fourth epoch, after three memories; the LSTMs are fp32, as the maps that they read."""
    own = {"distillation_weight": 0.7, "temperature": 2.0, "review_weight": 5.0, "interval_epochs": 1}

    def change(model):
        # What leaves a new LayerNorm has the same energy everywhere.
        torch.manual_seed(1)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                torch.nn.init.uniform_(module.weight, 0.2, 2.0)

    fixed = None if teacher_free else make_model(num_labels=3, seed=7).double().eval()
    if fixed is not None:
        change(fixed)
    teacher = TSKD(TSKDConfig(**own, teacher_free=teacher_free), model=copy.deepcopy(fixed))
    # Made anew for each run, and always the same.
    predictors = [
        {name: value.detach().double().requires_grad_() for name, value in module.state_dict().items()}
        for module in teacher.predictors
    ]

    def check(state, targets, epoch):
        # A memory of an epoch is taken when the next one begins.
        for slot, expected in enumerate(targets[:epoch]):
            for name, value in expected.items():
                key = f"memories.{slot}.{name}"
                if key in state:
                    torch.testing.assert_close(state[key], value, atol=1e-6, rtol=0)

    options = {**own, "teacher": fixed, "predictors": predictors}
    others = [value for module in predictors for value in module.values()]
    trainer, _ = compare(
        make_args,
        teacher,
        oracles.train_tskd,
        options,
        check_targets=check,
        epochs=6,
        atol=1e-6,
        others=others,
        change=change,
    )
    for module, expected in zip(trainer.teacher.predictors, predictors, strict=True):
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=0)
    assert any("loss_temporal" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("is_function", [False, True])
def test_sat_leaves_out_examples_without_a_label(make_args, is_function):
    """Also where only the mean of the base loss is known, which is exact for targets close to the labels."""

    def mean_loss(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs["logits"], labels)

    data = make_examples(8, num_labels=3)
    for row in data[::2]:
        row["labels"] = -100
    momentum = 1.0 - 1e-7 if is_function else 0.6
    trainer = LSTSDTrainer(
        model=make_model(num_labels=3, dropout=0.0).double(),
        args=make_args(num_train_epochs=1, learning_rate=0.0, per_device_train_batch_size=8),
        train_dataset=data,
        teacher=SATConfig(target_momentum=momentum, warmup_epochs=0),
        compute_loss_func=mean_loss if is_function else None,
    )
    trainer.train()
    labelled = data[1::2]
    with torch.no_grad():
        logits = trainer.model(torch.tensor([row["input_ids"] for row in labelled])).logits
    p, y = logits.softmax(-1), torch.eye(3, dtype=torch.float64)[[row["labels"] for row in labelled]]
    t = momentum * y + (1 - momentum) * p
    w = t.amax(-1)
    expected = float((w * -(t * p.log()).sum(-1)).sum() / w.sum())
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"vanilla", "lstsd", "lstsd_no_long", "lstsd_no_short"}))
def test_every_method_has_a_literal_reference(name):
    assert hasattr(oracles, f"train_{name}"), f"write `train_{name}` in tests/methods/oracles.py"


# ---- Closed forms ----


def test_an_average_of_weights_that_went_from_0_to_1_is_1_minus_decay():
    model = torch.nn.Linear(3, 2).double()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    average = ModelCopy.of(model)
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    average.average(model, 0.75)
    for tensor in average.tensors.values():
        assert torch.equal(tensor, torch.full_like(tensor, 0.25))


def test_two_kl_terms_are_one_to_the_normalised_geometric_mean():
    generator = torch.Generator().manual_seed(0)
    student, short, long = torch.randn(3, 50, 4, generator=generator, dtype=torch.float64)
    weight_short, weight_long = 4.0, 2.4
    log_short, log_long = teacher_log_probs(short), teacher_log_probs(long)
    both = weight_short * kl_student_teacher(student, log_short) + weight_long * kl_student_teacher(student, log_long)
    mixture = (weight_short * log_short + weight_long * log_long) / (weight_short + weight_long)
    log_normaliser = mixture.logsumexp(dim=-1)
    one = kl_student_teacher(student, mixture - log_normaliser[:, None])
    expected = (weight_short + weight_long) * (one - log_normaliser)
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-12)


def test_both_targets_are_identical_in_the_first_epoch_of_a_mini_generation(make_args):
    seen = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            memory = trainer.teacher.memory
            if memory is not None:
                seen.append((memory.epoch, torch.equal(memory.short_term_logits, memory.long_term_logits)))

    trainer = LSTSDTrainer(
        model=make_model(),
        args=make_args(num_train_epochs=6),
        train_dataset=make_examples(NUM_EXAMPLES),
        teacher=LSTSDConfig(mini_generation_epochs=2),
        callbacks=[Watch()],
    )
    trainer.train()
    assert {epoch for epoch, same in seen if same and epoch} == {2, 4}


def test_the_rate_is_the_base_rate_at_every_restart_and_falls_to_almost_nothing():
    cycles = CosineCycles(length=10, max_steps=47)
    assert [cycles.factor(step) for step in (0, 10, 20, 30, 40)] == [1.0] * 5
    assert cycles.factor(5) == pytest.approx(0.5)
    assert cycles.factor(9) == pytest.approx(0.0245, abs=1e-4)
    assert cycles.factor(46) == pytest.approx(0.0495, abs=1e-4)  # the last cycle has 7 steps
    for step in range(47):
        assert cycles.factor(step) == pytest.approx(oracles.cyclic_factor(step, 10, 47), abs=1e-15)
    assert [step for step in range(1, 48) if cycles.ends_after(step)] == [10, 20, 30, 40, 47]
    assert cycles.count == 5


@pytest.mark.parametrize("resume", [None, 10, 16])
def test_the_rate_restarts_in_training_also_after_a_resume(make_args, tmp_path, resume):
    def train(checkpoint=None):
        rates = {}

        class Watch(TrainerCallback):
            def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
                rates[state.global_step] = optimizer.param_groups[0]["lr"]

        trainer = LSTSDTrainer(
            model=make_model(),
            args=make_args(num_train_epochs=6, save_strategy="steps", save_steps=2, learning_rate=0.25),
            train_dataset=make_examples(NUM_EXAMPLES),
            teacher=SnapshotEnsembleConfig(cycle_epochs=2),
            callbacks=[Watch()],
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return rates

    rates = train()
    if resume is not None:
        resumed = train(str(tmp_path / "run" / f"checkpoint-{resume}"))
        assert resumed == {step: rate for step, rate in rates.items() if step >= resume}
        rates = resumed
    for step in (0, 8, 16):
        if step in rates:
            assert rates[step] == 0.25
    assert rates[23] < 0.02
