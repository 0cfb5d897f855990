"""Every way in which Trainer is used: LSTSD's terms against an account kept beside it, in dicts and by definition."""

import copy
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from lstsd_hf import (
    LSTSD,
    METHODS,
    LSTSDConfig,
    LSTSDTrainer,
    MeanTeacherConfig,
    SelfDistillationMixin,
    SnapshotEnsembleConfig,
    Teacher,
    TeacherMemory,
    TemporalEnsembleConfig,
)
from lstsd_hf.context import TrainingContext
from lstsd_hf.errors import InputError
from lstsd_hf.memory import IN_MEMORY, TableStorage
from lstsd_hf.methods.base import separate
from lstsd_hf.reference import ReferenceTeachers
from tests import helpers
from tests.helpers import (
    CrossEntropyTeacher,
    Gradients,
    NoKwargsModel,
    assert_same_weights,
    grouped_by_length,
    make_examples,
    make_model,
)

LENGTH, SHORT, LONG = 2, 2.0, 1.0
CONFIG = LSTSDConfig(lambda_short=SHORT, lambda_long=LONG, mini_generation_epochs=LENGTH, teacher_floor=0.0)


class Account:
    """What Algorithm 1 says of each batch, from the outputs that the batches before it had."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.begin()
        terms_of = trainer.teacher.loss_terms
        reset = trainer.teacher.reset

        def spy(batch):
            terms = terms_of(batch)
            self.note(batch, terms)
            return terms

        trainer.teacher.loss_terms = spy
        trainer.teacher.reset = lambda: (self.begin(), reset())

    def begin(self):
        self.epoch, self.batches, self.distilled = 0, 0, 0
        self.teachers = ReferenceTeachers()
        self.largest = 0.0

    def transition(self):
        self.epoch += 1
        self.teachers.end_epoch(self.epoch % LENGTH == 0)

    def note(self, batch, terms):
        while self.epoch < batch.progress.epoch:
            self.transition()
        student = batch.student_logits.detach().double()
        assert batch.student_logits.dtype == torch.float32
        assert bool(terms) == (self.epoch >= LENGTH)
        apart = separate(terms)
        for name, table in (("short", self.teachers.short), ("long", self.teachers.long)) if terms else ():
            expected = [
                torch.distributions.kl_divergence(
                    torch.distributions.Categorical(logits=row),
                    torch.distributions.Categorical(logits=table[index].double()),
                )
                if index in table
                else torch.zeros((), dtype=torch.float64)
                for index, row in zip(batch.indices.tolist(), student, strict=True)
            ]
            found = apart[name].per_example.detach().double()
            torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)
            self.largest = max(self.largest, float(found.max()))
        for index, row in zip(batch.indices.tolist(), batch.student_logits.detach(), strict=True):
            self.teachers.observe(index, row.clone())
        self.batches += 1
        self.distilled += bool(terms)

    def check(self, epochs):
        """After training: something was distilled, the tables are the account's, and the logs add up."""
        teacher = self.trainer.teacher
        while self.epoch < epochs:
            self.transition()
        assert self.distilled > 0
        assert self.largest > 1e-4
        assert teacher.memory.epoch == epochs
        for table, written, account in (
            (teacher.memory.short_term_logits, teacher.memory.short_term_written, self.teachers.short),
            (teacher.memory.long_term_logits, teacher.memory.long_term_written, self.teachers.long),
        ):
            assert written.nonzero().flatten().tolist() == sorted(account)
            for index, row in account.items():
                torch.testing.assert_close(table[index], row.float(), rtol=1e-5, atol=1e-6)
        entries = [entry for entry in self.trainer.state.log_history if "loss" in entry]
        for entry in entries:
            whole = entry["loss_base"] + SHORT * entry.get("loss_short", 0.0) + LONG * entry.get("loss_long", 0.0)
            assert entry["loss"] == pytest.approx(whole, rel=2e-3, abs=1e-5)
        assert any(entry.get("loss_short", 0.0) > 0 for entry in entries)


make_trainer = partial(helpers.make_trainer, teacher=CONFIG, eval_dataset=make_examples(6, seed=1))


def lora():
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(
        make_model(), peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    )


# Options of each way, and the number of epochs that are begun.
WAYS = {
    "plain": (dict, 6),
    "bf16-autocast": (lambda: {"bf16": True}, 6),
    "bf16-model": (lambda: {"model": make_model().to(torch.bfloat16), "learning_rate": 5e-2}, 6),
    "compile-eager": (lambda: {"torch_compile": True, "torch_compile_backend": "eager"}, 6),
    "compile-inductor": (lambda: {"torch_compile": True, "num_train_epochs": 4}, 4),
    "gradient-checkpointing": (lambda: {"gradient_checkpointing": True}, 6),
    "accumulation": (lambda: {"gradient_accumulation_steps": 3}, 6),
    "accumulation-no-kwargs": (lambda: {"model": NoKwargsModel(make_model()), "gradient_accumulation_steps": 2}, 6),
    "max-steps": (lambda: {"max_steps": 18}, 5),
    "fractional-epochs": (lambda: {"num_train_epochs": 3.5}, 4),
    "group-by-length": (grouped_by_length, 6),
    "drop-last": (lambda: {"dataloader_drop_last": True}, 6),
    "best-model": (
        lambda: {
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
        },
        6,
    ),
    "label-smoothing": (lambda: {"label_smoothing_factor": 0.2}, 6),
    "neftune": (lambda: {"neftune_noise_alpha": 5.0}, 6),
    "lora": (lambda: {"model": lora(), "learning_rate": 5e-2}, 6),
    "evaluation-in-training": (lambda: {"eval_strategy": "steps", "eval_steps": 1}, 6),
    "sgd-and-no-clipping": (lambda: {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1}, 6),
}


@pytest.mark.parametrize("way", WAYS)
def test_terms_tables_and_logs(make_args, way):
    options, epochs = WAYS[way]
    if way == "compile-inductor" and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    trainer = make_trainer(make_args, **options())
    account = Account(trainer)
    trainer.train()
    account.check(epochs)


# ---- fp16: autocast and loss scaling as on a GPU, which accelerate leaves off on a CPU ----


def scaling(trainer, initial):
    """Has a trainer with `fp16` compute in half precision, and scale its losses by a factor that soon grows."""
    assert trainer.args.fp16
    trainer.accelerator.native_amp = True
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=initial, growth_interval=5)
    return trainer


@pytest.mark.parametrize("accumulation", [1, 2])
def test_fp16(make_args, accumulation):
    """Batches whose step is left out are remembered like any other; terms and logs are those of unscaled losses."""
    trainer = make_trainer(make_args, fp16=True, gradient_accumulation_steps=accumulation)
    account = Account(scaling(trainer, 2.0**20))
    halves = []
    trainer.model.classifier.register_forward_hook(lambda module, args, output: halves.append(output.dtype))
    trainer.train()
    assert set(halves) == {torch.float16}
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    # The scale is too large at first, and again whenever it has grown.
    assert 0 < sum(map(math.isfinite, norms)) < len(norms)
    account.check(6)


def test_fp16_and_no_distillation_is_stock_trainer(make_args):
    weights = []
    for trainer_class, options in ((Trainer, {}), (LSTSDTrainer, {"lambda_short": 0.0, "lambda_long": 0.0})):
        trainer = trainer_class(
            model=make_model(),
            args=make_args(num_train_epochs=4, fp16=True),
            train_dataset=make_examples(14),
            **({"teacher": LSTSDConfig(mini_generation_epochs=1, **options)} if options else {}),
        )
        scaling(trainer, 2.0**20).train()
        weights.append((trainer.model, trainer.accelerator.scaler.state_dict()))
    assert_same_weights(weights[0][0], weights[1][0])
    assert weights[0][1] == weights[1][1]


@pytest.mark.parametrize("step", [3, 8, 13])
def test_fp16_resumes_exactly(make_args, tmp_path, step):
    def run(folder, **options):
        return scaling(
            make_trainer(make_args, fp16=True, output_dir=str(tmp_path / folder), save_steps=1, **options), 2.0**20
        )

    whole = run("run", save_strategy="steps")
    whole.train()
    resumed = run("other")
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    assert_same_weights(whole.model, resumed.model)
    assert whole.accelerator.scaler.state_dict() == resumed.accelerator.scaler.state_dict()
    assert torch.equal(whole.teacher.memory.short_term_logits, resumed.teacher.memory.short_term_logits)
    assert torch.equal(whole.teacher.memory.long_term_logits, resumed.teacher.memory.long_term_logits)


def test_early_stopping(make_args):
    stop = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=100.0)
    trainer = make_trainer(
        make_args,
        callbacks=[stop],
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=6,
        save_steps=6,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    account = Account(trainer)
    trainer.train()
    assert trainer.state.global_step == 12
    account.check(3)


def test_auto_find_batch_size(make_args):
    class OutOfMemory(nn.Module):
        """Holds no more than two examples."""

        def __init__(self, model):
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, input_ids, labels=None):
            if len(input_ids) > 2:
                raise RuntimeError("CUDA out of memory.")
            return self.model(input_ids=input_ids, labels=labels)

    trainer = make_trainer(make_args, model=OutOfMemory(make_model()), auto_find_batch_size=True, save_strategy="epoch")
    trainer.eval_dataset = None
    account = Account(trainer)
    trainer.train()
    assert trainer._train_batch_size == 2
    account.check(6)
    # A checkpoint knows the batch that was found.
    again = make_trainer(make_args, model=OutOfMemory(make_model()), auto_find_batch_size=True)
    again.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-21")
    assert_same_weights(again.model, trainer.model)
    # The length of the second try decides what was left out, not that of the first.
    other = LSTSDTrainer(
        model=OutOfMemory(make_model()),
        args=make_args(auto_find_batch_size=True, max_steps=52),
        train_dataset=make_examples(14),
        teacher=LSTSDConfig(),
    )
    other.train()
    assert other.teacher.options.mini_generation_epochs == 2  # 52 steps of 7 an epoch are 8 epochs


def test_repeated_training(make_args):
    trainer = make_trainer(make_args)
    account = Account(trainer)
    for _ in range(2):
        trainer.train()
        account.check(6)
        assert trainer.distilled_steps == 16


def test_hyperparameter_search(make_args):
    pytest.importorskip("optuna")
    accounts = []

    class Counted(LSTSDTrainer):
        def train(self, *args, **kwargs):
            output = super().train(*args, **kwargs)
            accounts[0].check(6)
            accounts.append(self.state.global_step)
            return output

    trainer = Counted(
        model_init=lambda trial: make_model(),
        args=make_args(num_train_epochs=6, eval_strategy="epoch"),
        train_dataset=make_examples(14),
        eval_dataset=make_examples(6, seed=1),
        teacher=CONFIG,
    )
    accounts.append(Account(trainer))
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 5e-3, 1e-2)},
        n_trials=2,
        direction="minimize",
        backend="optuna",
    )
    assert accounts[1:] == [24, 24]
    assert 5e-3 <= best.hyperparameters["learning_rate"] <= 1e-2


def test_another_subclass_of_trainer(make_args):
    class Weighted(Trainer):
        """Weighs the classes, as in many a script."""

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs["labels"]
            outputs = model(**inputs)
            loss = nn.functional.cross_entropy(outputs.logits, labels, weight=torch.tensor([1.0, 3.0]))
            return (loss, outputs) if return_outputs else loss

    class Distilled(SelfDistillationMixin, Weighted):
        pass

    trainer = make_trainer(make_args, trainer_class=Distilled)
    account = Account(trainer)
    trainer.train()
    account.check(6)


def test_two_trainers_do_not_disturb_each_other(make_args, tmp_path):
    """One trains an epoch at a time while the other trains whole runs in between, evaluates and predicts."""

    def first(folder, callbacks=()):
        return make_trainer(make_args, callbacks=list(callbacks), output_dir=str(tmp_path / folder))

    alone = first("alone")
    alone.train()
    other = make_trainer(make_args, output_dir=str(tmp_path / "other"), num_train_epochs=3)

    class TrainTheOther(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            random_state = torch.get_rng_state()
            other.train()
            other.evaluate()
            torch.set_rng_state(random_state)

    together = first("together", [TrainTheOther()])
    account = Account(together)
    together.train()
    account.check(6)
    assert_same_weights(alone.model, together.model)
    assert torch.equal(alone.teacher.memory.short_term_logits, together.teacher.memory.short_term_logits)
    assert other.teacher.memory is not together.teacher.memory


# ---- DataParallel, by an imitation that runs on a CPU ----


class TwoReplicas(nn.Module):
    """What `nn.DataParallel` does on two devices: halves of the batch, losses in a vector, outputs put together."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, **inputs):
        size = len(next(iter(inputs.values())))
        half = math.ceil(size / 2)
        parts = [{name: value[part] for name, value in inputs.items()} for part in (slice(half), slice(half, size))]
        outputs = [self.module(**part) for part in parts if len(next(iter(part.values())))]
        joined = {"logits": torch.cat([output["logits"] for output in outputs])}
        losses = [output["loss"] for output in outputs if "loss" in output]
        return ({"loss": torch.stack(losses)} if losses else {}) | joined


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr(nn, "DataParallel", TwoReplicas)

    def on_two_devices(trainer):
        trainer.args._n_gpu = 2
        trainer._train_batch_size = trainer.args.train_batch_size
        assert trainer.args.train_batch_size == 2 * trainer.args.per_device_train_batch_size
        return trainer

    return on_two_devices


def summed(outputs, labels, num_items_in_batch=None):
    return nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2}, {"label_smoothing_factor": 0.1}, {"compute_loss_func": summed}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_data_parallel(make_args, two_devices, options):
    trainer = two_devices(make_trainer(make_args, per_device_train_batch_size=2, **options))
    account = Account(trainer)
    trainer.train()
    assert isinstance(trainer.model_wrapped, TwoReplicas)
    account.check(6)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("make", [make_model, lambda **options: NoKwargsModel(make_model(**options))])
def test_terms_have_the_scale_of_the_base_loss_under_data_parallel(make_args, two_devices, accumulation, make):
    """A teacher that distils the base loss itself doubles every gradient."""
    found = []
    for weight in (0.0, 1.0):
        gradients = Gradients()
        trainer = LSTSDTrainer(
            model=make(dropout=0.0),
            args=make_args(
                num_train_epochs=1,
                learning_rate=0.0,
                max_grad_norm=0.0,
                per_device_train_batch_size=2,
                gradient_accumulation_steps=accumulation,
            ),
            train_dataset=make_examples(16),
            teacher=CrossEntropyTeacher(weight),
            callbacks=[gradients],
        )
        two_devices(trainer).train()
        found.append(gradients.steps)
    assert len(found[0]) == len(found[1]) == 4 // accumulation
    for alone, doubled in zip(*found, strict=True):
        assert max(gradient.abs().max() for gradient in alone.values()) > 1e-3
        for name, gradient in alone.items():
            torch.testing.assert_close(doubled[name], 2 * gradient, rtol=1e-4, atol=1e-6)


def test_weights_of_examples_under_data_parallel(make_args, two_devices):
    """Two examples on one device and one on the other: without weight nothing of either is left."""

    class NoWeight(Teacher):
        def base_loss_weight(self, batch):
            return torch.zeros(len(batch.indices))

    trainer = LSTSDTrainer(
        model=make_model(dropout=0.0),
        args=make_args(num_train_epochs=2, per_device_train_batch_size=2),
        train_dataset=make_examples(7),
        teacher=NoWeight(),
    )
    two_devices(trainer).train()
    assert trainer._example_losses.is_usual
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == pytest.approx([0.0] * 4, abs=1e-6)


# ---- The hub, the memory's device ----


@pytest.mark.parametrize("config", [CONFIG, TemporalEnsembleConfig(), SnapshotEnsembleConfig(), MeanTeacherConfig()])
def test_the_model_card_names_method_and_options(make_args, config):
    trainer = make_trainer(make_args, num_train_epochs=3)
    other = LSTSDTrainer(model=make_model(), args=trainer.args, train_dataset=make_examples(8), teacher=config)
    other.train()
    for _ in range(2):  # written anew each time
        other.create_model_card(model_name="mine", tags="example")
    text = Path(other.args.output_dir, "README.md").read_text(encoding="utf-8")
    assert text.count("### Self-distillation") == 1
    assert f"method `{config.name}`" in text
    for name, value in vars(config.fitted_to(other.teacher.context.plan)).items():
        assert f"- {name}: {value}\n" in text
    assert text.startswith("---\n")
    # Whose scores they are, where they are not those of what is saved.
    assert ("saved here" in text) == (config.name in ("snapshot_ensemble", "mean_teacher"))


def test_a_memory_on_another_device_is_asked_for_by_name(make_args):
    outcomes = []
    for device in (None, "cpu"):
        trainer = LSTSDTrainer(
            model=make_model(),
            args=make_args(num_train_epochs=6, learning_rate=1e-2),
            train_dataset=make_examples(14),
            teacher=copy.deepcopy(CONFIG),
            memory_storage=device,
        )
        trainer.train()
        assert trainer.teacher.context.storage.device == torch.device("cpu")
        outcomes.append(trainer)
    devices = []

    class Recorded(TeacherMemory):
        def __init__(self, num_examples, num_labels, storage, dtype, merge_device):
            devices.append((str(storage.device), str(merge_device)))
            super().__init__(num_examples, num_labels, IN_MEMORY, dtype, merge_device)

    teacher = CONFIG.build()
    teacher.memory_class = Recorded
    for device in ("cuda", None):
        storage = TableStorage() if device is None else TableStorage(torch.device(device))
        teacher.begin(TrainingContext(4, device="cpu", storage=storage))
        teacher.stage(torch.arange(2), torch.zeros(2, 2))
        teacher.load_state_dict(teacher.state_dict())
    assert devices == [("cuda", "cpu")] * 2 + [("cpu", "cpu")] * 2
    assert_same_weights(outcomes[0].model, outcomes[1].model)
    assert np.array_equal(
        outcomes[0].teacher.memory.short_term_logits.numpy(), outcomes[1].teacher.memory.short_term_logits.numpy()
    )


class Mine(LSTSD):
    pass


def test_hyperparameter_search_over_options_of_the_method(make_args):
    pytest.importorskip("optuna")
    used = []

    class Counted(LSTSDTrainer):
        def train(self, *args, **kwargs):
            output = super().train(*args, **kwargs)
            config = self.teacher.config
            used.append((config.lambda_short, config.mini_generation_epochs, self.args.learning_rate))
            assert isinstance(self.teacher, Mine)
            assert self.distilled_steps == 24 - 4 * config.mini_generation_epochs
            return output

    trainer = Counted(
        model_init=lambda trial: make_model(),
        args=make_args(num_train_epochs=6, eval_strategy="epoch"),
        train_dataset=make_examples(14),
        eval_dataset=make_examples(6, seed=1),
        # A subclass of one's own, from whole numbers.
        teacher=Mine(LSTSDConfig(lambda_short=1, mini_generation_epochs=2)),
        memory_storage="cpu",
    )
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_float("learning_rate", 5e-3, 1e-2),
            "lambda_short": trial.suggest_float("lambda_short", 0.5, 2.0),
            "mini_generation_epochs": trial.suggest_categorical("mini_generation_epochs", [1, 3]),
        },
        n_trials=3,
        direction="minimize",
        backend="optuna",
    )
    assert len(set(used)) == 3
    assert all(0.5 <= options[0] <= 2.0 for options in used)
    assert len({options[0] for options in used}) == 3
    assert tuple(best.hyperparameters[name] for name in ("lambda_short", "mini_generation_epochs")) in {
        options[:2] for options in used
    }
    assert trainer.teacher.context.storage.device == torch.device("cpu")
    assert not hasattr(trainer.args, "lambda_short")


def test_hyperparameter_search_over_what_a_variant_has(make_args):
    pytest.importorskip("optuna")
    used = []

    class Counted(LSTSDTrainer):
        def train(self, *args, **kwargs):
            used.append(self.teacher.config)
            return super().train(*args, **kwargs)

    trainer = Counted(
        model_init=lambda trial: make_model(),
        args=make_args(num_train_epochs=4, eval_strategy="epoch"),
        train_dataset=make_examples(8),
        eval_dataset=make_examples(6, seed=1),
        teacher=METHODS["lstsd_no_short"](),
    )
    trainer.hyperparameter_search(
        hp_space=lambda trial: {
            "lambda_long": trial.suggest_float("lambda_long", 0.5, 2.0),
            "mini_generation_epochs": trial.suggest_categorical("mini_generation_epochs", [1, 2, None]),
        },
        n_trials=4,
        direction="minimize",
        backend="optuna",
    )
    assert all(config.name == "lstsd_no_short" and config.lambda_short == 0 for config in used)
    assert len({config.lambda_long for config in used}) == 4


def test_tensor_parallelism_is_refused(make_args):
    trainer = make_trainer(make_args)
    trainer.model._tp_size = 2
    with pytest.raises(InputError, match="LSTSD cannot work under tensor parallelism, got groups of 2 processes"):
        trainer.train()
