"""Run by `test_sharded.py` under torchrun; leaves what each rank ended with, with whole and with divided tables."""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset
from transformers import TrainerCallback

from lstsd_hf import METHODS, LSTSDTrainer
from lstsd_hf.distributed import rank
from tests.distributed.script import arguments, outcome
from tests.helpers import SavesAt, active, make_examples, make_model

# Of four steps an epoch: within the second one, and its last.
SAVED = (5, 8)
FEW = [1, 3, 5, 7, 9, 11, 0, 2]


class LooksAtBatches(TrainerCallback):
    """Iterates the loader that callbacks are given, within an epoch and at its end."""

    def on_step_end(self, args, state, control, train_dataloader=None, **kwargs):
        next(iter(train_dataloader))

    def on_epoch_end(self, args, state, control, train_dataloader=None, **kwargs):
        assert len([*train_dataloader]) > 0


class OnSomeExamples(LSTSDTrainer):
    def get_train_dataloader(self):
        rows = Subset(self.train_dataset, FEW)
        loader = DataLoader(rows, batch_size=2, collate_fn=self.data_collator, shuffle=True)
        return self.accelerator.prepare(loader)


# By name: trainer, method, storage, training arguments, callbacks, trainings.
CASES = {
    "elr": (LSTSDTrainer, "elr", "fp32", {"gradient_accumulation_steps": 2, "dataloader_drop_last": True}, [], 1),
    "sat": (LSTSDTrainer, "sat", "disk", {"save_strategy": "steps", "save_steps": 3}, [], 1),
    "ps_kd": (LSTSDTrainer, "ps_kd", "fp16", {"dataloader_num_workers": 1}, [LooksAtBatches()], 1),
    "some": (OnSomeExamples, "lstsd", "fp32", {}, [LooksAtBatches()], 1),
    "twice": (LSTSDTrainer, "lstsd_no_short", "fp32", {}, [], 2),
}


def trained(folder, storage, method, trainer_class=LSTSDTrainer, options=None, callbacks=(), times=1, resume=None):
    trainer = trainer_class(
        model=make_model(),
        args=arguments(folder, per_device_train_batch_size=2, num_train_epochs=4, **(options or {})),
        train_dataset=make_examples(13),
        callbacks=list(callbacks),
        teacher=active(METHODS[method]),
        memory_storage=storage,
    )
    for _ in range(times):
        trainer.train(resume_from_checkpoint=resume and str(resume))
    return outcome(trainer) | {"coverage": trainer.teacher.memory.coverage}


def resumed(folder, method):
    """What whole tables and divided ones end with, also from what the other saved."""
    places = {"whole": "bf16", "sharded": "sharded,bf16"}
    saving = {"options": {"save_strategy": "steps", "save_steps": 1000}}
    found = {
        name: trained(folder / name, storage, method, callbacks=[SavesAt(SAVED)], **saving)
        for name, storage in places.items()
    }
    for name, other in (("whole", "sharded"), ("sharded", "whole")):
        for step in SAVED:
            resume = folder / other / f"checkpoint-{step}"
            found[f"{name} from {step}"] = trained(folder / "again", places[name], method, resume=resume, **saving)
    return found


def main(folder: Path):
    results = {method: resumed(folder / method, method) for method in ("lstsd", "temporal_ensemble")}
    for name, (trainer_class, method, storage, options, callbacks, times) in CASES.items():
        results[name] = {
            place: trained(folder / name, prefix + storage, method, trainer_class, options, callbacks, times)
            for place, prefix in (("whole", ""), ("sharded", "sharded,"))
        }
    torch.save(results, folder / f"rank{rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
