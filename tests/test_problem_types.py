"""Several labels and regression: every method's terms against formulas written out over what was seen in training."""

import copy

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence
from transformers import BertForSequenceClassification, Trainer, TrainerCallback

from lstsd_hf import METHODS, LSTSDConfig, LSTSDTrainer, TeacherMemory
from lstsd_hf.errors import InputError
from lstsd_hf.methods.base import separate
from lstsd_hf.problem_types import PROBLEM_TYPES
from lstsd_hf.reference import ReferenceTeachers
from tests import helpers
from tests.helpers import (
    CONFIGS,
    MULTI,
    NUMBERS,
    active,
    assert_same_weights,
    make_data,
    make_model,
)

EPOCHS, STEPS = 6, 4


def make_trainer(make_args, problem, config, num_labels=3, trainer_class=LSTSDTrainer, dropout=0.0, **options):
    model = make_model(num_labels=num_labels, dropout=dropout)
    model.config.problem_type = problem
    data, evaluated = (make_data(problem, count, num_labels, seed) for count, seed in ((14, 0), (6, 1)))
    return helpers.make_trainer(
        make_args, config, trainer_class, model=model, train_dataset=data, eval_dataset=evaluated, **options
    )


class Recorder(TrainerCallback):
    """Keeps every micro-batch with its terms, and the model before each step."""

    def __init__(self, trainer):
        self.batches = []
        self.models = []  # after so many steps
        teacher, terms_of = trainer.teacher, trainer.teacher.loss_terms

        def spy(batch):
            terms = terms_of(batch)
            entry = copy.copy(batch.__dict__) | {"student_logits": batch.student_logits.detach().clone()}
            self.batches.append(
                entry | {"terms": {k: (v.per_example.detach(), v.weight) for k, v in separate(terms).items()}}
            )
            return terms

        teacher.loss_terms = spy
        trainer.add_callback(self)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.models.append(copy.deepcopy(model).eval())

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.models.append(copy.deepcopy(model).eval())

    @torch.no_grad()
    def outputs(self, steps, inputs):
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        return self.models[steps](**inputs).logits


def logit(probability):
    return torch.log(probability) - torch.log1p(-probability)


def divergence(problem, student, teacher, direction="student_teacher", temperature=1.0):
    """A mean over the labels of torch's own KL between Bernoulli distributions; or the squared error."""
    if problem == NUMBERS:
        return ((student - teacher) ** 2).mean(-1)
    pair = [Bernoulli(logits=logits.double() / temperature) for logits in (student, teacher)]
    return kl_divergence(*(pair if direction == "student_teacher" else pair[::-1])).mean(-1)


def soft_loss(problem, student, teacher, temperature):
    if problem == NUMBERS:
        return ((student - teacher) ** 2).mean(-1)
    z, p = (teacher.double() / temperature).sigmoid(), student.double().sigmoid()
    return -(z * p.log() + (1 - z) * (1 - p).log()).mean(-1)


def expected_lstsd(recorder, problem, config):
    teachers, expected, epoch = ReferenceTeachers(), [], 0
    for batch in recorder.batches:
        if batch["progress"].epoch != epoch:
            epoch = batch["progress"].epoch
            teachers.end_epoch(epoch % config.mini_generation_epochs == 0)
        terms = {}
        for name in ("short", "long") if epoch >= config.mini_generation_epochs else ():
            teacher = torch.stack([getattr(teachers, name)[int(index)] for index in batch["indices"]])
            terms[name] = divergence(problem, batch["student_logits"], teacher)
        expected.append(terms)
        for index, row in zip(batch["indices"].tolist(), batch["student_logits"], strict=True):
            teachers.observe(index, row)
    return expected


def expected_single(recorder, problem, config):
    expected = []
    length = config.mini_generation_epochs
    for batch in recorder.batches:
        epoch = batch["progress"].epoch
        sources = {"short": epoch, "long": epoch // length * length} if epoch >= length else {}
        expected.append(
            {
                name: divergence(problem, batch["student_logits"], recorder.outputs(start * STEPS, batch["inputs"]))
                for name, start in sources.items()
            }
        )
    return expected


def expected_temporal_ensemble(recorder, problem, config):
    """The average over epochs with its start at zero divided out (Laine & Aila, Algorithm 2)."""
    decay, averages, expected, current = config.prediction_decay, {}, [], {}
    epoch = 0
    for batch in recorder.batches:
        if batch["progress"].epoch != epoch:
            epoch = batch["progress"].epoch
            averages = {index: decay * averages.get(index, 0.0) + (1 - decay) * row for index, row in current.items()}
        terms = {}
        if epoch > 0:
            teacher = torch.stack([averages[int(index)] for index in batch["indices"]]) / (1 - decay**epoch)
            if problem == MULTI:
                teacher = logit(teacher)
            terms["consistency"] = divergence(problem, batch["student_logits"], teacher)
        expected.append(terms)
        for index, row in zip(batch["indices"].tolist(), batch["student_logits"].double(), strict=True):
            current[index] = row.sigmoid() if problem == MULTI else row
    return expected


def expected_mean_teacher(recorder, problem, config):
    expected, average, steps = [], copy.deepcopy(recorder.models[0]), 0
    for batch in recorder.batches:
        step = batch["progress"].global_step
        if step > steps:
            decay, steps = min(1 - 1 / (step + 1), config.ema_decay), step
            for own, new in zip(average.parameters(), recorder.models[step].parameters(), strict=True):
                own.data = decay * own.data + (1 - decay) * new.data
        inputs = {name: value for name, value in batch["inputs"].items() if name != "labels"}
        with torch.no_grad():
            teacher = average(**inputs).logits
        expected.append({"consistency": divergence(problem, batch["student_logits"], teacher, config.divergence)})
    return expected


def expected_snapshot_distillation(recorder, problem, config):
    expected = []
    for batch in recorder.batches:
        start = batch["progress"].epoch // config.cycle_epochs * config.cycle_epochs * STEPS
        teacher = recorder.outputs(start, batch["inputs"])
        terms = {"teacher": soft_loss(problem, batch["student_logits"], teacher, config.temperature)} if start else {}
        expected.append(terms)
    return expected


def expected_dlb(recorder, problem, config):
    expected, previous = [], None
    for step, batch in enumerate(recorder.batches):
        terms = {}
        if previous is not None:
            student = recorder.outputs(step, previous["inputs"])
            temperature = 1.0 if problem == NUMBERS else config.temperature
            teacher = previous["student_logits"]
            terms["previous"] = temperature**2 * divergence(problem, student, teacher, "teacher_student", temperature)
            labels = previous["labels"]
            if problem == NUMBERS:
                terms["previous_labels"] = ((student - labels.reshape(student.shape)) ** 2).mean(-1)
            else:
                terms["previous_labels"] = -(
                    labels * torch.nn.functional.logsigmoid(student)
                    + (1 - labels) * torch.nn.functional.logsigmoid(-student)
                ).mean(-1)
        expected.append(terms)
        previous = batch
    return expected


def expected_ps_kd(recorder, problem, config):
    """The loss against the output of the epoch before, from the second epoch on."""
    past, current, expected, epoch = {}, {}, [], 0
    for batch in recorder.batches:
        if batch["progress"].epoch != epoch:
            epoch, past, current = batch["progress"].epoch, past | current, {}
        terms = {}
        if epoch:
            teacher = torch.stack([past[int(index)] for index in batch["indices"]])
            terms["past"] = soft_loss(problem, batch["student_logits"], teacher, 1.0)
        expected.append(terms)
        current |= dict(zip(batch["indices"].tolist(), batch["student_logits"], strict=True))
    return expected


def expected_kd(recorder, problem, config):
    """KL[teacher ‖ student] at the temperature, times its square, to what the teacher's folder predicts."""
    teacher = BertForSequenceClassification.from_pretrained(config.teacher_model_name_or_path).eval()
    temperature, expected = 1.0 if problem == NUMBERS else config.temperature, []
    for batch in recorder.batches:
        with torch.no_grad():
            outputs = teacher(batch["inputs"]["input_ids"]).logits
        losses = divergence(problem, batch["student_logits"], outputs, "teacher_student", temperature)
        expected.append({"distillation": temperature**2 * losses})
    return expected


def expected_label_smoothing(recorder, problem, config):
    half = [torch.zeros_like(batch["student_logits"]) for batch in recorder.batches]
    return [
        {"uniform": soft_loss(problem, batch["student_logits"], zero, 1.0)}
        for batch, zero in zip(recorder.batches, half, strict=True)
    ]


def expected_r_drop(recorder, problem, config):
    """Without dropout both passes are the same."""
    expected = []
    for batch in recorder.batches:
        logits, labels = batch["student_logits"].double(), batch["labels"]
        if problem == NUMBERS:
            losses = ((logits - labels.reshape(logits.shape)) ** 2).mean(-1)
        else:
            losses = -(labels * logits.sigmoid().log() + (1 - labels) * (-logits).sigmoid().log()).mean(-1)
        expected.append({"second_labels": losses, "consistency": torch.zeros(len(logits))})
    return expected


ORACLES = {
    "r_drop": expected_r_drop,
    "lstsd": expected_lstsd,
    "lstsd_no_long": expected_lstsd,
    "lstsd_no_short": expected_lstsd,
    "lstsd_single": expected_single,
    "temporal_ensemble": expected_temporal_ensemble,
    "mean_teacher": expected_mean_teacher,
    "snapshot_distillation": expected_snapshot_distillation,
    "dlb": expected_dlb,
    "label_smoothing": expected_label_smoothing,
    "kd": expected_kd,
    "ps_kd": expected_ps_kd,
}
# Methods that need labels to choose from, or one of several.
ONE_LABEL = "needs one label of several for each example, got a model for"
OF_ONE_LABEL = ("elr", "sat", "self_regulated", "regulated_lstsd", "anchored")
REFUSED = {
    ("label_smoothing", NUMBERS): "must predict labels to spread a target over them, got a regression",
    **{(name, problem): ONE_LABEL for name in OF_ONE_LABEL for problem in (MULTI, NUMBERS)},
}
KINDS = pytest.mark.parametrize(("problem", "num_labels"), [(MULTI, 3), (MULTI, 2), (NUMBERS, 1), (NUMBERS, 3)])


def test_every_method_with_terms_has_an_oracle():
    # TSKD has the term of KD, and one that does not look at labels.
    missing = {config.name for config in CONFIGS} - set(ORACLES) - {"vanilla", "snapshot_ensemble", "tskd"}
    missing -= {name for name in missing if all((name, problem) in REFUSED for problem in (MULTI, NUMBERS))}
    assert not missing, f"`ORACLES` lacks {missing}"


@KINDS
@pytest.mark.parametrize("name", ORACLES)
def test_terms(make_args, problem, num_labels, name):
    (config_class,) = (config for config in CONFIGS if config.name == name)
    config = active(config_class, num_labels, problem)
    if name.startswith("lstsd"):
        config = config_class(mini_generation_epochs=2, teacher_floor=0.0)
    trainer = make_trainer(make_args, problem, config, num_labels)
    if (name, problem) in REFUSED:
        return
    recorder = Recorder(trainer)
    trainer.train()
    expected = ORACLES[name](recorder, problem, config)
    count = 0
    for batch, wanted in zip(recorder.batches, expected, strict=True):
        wanted = {term: values for term, values in wanted.items() if getattr(config, f"lambda_{term}", 1.0)}
        assert batch["terms"].keys() == wanted.keys()
        for term, values in wanted.items():
            found = batch["terms"][term][0]
            torch.testing.assert_close(found.double(), values.double(), rtol=2e-4, atol=2e-6)
            count += bool(values.max() > 1e-5)
    assert count >= 3 * STEPS - 1  # terms that say something
    assert trainer.teacher.context.problem_type is PROBLEM_TYPES[problem]
    # The whole loss is the model's own and the weighted terms.
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry, batch in zip(logged, recorder.batches, strict=True):
        weights = {term: weight for term, (_, weight) in batch["terms"].items()}
        base = base_weight(name, config, weights) * entry["loss_base"]
        assert entry["loss"] == pytest.approx(
            base + sum(weight * entry[f"loss_{term}"] for term, weight in weights.items()), rel=1e-4, abs=1e-6
        )


@pytest.mark.parametrize(("name", "problem"), REFUSED)
def test_what_needs_labels_refuses_others(make_args, name, problem):
    (config_class,) = (config for config in CONFIGS if config.name == name)
    with pytest.raises(InputError, match=REFUSED[name, problem]):
        make_trainer(make_args, problem, active(config_class, 3, problem)).train()


def base_weight(name, config, weights):
    if name == "dlb" and weights:
        return 1.0 - weights["previous_labels"]
    if name == "r_drop":
        return 0.5
    if name == "snapshot_distillation" and weights:
        return 1.0 + 1.0 / config.temperature
    if name == "kd":
        return 1.0 - config.distillation_weight
    if name == "ps_kd":
        return 1.0 - weights.get("past", 0.0)
    return 1.0 - config.smoothing if name == "label_smoothing" else 1.0


@KINDS
def test_an_ensemble_averages_what_its_members_predict(make_args, problem, num_labels):
    (config_class,) = (config for config in CONFIGS if config.name == "snapshot_ensemble")
    trainer = make_trainer(
        make_args, problem, active(config_class, num_labels, problem), num_labels, learning_rate=0.05
    )
    recorder = Recorder(trainer)
    trainer.train()
    members = [recorder.models[steps] for steps in (2 * STEPS, 4 * STEPS, 6 * STEPS)]
    rows = trainer.eval_dataset
    inputs, labels = torch.tensor([row["input_ids"] for row in rows]), torch.tensor([row["labels"] for row in rows])
    with torch.no_grad():
        outputs = torch.stack([member(input_ids=inputs).logits.double() for member in members])
    result = trainer.evaluate()
    predictions = torch.as_tensor(trainer.predict(rows).predictions).double()
    labels = labels.reshape(predictions.shape).double()
    if problem == NUMBERS:
        mean = outputs.mean(0)
        loss = ((mean - labels) ** 2).mean()
    else:
        probabilities = outputs.sigmoid().mean(0)
        mean = logit(probabilities)
        loss = torch.nn.functional.binary_cross_entropy(probabilities, labels)
    torch.testing.assert_close(predictions, mean, rtol=1e-4, atol=1e-5)
    assert result["eval_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert (outputs[0] - outputs[2]).abs().max() > 0.1


@pytest.mark.parametrize(("problem", "num_labels"), [(MULTI, 3), (NUMBERS, 1)])
@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda config: config.name)
def test_neutral_is_stock_bit_for_bit(make_args, problem, num_labels, config_class):
    stock = make_trainer(make_args, problem, None, num_labels, Trainer, dropout=0.1)
    stock.train()
    ours = make_trainer(make_args, problem, config_class.neutral(), num_labels, dropout=0.1)
    ours.train()
    assert_same_weights(stock.model, ours.model)


@pytest.mark.parametrize(("problem", "num_labels"), [(MULTI, 3), (NUMBERS, 1)])
@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda config: config.name)
def test_a_run_can_be_resumed(make_args, problem, num_labels, config_class, tmp_path):
    if (config_class.name, problem) in REFUSED:
        return
    step = STEPS * 4 + 1
    options = {"save_strategy": "steps", "save_steps": step, "dropout": 0.1, "output_dir": str(tmp_path / "whole")}
    whole = make_trainer(make_args, problem, active(config_class, num_labels, problem), num_labels, **options)
    whole.train()
    resumed = make_trainer(make_args, problem, active(config_class, num_labels, problem), num_labels, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert_same_weights(whole.model, resumed.model)


@pytest.mark.parametrize(("problem", "num_labels"), [(MULTI, 3), (NUMBERS, 1)])
def test_the_problem_is_read_from_labels_and_outputs(make_args, problem, num_labels):
    trainer = make_trainer(make_args, problem, LSTSDConfig(), num_labels)
    trainer.model.config.problem_type = None
    trainer.train()
    assert trainer.teacher.context.problem_type is PROBLEM_TYPES[problem]
    assert isinstance(trainer.teacher.memory, TeacherMemory)


@pytest.mark.parametrize(("problem", "num_labels"), [(MULTI, 3), (NUMBERS, 1)])
def test_only_single_labels_are_ranked(make_args, problem, num_labels):
    trainer = make_trainer(make_args, problem, LSTSDConfig(), num_labels)
    trainer.train()
    with pytest.raises(InputError, match=f"one label of several to be ranked by it, got a model for {problem}"):
        trainer.teacher.rank_label_errors()


def test_a_floor_bounds_both_answers_of_each_label():
    problem = PROBLEM_TYPES[MULTI]
    targets = problem.targets(torch.tensor([[-50.0, 0.0, 50.0]]), floor=0.01).exp()
    torch.testing.assert_close(targets, torch.tensor([[[1.0, 0.01], [0.5, 0.5], [0.01, 1.0]]]))
    student = torch.tensor([[50.0, 0.0, -50.0]], requires_grad=True)
    assert problem.divergence("student_teacher", student, targets.log()).item() == pytest.approx(2 / 3 * 4.6052, 1e-3)


def test_several_labels_count_as_trainer_counts_them(make_args):
    """Under a loss of one's own, Trainer's N is the number of labels, and so is B: the mean, however it is reached."""

    def summed(outputs, labels, num_items_in_batch=None):
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits, labels, reduction="sum")
        return entropy / num_items_in_batch

    found = []
    for own, accumulation in ((None, 1), (summed, 1), (summed, 2)):
        options = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
        trainer = make_trainer(make_args, MULTI, LSTSDConfig(mini_generation_epochs=1), optim="sgd", **options)
        trainer.train_dataset = make_data(MULTI, 12)
        trainer.compute_loss_func = own
        trainer.train()
        found.append([entry for entry in trainer.state.log_history if "loss" in entry])
    for mean, *others in zip(*found, strict=True):
        assert ("loss_short" in mean) == (mean["epoch"] > 1)
        for other in others:
            for name in ("loss", "loss_base", *(["loss_short"] if "loss_short" in mean else [])):
                assert other[name] == pytest.approx(mean[name], rel=1e-3, abs=1e-6), name


def test_an_ensemble_knows_the_problem_without_labels(make_args):
    """It is told by the labels of the training, in the model's config or, for numbers, by the outputs."""
    config = METHODS["snapshot_ensemble"](cycle_epochs=2)
    trainer = make_trainer(make_args, None, config, num_labels=1, learning_rate=0.05)
    trainer.train_dataset, trainer.eval_dataset = make_data(NUMBERS, num_labels=1), make_data(NUMBERS, 6, 1, seed=1)
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: torch.nn.functional.mse_loss(
        outputs.logits.squeeze(-1), labels
    )
    trainer.train()
    assert trainer.model.config.problem_type is None
    assert trainer.teacher.context.problem_type is PROBLEM_TYPES[NUMBERS]
    unlabelled = [{"input_ids": row["input_ids"]} for row in trainer.eval_dataset]
    blind = trainer.predict(unlabelled).predictions
    torch.testing.assert_close(torch.tensor(blind), torch.tensor(trainer.predict(trainer.eval_dataset).predictions))


@pytest.mark.parametrize(
    "config", [LSTSDConfig(mini_generation_epochs=2), METHODS["snapshot_ensemble"](cycle_epochs=2)]
)
def test_what_soft_labels_mean_must_be_said(make_args, config):
    """Several labels or the probabilities of one: a loss of one's own does not tell."""
    kinds = {}
    for problem in (None, MULTI, "single_label_classification"):
        trainer = make_trainer(make_args, problem, config)
        trainer.train_dataset = trainer.eval_dataset = make_data(MULTI)
        trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: torch.nn.functional.cross_entropy(
            outputs.logits, labels
        )
        if problem is None:
            with pytest.raises(InputError, match=r"`problem_type` of the model's config must be one of \['multi_label"):
                trainer.train()
        else:
            trainer.train()
            kinds[problem] = trainer.teacher.context.problem_type.name
    assert all(kind == problem for problem, kind in kinds.items())


def test_examples_without_a_label_do_not_count():
    logits, labels = torch.randn(4, 3), torch.tensor([2, -100, 0, -100])
    loss = PROBLEM_TYPES["single_label_classification"].base_loss(logits, labels)
    assert float(loss.mean()) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))
