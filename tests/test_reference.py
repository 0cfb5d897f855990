"""The trainer against a literal, loop-based Algorithm 1 that shares no code with the package."""

import copy

import pytest
import torch
from transformers import TrainerCallback

from lstsd_hf import LSTSDConfig, LSTSDTrainer
from lstsd_hf.reference import train_algorithm_1
from tests.helpers import assert_same_weights, make_examples, make_model, weights

NUM_EXAMPLES = 14  # batches of 4, the last one of 2


class Recorder:
    """The user's collator and a callback: which examples each batch had, and what each epoch left behind."""

    def __init__(self):
        self.batches = []
        self.rng_states = []
        self.snapshots = []

    def collate(self, features):
        self.batches.append([feature["uid"] for feature in features])
        return {name: torch.tensor([feature[name] for feature in features]) for name in ("input_ids", "labels")}

    def before_forward(self, module, args, kwargs):
        self.rng_states.append(torch.get_rng_state())


class Snapshots(TrainerCallback):
    """Copies weights and tables when an epoch's first step begins, where the previous epoch is wholly done."""

    def __init__(self, recorder, trainer):
        self.recorder, self.trainer = recorder, trainer

    def take(self):
        memory = self.trainer.teacher.memory
        self.recorder.snapshots.append(
            (
                weights(self.trainer.model),
                memory.short_term_logits.clone(),
                memory.short_term_written.clone(),
                memory.long_term_logits.clone(),
                memory.long_term_written.clone(),
            )
        )

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step and state.epoch == int(state.epoch):
            self.take()

    def on_train_end(self, args, state, control, **kwargs):
        self.take()


def check_against_oracle(
    config, make_args, dtype, tolerance, optim="sgd", epochs=6, learning_rate=0.05, drop_last=False
):
    data = [{**row, "uid": index} for index, row in enumerate(make_examples(NUM_EXAMPLES, num_labels=3))]
    # Small weights where rounding counts: the tolerance is absolute, and logits of 3 have a last place of 2e-7.
    model = make_model(num_labels=3, initializer_range=0.1 if dtype == torch.float32 else 0.3).to(dtype)
    reference = copy.deepcopy(model)
    recorder = Recorder()
    trainer = LSTSDTrainer(
        model=model,
        args=make_args(
            num_train_epochs=epochs,
            optim=optim,
            learning_rate=learning_rate,
            remove_unused_columns=False,
            dataloader_drop_last=drop_last,
        ),
        train_dataset=data,
        data_collator=recorder.collate,
        teacher=config,
    )
    trainer.add_callback(Snapshots(recorder, trainer))
    handle = model.register_forward_pre_hook(recorder.before_forward, with_kwargs=True)
    trainer.train()
    handle.remove()

    per_epoch = NUM_EXAMPLES // 4 if drop_last else -(-NUM_EXAMPLES // 4)
    assert len(recorder.batches) == per_epoch * epochs
    first_epoch = [uid for batch in recorder.batches[:per_epoch] for uid in batch]
    assert len(set(first_epoch)) == (12 if drop_last else NUM_EXAMPLES)
    steps = [
        (
            uids,
            {"input_ids": torch.tensor([data[uid]["input_ids"] for uid in uids])},
            torch.tensor([data[uid]["labels"] for uid in uids]),
        )
        for uids in recorder.batches
    ]
    states = iter(recorder.rng_states)
    reference.register_forward_pre_hook(lambda module, args: torch.set_rng_state(next(states)))
    optimizer_class = {"sgd": torch.optim.SGD, "adamw_torch": torch.optim.AdamW}[optim]
    options = {} if optim == "sgd" else {"weight_decay": 0.0}
    optimizer = optimizer_class(reference.parameters(), lr=learning_rate, **options)
    total = len(steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, (total - step) / total))
    oracle = train_algorithm_1(
        reference,
        [steps[start : start + per_epoch] for start in range(0, total, per_epoch)],
        optimizer,
        scheduler,
        mini_generation_epochs=config.mini_generation_epochs,
        lambda_short=config.lambda_short,
        lambda_long=config.lambda_long,
        temperature=config.temperature,
        kl_direction=config.kl_direction,
        teacher_floor=config.teacher_floor,
        t_squared=config.t_squared,
    )
    compared = 0
    for (epoch, short, long), (found, *tables) in zip(oracle, recorder.snapshots, strict=True):
        assert_same_weights(found, weights(reference), atol=tolerance, rtol=0)
        for expected, logits, written in ((short, *tables[:2]), (long, *tables[2:])):
            assert written.nonzero().flatten().tolist() == sorted(expected)
            for index, row in expected.items():
                torch.testing.assert_close(logits[index], row, atol=tolerance, rtol=0)
        compared += 1
        assert drop_last or len(short) == NUM_EXAMPLES
        assert bool(long) == (epoch + 1 >= config.mini_generation_epochs)
    assert compared == epochs
    assert trainer.distilled_steps == per_epoch * (epochs - config.mini_generation_epochs)


@pytest.mark.parametrize("teacher_floor", [0.0, 1e-4])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kl_direction", ["student_teacher", "teacher_student"])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "optim", "learning_rate"),
    [
        (torch.float32, 1e-6, "sgd", 0.05),
        (torch.float64, 1e-10, "sgd", 0.2),
        (torch.float64, 1e-10, "adamw_torch", 1e-2),
    ],
)
def test_weights_and_tables_equal_algorithm_1(
    make_args, kl_direction, temperature, teacher_floor, dtype, tolerance, optim, learning_rate
):
    config = LSTSDConfig(
        lambda_short=4.0,
        lambda_long=2.4,
        mini_generation_epochs=2,
        kl_direction=kl_direction,
        temperature=temperature,
        teacher_floor=teacher_floor,
    )
    check_against_oracle(config, make_args, dtype, tolerance, optim, learning_rate=learning_rate)


@pytest.mark.parametrize(
    "options",
    [
        {"lambda_short": 0.0, "lambda_long": 2.4},
        {"lambda_short": 4.0, "lambda_long": 0.0},
        {"lambda_short": 4.0, "lambda_long": 2.4, "mini_generation_epochs": 1},
        {"lambda_short": 4.0, "lambda_long": 2.4, "mini_generation_epochs": 4},
        {"lambda_short": 1.0, "lambda_long": 1.0, "temperature": 2.0, "t_squared": True},
        {"lambda_short": 1.0, "lambda_long": 1.0, "teacher_floor": 0.2},
    ],
)
def test_variants_equal_algorithm_1(make_args, options):
    config = LSTSDConfig(**{"mini_generation_epochs": 2, "teacher_floor": 0.0, **options})
    check_against_oracle(config, make_args, torch.float64, 1e-10, learning_rate=0.2)


def test_unvisited_examples_equal_algorithm_1(make_args):
    """`drop_last` leaves two examples an epoch unvisited: no teacher at first, an older one later."""
    config = LSTSDConfig(lambda_short=4.0, lambda_long=2.4, mini_generation_epochs=1, teacher_floor=0.0)
    check_against_oracle(config, make_args, torch.float64, 1e-10, learning_rate=0.2, drop_last=True)
