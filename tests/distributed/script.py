"""Run by `test_distributed.py`, on one process or under torchrun; leaves what each rank ended with in a folder."""

import os
import sys
import time
from pathlib import Path

import torch
from transformers import (
    DataCollatorForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from lstsd_hf import (
    METHODS,
    DLBConfig,
    LatestMemory,
    LSTSDConfig,
    LSTSDTrainer,
    Observer,
    SelfRegulatedConfig,
    TableStorage,
)
from lstsd_hf.distributed import num_processes, rank
from lstsd_hf.dynamics import History, cross_validate, files
from lstsd_hf.images import EpochOfImages
from tests.helpers import (
    CrossEntropyTeacher,
    InOrder,
    PassesOn,
    SavesAt,
    active,
    freeze_what_is_there,
    gradients,
    grouped_by_length,
    make_examples,
    make_model,
    ragged_rows,
    tokenizer,
)
from tests.images.helpers import make_network, make_pictures

# transformers 5.17 loads the optimizer onto "cpu:0" on two CPU processes, a name that torch does not know by itself.
torch.serialization.register_package(
    0, lambda storage: None, lambda storage, location: storage if location == "cpu:0" else None
)


def arguments(folder, **options):
    defaults = {
        "output_dir": str(folder),
        "num_train_epochs": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "disable_tqdm": True,
        "report_to": [],
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**(defaults | options))


def outcome(trainer):
    return {
        **trainer.teacher.memory.state_dict(),
        "weights": trainer.model.state_dict(),
        "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
        "distilled_steps": trainer.distilled_steps,
    }


def train(folder, model, *, resume=None, num_examples=13, weight=1.0, storage=None, **options):
    trainer = LSTSDTrainer(
        model=model,
        args=arguments(folder, **options),
        train_dataset=make_examples(num_examples),
        teacher=LSTSDConfig(lambda_short=2.0 * weight, lambda_long=weight, mini_generation_epochs=2),
        memory_storage=storage,
    )
    trainer.train(resume_from_checkpoint=resume)
    return outcome(trainer)


def train_method(folder, config, resume=None):
    """A run with accumulation, evaluation and checkpoints, whole or resumed."""
    trainer = LSTSDTrainer(
        model=make_model(),
        args=arguments(
            folder,
            num_train_epochs=4,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            save_strategy="steps",
            save_steps=1000,
            eval_strategy="steps",
            eval_steps=4,
        ),
        train_dataset=make_examples(13),
        eval_dataset=make_examples(5, seed=1),
        callbacks=[] if resume else [SavesAt((4, WITHIN_AN_EPOCH))],
        compute_metrics=lambda prediction: {"mean": float(prediction.predictions.mean())},
        teacher=config,
    )
    trainer.train(resume_from_checkpoint=resume)
    return {
        "weights": trainer.model.state_dict(),
        "teacher": trainer.teacher.state_dict(),
        "distilled_steps": trainer.distilled_steps,
        "scores": [entry for entry in trainer.state.log_history if "eval_loss" in entry],
    }


WITHIN_AN_EPOCH = 5  # of 2 steps, with rows staged

SHARDING = {
    "even_batches": {},
    "drop_last": {"dataloader_drop_last": True},
    "split_batches": {"accelerator_config": {"split_batches": True}, "per_device_train_batch_size": 6},
    "dispatch_batches": {"accelerator_config": {"dispatch_batches": True}},
    "dispatched_split_batches": {
        "accelerator_config": {"dispatch_batches": True, "split_batches": True},
        "per_device_train_batch_size": 6,
    },
}


def tables_and_what_was_seen(folder, **options):
    """The short-term table after training, and every output of the last epoch on this process."""
    trainer = LSTSDTrainer(
        model=make_model(),
        args=arguments(folder, **{"num_train_epochs": 3, "per_device_train_batch_size": 2, **options}),
        train_dataset=make_examples(13),
        teacher=LSTSDConfig(mini_generation_epochs=1),
    )
    seen = []
    observe = trainer.teacher.observe

    def spy(batch):
        seen.append((batch.progress.epoch, batch.indices.clone(), batch.student_logits.detach().clone()))
        observe(batch)

    trainer.teacher.observe = spy
    trainer.train()
    memory = trainer.teacher.memory
    return {
        "rows": memory.short_term_logits.clone(),
        "written": memory.short_term_written.clone(),
        "seen": seen,
        "weights": trainer.model.state_dict(),
        "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
    }


def against_stock(folder, config):
    """The weights of stock Trainer and of ours without effect, on as many processes."""
    found = []
    for trainer_class, own in ((Trainer, {}), (LSTSDTrainer, {"teacher": config})):
        trainer = trainer_class(
            model=make_model(),
            args=arguments(folder, num_train_epochs=3, per_device_train_batch_size=2, gradient_accumulation_steps=2),
            train_dataset=make_examples(13),
            **own,
        )
        trainer.train()
        found.append(trainer.model.state_dict())
    return found


def same_global_batch(
    folder,
    config,
    resume=None,
    model=None,
    data=None,
    average_tokens_across_devices=False,
    trainer_class=LSTSDTrainer,
    **options,
):
    """A run that is the same on any number of processes that divides 12: 24 examples in global batches of 12."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    trainer = trainer_class(
        model=model or make_model(dropout=0.0),
        args=arguments(
            folder,
            per_device_train_batch_size=12 // processes,
            optim="sgd",
            learning_rate=0.1,
            average_tokens_across_devices=average_tokens_across_devices,
            save_strategy="steps",
            save_steps=WITHIN_AN_EPOCH,
        ),
        train_dataset=data or make_examples(24),
        teacher=config,
        **options,
    )
    trainer.train(resume_from_checkpoint=resume)
    state = {name: value for name, value in trainer.teacher.state_dict().items() if torch.is_tensor(value)}
    return {
        "weights": trainer.model.state_dict(),
        "teacher": state,
        "loss": trainer.state.log_history[-2]["loss"],
        "anchor_epoch": getattr(trainer.teacher, "anchor_epoch", None),
    }


def language_model(folder, config):
    """Ragged sentences, some without any label; the loss of a token has the same weight on every process."""
    torch.manual_seed(0)
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=60, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **sizes))
    data = [{**row, "labels": row["input_ids"]} for row in ragged_rows(24)]
    collate = DataCollatorForTokenClassification(tokenizer())
    # All that the first process draws first, of two or three.
    for row in data[:6]:
        row["labels"] = [-100] * len(row["labels"])
    own = {"data_collator": collate, "trainer_class": InOrder, "average_tokens_across_devices": True}
    return same_global_batch(folder, config, model=model, data=data, **own)


class NextToken(torch.nn.Module):
    """A language model of which only its loss tells that it is one."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(60, 8), torch.nn.Linear(8, 60)

    def forward(self, input_ids, labels=None):
        logits = self.head(self.embedding(input_ids))
        if labels is None:
            return {"logits": logits}
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits}


def predicts_the_next(folder):
    """What the loss told of such a model."""
    data = [{**row, "labels": row["input_ids"]} for row in make_examples(24)]
    trainer = LSTSDTrainer(model=NextToken(), args=arguments(folder, num_train_epochs=3), train_dataset=data)
    trainer.train()
    return trainer.teacher.context.token_index.is_shifted


def pictures(folder):
    """Augmented pictures; a network that does not normalise by the batch, which processes share."""
    network, data = make_network(), make_pictures(24, crop_padding=2, flip=True)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train = lambda mode=True: None
            module.training = False
    options = {"data_collator": default_data_collator, "callbacks": [EpochOfImages(data)]}
    return same_global_batch(folder, active(LSTSDConfig), model=network, data=data, **options)


def grouped(folder):
    """The examples of each epoch on this process, in batches of like lengths; dropout draws more for longer ones."""
    options = grouped_by_length(12)
    strategy = options.pop("train_sampling_strategy")
    trainer = LSTSDTrainer(
        model=make_model(),
        args=arguments(folder, num_train_epochs=3, per_device_train_batch_size=2, train_sampling_strategy=strategy),
        teacher=LSTSDConfig(mini_generation_epochs=1),
        **options,
    )
    seen, observe = [[] for _ in range(3)], trainer.teacher.observe

    def spy(batch):
        seen[batch.progress.epoch].append(batch.indices.tolist())
        observe(batch)

    trainer.teacher.observe = spy
    trainer.train()
    return seen


def recorded(folder, **options):
    """Training dynamics: what the main process wrote, slowly, as each process reads it right after training."""

    def slowly(*args):
        time.sleep(0.5)
        write_epoch(*args)

    write_epoch, files.write_epoch = files.write_epoch, slowly
    trainer = LSTSDTrainer(
        model=make_model(dropout=0.0),
        args=arguments(folder, num_train_epochs=2, learning_rate=0.0, **options),
        train_dataset=make_examples(13),
        teacher="vanilla",
        record_dynamics=True,
    )
    trainer.train()
    files.write_epoch = write_epoch
    return History.read(trainer.dynamics_folder)


def judged(folder):
    """Labels judged out of sample, with the same batches on any number of processes."""
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1

    def make_trainer(rows):
        return LSTSDTrainer(
            model=make_model(dropout=0.0),
            args=arguments(
                folder / "training",
                per_device_train_batch_size=12 // processes,
                optim="sgd",
                learning_rate=0.1,
                average_tokens_across_devices=False,
            ),
            train_dataset=rows,
            teacher="vanilla",
        )

    return cross_validate(make_trainer, make_examples(24), folder, num_folds=2)


class Drawn(Observer):
    """The epoch and the examples of each micro-batch."""

    name = "drawn"
    is_stateful = False

    def reset(self):
        self.batches = []

    def observe(self, batch):
        self.batches.append((batch.progress.epoch, batch.progress.global_step, batch.indices.tolist()))


def overlapping(folder):
    """Overlapping batches, whole and resumed: what each process drew, and the weights."""
    found = []
    for resume in (None, 3, 4):
        trainer = LSTSDTrainer(
            model=make_model(),
            args=arguments(
                folder,
                num_train_epochs=4,
                gradient_accumulation_steps=2,
                save_strategy="steps",
                save_steps=1000,
            ),
            train_dataset=make_examples(26),
            teacher=DLBConfig.paper(),
            observers=[Drawn()],
            callbacks=[] if resume else [SavesAt((3, 4))],
        )
        trainer.train(resume_from_checkpoint=resume and str(folder / f"checkpoint-{resume}"))
        drawn = trainer._group._observers[0].batches
        found.append({"drawn": drawn, "weights": trainer.model.state_dict(), "steps": trainer.distilled_steps})
    return found


def largest_probabilities():
    """What a memory of the largest probabilities has of rows that the processes share, one of which all have."""
    rows = 4 * torch.randn(9, 30, generator=torch.Generator().manual_seed(0))
    memory = LatestMemory(9, 30, TableStorage.parse("bf16,top-4"))
    own = torch.arange(9)[rank() :: num_processes()]
    own = own if 0 in own else torch.cat([own, torch.zeros(1, dtype=torch.int64)])
    memory.stage(own, rows[own])
    state = {name: value.clone() for name, value in memory.state_dict().items() if torch.is_tensor(value)}
    memory.transition(1)
    return {"staged": state["staged"].view(torch.int16), "counts": state["counts"], "rows": memory.latest}


def largest_again(folder, resume=None):
    """The weights of a run with the largest probabilities alone, in which padding lets a process draw a row twice."""
    trainer = LSTSDTrainer(
        model=make_model(num_labels=12),
        args=arguments(folder, num_train_epochs=4, per_device_train_batch_size=2, save_strategy="steps", save_steps=5),
        train_dataset=make_examples(13, 12),
        teacher=LSTSDConfig(mini_generation_epochs=1),
        memory_storage="top-3",
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model.state_dict()


def left_out(folder):
    """A recorded run in which the last processes' rows are known from the start, so that they take no part."""
    model, rows = make_model(dropout=0.0).eval(), make_examples(16)
    with torch.no_grad():
        answers = model(torch.tensor([row["input_ids"] for row in rows])).logits.argmax(-1).tolist()
    processes = int(os.environ.get("WORLD_SIZE", 1))
    for position, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        row["labels"] = answer if position // 4 % processes else 1 - answer
    trainer = InOrder(
        model=model,
        args=arguments(folder, num_train_epochs=2, learning_rate=1e-6, save_strategy="epoch"),
        train_dataset=rows,
        teacher=SelfRegulatedConfig(ungated_epochs=0, confidence_threshold=0.5),
        record_dynamics=True,
    )
    trainer.train()
    return History.read(trainer.dynamics_folder).log_probs


def main(folder: Path, other: Path | None = None):
    """`other`: what this left on another number of processes, to resume from."""
    results = {"folder": folder}
    for name, options in SHARDING.items():
        results[f"sharding-{name}"] = tables_and_what_was_seen(folder / "sharding", **options)
    for name, config_class in METHODS.items():
        results[f"stock-{name}"] = against_stock(folder / "stock", config_class.neutral())
        results[f"worlds-{name}"] = same_global_batch(folder / f"worlds-{name}", active(config_class))
    for name in ("lstsd", "sat", "r_drop"):
        results[f"tokens-{name}"] = language_model(folder / f"tokens-{name}", active(METHODS[name]))
    results["shifted"] = predicts_the_next(folder / "shifted")
    if other is not None:
        checkpoint = other / "worlds-lstsd" / f"checkpoint-{WITHIN_AN_EPOCH}"
        results["from other"] = same_global_batch(folder / "from-other", active(LSTSDConfig), str(checkpoint))
    for name, config_class in METHODS.items():
        config = active(config_class)
        results[f"method-{name}"] = [
            train_method(folder / name, config),
            # Within an epoch and after its last step: two processes take 2 steps an epoch, one takes 4.
            *(train_method(folder / name, config, str(folder / name / f"checkpoint-{step}")) for step in (5, 4)),
        ]
    results["pictures"] = pictures(folder / "pictures")
    results["grouped"] = grouped(folder / "grouped")
    results["overlapping"] = overlapping(folder / "overlapping")
    # 13 examples in batches of 4: on two processes 16 draws, three examples twice.
    results["trained"] = train(folder / "run", make_model(), save_strategy="steps", save_steps=1)
    results["largest"] = largest_probabilities()
    results["largest whole"] = largest_again(folder / "largest")
    results["largest again"] = largest_again(folder / "largest-again", str(folder / "largest" / "checkpoint-5"))
    results["left out"] = left_out(folder / "left-out")
    rounded = {"storage": "disk,bf16", "save_strategy": "steps", "save_steps": 5}
    results["rounded"] = train(folder / "rounded", make_model(), **rounded)
    checkpoint = str(folder / "rounded" / "checkpoint-5")
    results["rounded again"] = train(folder / "again", make_model(), resume=checkpoint, **rounded)
    results["recorded"] = recorded(folder / "recorded")
    results["judged"] = judged(folder / "judged")
    # Without weights: a teacher that repeats a frozen student is an error.
    results["frozen"] = train(folder / "frozen", make_model(dropout=0.0), weight=0.0, learning_rate=0.0)
    results["resumed"] = {
        step: train(folder / f"resumed-{step}", make_model(), resume=str(folder / "run" / f"checkpoint-{step}"))
        for step in (5, 8)
    }
    for accumulation in (1, 2):
        for smoothing in (0.0, 0.2):
            for trainer_class in (LSTSDTrainer, PassesOn):
                results[f"gradients-{accumulation}-{smoothing}-{trainer_class.__name__}"] = [
                    gradients(
                        trainer_class,
                        make_model(dropout=0.0),
                        arguments(
                            folder / "gradients",
                            num_train_epochs=1,
                            learning_rate=0.0,
                            max_grad_norm=0.0,
                            gradient_accumulation_steps=accumulation,
                            label_smoothing_factor=smoothing,
                        ),
                        CrossEntropyTeacher(weight, smoothing=smoothing),
                    )
                    for weight in (0.0, 1.0)
                ]
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save(results, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    freeze_what_is_there()
    main(*map(Path, sys.argv[1:]))
