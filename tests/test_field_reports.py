"""Faults that users of similar libraries reported, each as a kind and with every registered method."""

import copy
import dataclasses
import inspect
import itertools
import math

import datasets
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Subset, WeightedRandomSampler
from transformers import DefaultFlowCallback, Trainer, TrainerCallback

from lstsd_hf import METHODS, LSTSDConfig, LSTSDTrainer, Observer, RDropConfig, SelfDistillationMixin
from lstsd_hf.errors import InputError
from lstsd_hf.losses import DIVERGENCES, cross_entropy_to
from lstsd_hf.problem_types import SingleLabel
from tests.helpers import (
    SavesAt,
    active,
    assert_same_weights,
    every_distilling_method,
    every_method,
    make_examples,
    make_model,
)
from tests.methods.test_conformance import STEPS_PER_EPOCH, make_trainer

HAVE_MEMORY = {"lstsd", "lstsd_single", "lstsd_no_long", "lstsd_no_short", "temporal_ensemble"}


# ---- Classes that are masked ----


class Masked(nn.Module):
    """Four outputs, of which some examples exclude the last two.

    Args:
        inner: A classifier of four labels.
        mask: What excluded outputs become.
        share: "all" of the examples, or "half" of them (those with an even second token).
    """

    def __init__(self, inner, mask, share):
        super().__init__()
        self.inner, self.config, self.mask, self.share = inner, inner.config, mask, share

    def forward(self, input_ids, labels=None):
        logits = self.inner(input_ids).logits
        excluded = torch.zeros_like(logits, dtype=torch.bool)
        excluded[:, 2:] = True if self.share == "all" else (input_ids[:, 1:2] % 2 == 0)
        logits = logits.masked_fill(excluded, self.mask)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


def four_labels():
    return make_model(num_labels=4, dropout=0.0)


def two_labels_of(model):
    """The same classifier without its last two outputs."""
    small = copy.deepcopy(model)
    small.classifier = nn.Linear(model.classifier.in_features, 2)
    with torch.no_grad():
        small.classifier.weight.copy_(model.classifier.weight[:2])
        small.classifier.bias.copy_(model.classifier.bias[:2])
    small.num_labels = small.config.num_labels = 2
    return small


def skip_where_another_model_teaches(config_class):
    if not active(config_class).is_self_taught:
        pytest.skip("another model excludes no labels, and a student that does cannot follow it")


def skip_where_states_are_needed(config_class):
    if config_class.name == "tskd":
        pytest.skip("needs a model that returns hidden states")


@pytest.mark.parametrize("mask", [-math.inf, -1e9])
@every_distilling_method
def test_labels_that_all_exclude_do_not_exist(make_args, config_class, mask):
    """The oracle is the classifier that never had them."""
    skip_where_another_model_teaches(config_class)
    whole = four_labels()
    trainers = []
    for model in (two_labels_of(whole), Masked(copy.deepcopy(whole), mask, "all")):
        trainer = make_trainer(make_args, active(config_class), model=model)
        trainer.train()
        trainers.append(trainer)
    small, masked = (trainer.model for trainer in trainers)
    inner = masked.inner
    torch.testing.assert_close(inner.classifier.weight[:2], small.classifier.weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        inner.bert.embeddings.word_embeddings.weight,
        small.bert.embeddings.word_embeddings.weight,
        atol=1e-5,
        rtol=1e-4,
    )
    logs = [[entry for entry in trainer.state.log_history if "loss" in entry] for trainer in trainers]
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("mask", [-math.inf, -1e9])
@every_distilling_method
def test_labels_that_some_examples_exclude_leave_all_finite(make_args, config_class, mask):
    skip_where_another_model_teaches(config_class)
    trainer = make_trainer(make_args, active(config_class), model=Masked(four_labels(), mask, "half"))
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    terms = {name for entry in steps for name in entry if name.startswith("loss_")} - {"loss_base"}
    assert terms
    for entry in steps:
        assert all(math.isfinite(entry[name]) and abs(entry[name]) < 100 for name in {"loss", *terms} & entry.keys())


class ExcludesLater(Masked):
    """Excludes labels in some forward passes only: what was a teacher's answer is then none of the student's."""

    def __init__(self, inner, excluded_when):
        super().__init__(inner, -math.inf, "all")
        self.excluded_when, self.passes = excluded_when, 0

    def forward(self, input_ids, labels=None):
        self.passes += self.training
        self.mask = -math.inf if self.excluded_when(self.passes) else 0.0
        return super().forward(input_ids, labels)


def test_a_term_that_is_not_finite_is_named_before_the_step(make_args):
    """The teacher excludes what the student does not: KL[student ‖ teacher] is infinite without a floor."""
    model = ExcludesLater(four_labels(), lambda passes: passes <= STEPS_PER_EPOCH)
    config = LSTSDConfig(mini_generation_epochs=1, teacher_floor=0.0)
    trainer = make_trainer(make_args, config, model=model)
    with pytest.raises(InputError, match=r"The term `(short|long)` must be finite, got inf while the base loss is fin"):
        trainer.train()
    assert trainer.state.global_step == STEPS_PER_EPOCH
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    # With a floor, and in the other direction while the student excludes nothing, it is finite.
    for config in (
        LSTSDConfig(mini_generation_epochs=1),
        LSTSDConfig(mini_generation_epochs=1, kl_direction="teacher_student"),
    ):
        model = ExcludesLater(four_labels(), lambda passes: passes <= STEPS_PER_EPOCH)
        make_trainer(make_args, config, model=model).train()


CASES = ("student", "teacher", "both", "none")


def _logits_with_exclusions(case):
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 4, 5, dtype=torch.float64, generator=generator)
    for name, logits in (("student", student), ("teacher", teacher)):
        if case in (name, "both"):
            logits[:, 1] = -math.inf
            logits[2, 3] = -math.inf
    return student, teacher


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [*DIVERGENCES, "cross_entropy_to", "cross_entropy_to_uniform"])
def test_every_divergence_with_probabilities_of_zero(name, case, temperature):
    """Value and gradient against finite differences in float64, by hand summed over the labels that count."""
    student, teacher = _logits_with_exclusions(case)
    free = student.isfinite()

    def divergence(values):
        logits = torch.full_like(student, -math.inf).masked_scatter(free, values)
        log_z = torch.log_softmax(teacher / temperature, dim=-1)
        if name == "cross_entropy_to":
            return cross_entropy_to(logits, torch.log_softmax(teacher, dim=-1))
        if name == "cross_entropy_to_uniform":
            return cross_entropy_to(logits, SingleLabel().uniform_targets(logits))
        return DIVERGENCES[name](logits, log_z, temperature)

    values = student[free].clone().requires_grad_()
    result = divergence(values)
    expected = [_by_hand(name, row, other, temperature) for row, other in zip(student, teacher, strict=True)]
    torch.testing.assert_close(result.detach(), torch.tensor(expected, dtype=torch.float64))
    if result.isfinite().all():
        assert torch.autograd.gradcheck(divergence, (values,))


def _by_hand(name, student, teacher, temperature):
    temperature = 1.0 if name.startswith("cross") else temperature
    p, z = (probabilities(row.tolist(), temperature) for row in (student, teacher))
    if name == "mse":
        return sum((a - b) ** 2 for a, b in zip(p, z, strict=True)) / len(p)
    if name == "cross_entropy_to_uniform":
        left = [a for a in p if a > 0]
        return -sum(math.log(a) for a in left) / len(left)
    pairs = {"student_teacher": (p, z), "teacher_student": (z, p), "cross_entropy_to": (z, p)}[name]
    total = 0.0
    for weight, other in zip(*pairs, strict=True):
        if weight > 0:
            if other == 0:
                return math.inf
            total += weight * ((0 if name == "cross_entropy_to" else math.log(weight)) - math.log(other))
    return total


def probabilities(row, temperature):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


# ---- Outputs that are more than logits ----


class TwoOutputs(nn.Module):
    """A classifier whose outputs have more than a loss and logits."""

    def __init__(self):
        super().__init__()
        self.inner = make_model()
        self.config = self.inner.config

    def forward(self, input_ids, labels=None):
        outputs = self.inner(input_ids, labels=labels)
        return {"loss": outputs.loss, "pooled": outputs.logits.repeat(1, 8), "logits": outputs.logits}


@every_method
def test_outputs_beside_the_logits(make_args, config_class):
    """Methods with predictions of their own score the logits; the others leave Trainer's tuple as it is."""
    skip_where_states_are_needed(config_class)
    shapes = []
    trainer = make_trainer(make_args, active(config_class), model=TwoOutputs(), eval_strategy="epoch")
    trainer.compute_metrics = lambda prediction: shapes.append(_shapes(prediction.predictions)) or {"rows": 6}
    trainer.train()
    trainer.evaluate()
    first = (6, 2) if trainer.teacher.predicts_with_copies else [(6, 16), (6, 2)]
    assert first in shapes
    assert all(shape in (first, (6, 2)) for shape in shapes)
    assert trainer.predict(trainer.eval_dataset).predictions is not None


def _shapes(predictions):
    is_tuple = isinstance(predictions, tuple | list)
    return [item.shape for item in predictions] if is_tuple else predictions.shape


# ---- Subclasses with a loader or sampler of their own ----


class Oversampling(LSTSDTrainer):
    """Draws the examples of one label twice as often, from `self.train_dataset` and `self.data_collator`."""

    def get_train_dataloader(self):
        twice = [2.0 if row["labels"] else 1.0 for row in self.train_dataset]
        generator = torch.Generator().manual_seed(0)
        sampler = WeightedRandomSampler(twice, num_samples=16, generator=generator)
        return self.accelerator.prepare(
            DataLoader(self.train_dataset, batch_size=4, sampler=sampler, collate_fn=self.data_collator)
        )


class SubsetOnly(LSTSDTrainer):
    def get_train_dataloader(self):
        rows = Subset(self.train_dataset, [1, 3, 5, 7])
        return DataLoader(rows, batch_size=2, collate_fn=self.data_collator, shuffle=True)


class SamplesByLabel(LSTSDTrainer):
    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        rows = sorted(range(len(dataset)), key=lambda index: dataset[index]["labels"])
        return _InOrder(rows)


class _InOrder(RandomSampler):
    def __init__(self, rows):
        super().__init__(rows)
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


class Joined:
    """Several loaders, one after the other."""

    def __init__(self, *loaders):
        self.loaders = loaders

    def __len__(self):
        return sum(map(len, self.loaders))

    def __iter__(self):
        return itertools.chain(*self.loaders)


class Twice(LSTSDTrainer):
    def get_train_dataloader(self):
        return Joined(super().get_train_dataloader(), super().get_train_dataloader())


class Halves(LSTSDTrainer):
    """Two loaders of Trainer's own over parts of `self.train_dataset`."""

    def get_train_dataloader(self):
        parts = Subset(self.train_dataset, range(7)), Subset(self.train_dataset, range(7, 14))
        return Joined(*(self._get_dataloader(part, "Training", 4, is_training=True) for part in parts))


@pytest.mark.parametrize("trainer_class", [Oversampling, SubsetOnly, SamplesByLabel, Twice, Halves])
@every_distilling_method
def test_the_natural_subclass_trains(make_args, config_class, trainer_class):
    trainer = make_trainer(make_args, active(config_class), trainer_class)
    trainer.train()
    assert trainer.distilled_steps > 0
    # lstsd_single predicts all examples itself.
    if config_class.name in HAVE_MEMORY - {"lstsd_single"} and trainer_class is SubsetOnly:
        assert trainer.teacher.memory.coverage == pytest.approx(4 / 14)


@every_distilling_method
def test_a_loader_over_other_data_names_the_remedy(make_args, config_class):
    class OtherData(LSTSDTrainer):
        def get_train_dataloader(self):
            return DataLoader(make_examples(8, seed=9), batch_size=4, collate_fn=self.data_collator)

    with pytest.raises(InputError, match=r"must load from `self.train_dataset`"):
        make_trainer(make_args, active(config_class), OtherData).train()


@pytest.mark.parametrize("drop", ["remove_unused_columns", "select_columns", "with_format"])
def test_a_loader_may_drop_columns(make_args, drop):
    class Own(Trainer):
        def get_train_dataloader(self):
            data = self.train_dataset
            if drop == "remove_unused_columns":
                data = self._remove_unused_columns(data, description="training")
            elif drop == "select_columns":
                data = data.remove_columns("note").select_columns(["input_ids", "labels"])
            else:
                data = data.with_format("torch", columns=["input_ids", "labels"])
            return DataLoader(data, batch_size=4, shuffle=True, collate_fn=self.data_collator)

    class Ours(SelfDistillationMixin, Own):
        pass

    data = datasets.Dataset.from_list([{**row, "note": "none"} for row in make_examples(14)])
    models = []
    for teacher in {}, {"teacher": LSTSDConfig.neutral()}, {"teacher": LSTSDConfig()}:
        torch.manual_seed(5)
        args = make_args(num_train_epochs=6, learning_rate=1e-2)
        trainer = (Ours if teacher else Own)(args=args, model=make_model(), train_dataset=data, **teacher)
        trainer.train()
        models.append(trainer.model)
    assert_same_weights(*models[:2])
    assert trainer.teacher.memory.coverage == 1.0
    with pytest.raises(AssertionError):
        assert_same_weights(*models[1:])


class NeedsLabels(torch.nn.Module):
    """Computes its loss whether there are labels or not."""

    def __init__(self):
        super().__init__()
        self.model = make_model()

    def forward(self, input_ids, labels=None):
        logits = self.model(input_ids=input_ids).logits
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_a_model_that_needs_labels_is_told_who_ran_it_without(make_args):
    make_trainer(make_args, LSTSDConfig(), model=NeedsLabels()).train()
    with pytest.raises(TypeError, match="must be Tensor, not NoneType") as error:
        make_trainer(make_args, RDropConfig(), model=NeedsLabels()).train()
    assert error.value.__notes__ == [
        "The method runs NeedsLabels apart from the training step, without labels. Let its `forward` do without them, "
        "or choose a method that does not run it, such as lstsd."
    ]


def test_joined_loaders(make_args):
    """An epoch has each example twice, and remembers the mean of its two outputs."""
    seen, columns = [], {"rows": [], "indices": []}

    class Spy(Observer):
        name, is_stateful = "spy", False

        def on_epoch_begin(self, progress):
            seen.clear()

        def observe(self, batch):
            seen.append((batch.indices, batch.student_logits.detach()))

    trainer = make_trainer(make_args, LSTSDConfig(mini_generation_epochs=1), Twice, observers=[Spy()])
    trainer.train()
    for indices, rows in seen:
        columns["indices"] += indices.tolist()
        columns["rows"] += rows
    assert sorted(columns["indices"]) == sorted([*range(14)] * 2)
    expected = torch.zeros(14, 2).index_add_(0, torch.tensor(columns["indices"]), torch.stack(columns["rows"]) / 2)
    torch.testing.assert_close(trainer.teacher.memory.short_term_logits, expected)

    resumed = make_trainer(make_args, LSTSDConfig(mini_generation_epochs=1), Twice, observers=[Spy()])
    resumed.args.save_strategy = "steps"
    resumed.add_callback(SavesAt((5,)))
    resumed.train()
    with pytest.raises(InputError, match=r"can only be resumed with a `torch.utils.data.DataLoader`, got Joined from "):
        resumed.train(resume_from_checkpoint=True)

    class OtherData(LSTSDTrainer):
        def get_train_dataloader(self):
            other = DataLoader(make_examples(8, seed=9), batch_size=4, collate_fn=self.data_collator)
            return Joined(super().get_train_dataloader(), other)

    with pytest.raises(InputError, match=r"or join loaders from `super\(\)\.get_train_dataloader\(\)`"):
        make_trainer(make_args, trainer_class=OtherData).train()


# ---- Wrapped models ----


def compiled(model):
    return torch.compile(model, backend="eager")


def with_adapters(model):
    peft = pytest.importorskip("peft")
    layers = {"target_modules": ["query", "value"], "modules_to_save": ["classifier"]}
    config = peft.LoraConfig(r=2, init_lora_weights=False, **layers)
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("wrap", [compiled, with_adapters])
@every_distilling_method
def test_a_wrapped_model_is_called_as_the_model_inside(make_args, config_class, wrap):
    torch.manual_seed(0)
    model = wrap(make_model())
    trainer = make_trainer(make_args, active(config_class), model=model, remove_unused_columns=False)
    trainer.train()
    assert trainer.distilled_steps > 0
    assert math.isfinite(trainer.evaluate()["eval_loss"])


# ---- Two forward passes in a step ----


class Adversarial(LSTSDTrainer):
    """The mean of the loss of a batch and of the same batch with disturbed weights, as adversarial training has it."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        clean = super().training_step(model, inputs, num_items_in_batch)
        with torch.no_grad():
            model.classifier.bias += 3.0 * torch.tensor([1.0, -1.0])
        super().training_step(model, inputs, num_items_in_batch)
        with torch.no_grad():
            model.classifier.bias -= 3.0 * torch.tensor([1.0, -1.0])
        return clean


@every_distilling_method
def test_the_first_pass_of_a_step_teaches(make_args, config_class):
    """The disturbed pass is far off: what the teacher was shown, and what is logged, is the clean one."""
    model = make_model(dropout=0.0)
    trainer = make_trainer(make_args, active(config_class), Adversarial, model=model, learning_rate=1e-5)
    shown, observe = [], trainer.teacher.observe
    trainer.teacher.observe = lambda batch: (shown.append(batch), observe(batch))
    examples = torch.tensor([row["input_ids"] for row in trainer.train_dataset])
    with torch.no_grad():
        clean = copy.deepcopy(model).eval()(examples).logits
    trainer.train()
    assert len(shown) == trainer.state.global_step
    for batch in shown:
        torch.testing.assert_close(batch.student_logits, clean[batch.indices], atol=0.1, rtol=0)
    if config_class.name in ("lstsd", "temporal_ensemble"):
        rows = trainer.teacher.example_probabilities()[0]
        torch.testing.assert_close(rows, clean.softmax(dim=-1), atol=0.1, rtol=0)
    for entry in trainer.state.log_history:
        if "loss_base" in entry:
            parts = [entry[name] for name in entry if name.startswith("loss_") and name != "loss_base"]
            # Some examples have no weight before the anchor.
            if config_class.name == "lstsd" or not (parts or config_class.name == "anchored"):
                assert entry["loss"] == pytest.approx(entry["loss_base"] + sum(parts), abs=1e-3)


# ---- No answer for an error ----


class Interrupts(TrainerCallback):
    """Ctrl-C."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", sorted(HAVE_MEMORY))
def test_label_errors_of_an_interrupted_first_epoch(make_args, name):
    trainer = make_trainer(make_args, active(METHODS[name]), callbacks=[Interrupts()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    for ask in (trainer.teacher.rank_label_errors, trainer.teacher.example_probabilities):
        with pytest.raises(InputError, match="must have predictions for the training examples"):
            ask()


# ---- Callbacks that come and go ----


@pytest.mark.parametrize(("logging", "saving"), [("no", "no"), ("epoch", "epoch")])
@every_distilling_method
def test_without_other_callbacks_it_distils_all_the_same(make_args, config_class, logging, saving):
    trainer = make_trainer(make_args, active(config_class), logging_strategy=logging, save_strategy=saving)
    for callback in list(trainer.callback_handler.callbacks):
        if not isinstance(callback, DefaultFlowCallback):
            trainer.remove_callback(callback)
    trainer.train()
    reference = make_trainer(make_args, active(config_class), logging_strategy=logging, save_strategy=saving)
    reference.train()
    assert trainer.distilled_steps == reference.distilled_steps > 0
    assert_same_weights(trainer.model, reference.model)


class RunsTheLoader(TrainerCallback):
    """Runs the model over the training batches that a callback is handed."""

    def __init__(self):
        self.keys = set()

    def on_epoch_end(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        assert len(train_dataloader) == STEPS_PER_EPOCH
        with torch.no_grad():
            for batch in itertools.islice(train_dataloader, 2):
                self.keys |= set(batch)
                model(**batch)


class StrictModel(nn.Module):
    """A model whose forward has no `**kwargs`."""

    def __init__(self):
        super().__init__()
        self.inner = make_model()
        self.config = self.inner.config

    def forward(self, input_ids, labels=None):
        return self.inner(input_ids, labels=labels)


@every_method
def test_a_callback_is_handed_the_batches_of_the_users_loader(make_args, config_class):
    skip_where_states_are_needed(config_class)
    looks = RunsTheLoader()
    make_trainer(make_args, active(config_class), model=StrictModel(), callbacks=[looks]).train()
    assert looks.keys == {"input_ids", "labels"}


# ---- Signatures and options ----


def test_the_signature_shows_the_parameters_of_trainer():
    names = list(inspect.signature(LSTSDTrainer.__init__).parameters)
    own = list(inspect.signature(Trainer.__init__).parameters)
    assert names == [*own, "teacher", "memory_storage", "observers", "record_dynamics"]


@every_method
def test_a_class_in_the_place_of_its_options(make_args, config_class):
    with pytest.raises(TypeError, match=rf"Pass an object: `teacher={config_class.__name__}\(\)`"):
        make_trainer(make_args, config_class)


@every_method
def test_an_option_of_a_wrong_kind_is_named(config_class):
    options = [option for option in dataclasses.fields(config_class) if option.init]
    numbers = [option.name for option in options if option.type in (float, "float")]
    for name in numbers:
        with pytest.raises(InputError, match=f"`{name}` of {config_class.__name__} must be a number"):
            config_class(**{name: "1"})
    assert numbers or config_class.name in ("vanilla", "snapshot_ensemble")
