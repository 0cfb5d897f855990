"""Overlapping batches: what the sampler draws, and the trainer with it."""

import math
from collections import Counter

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from transformers import Trainer

from lstsd_hf import DLBConfig, LSTSDTrainer
from lstsd_hf.errors import InputError
from lstsd_hf.overlapping import Batching, OverlappingSampler
from tests.helpers import (
    MULTI,
    NUMBERS,
    SavesAt,
    assert_same_weights,
    make_data,
    make_examples,
    make_model,
    make_trainer,
)

OVERLAP = DLBConfig.paper()


def epoch_of(batching, epoch):
    """The micro-batches of an epoch by process, as accelerate deals them out."""
    sampler = OverlappingSampler(batching)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    size = batching.batch_size
    batches = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    return [batches[process :: batching.num_processes] for process in range(batching.num_processes)]


batchings = st.builds(
    Batching,
    num_examples=st.integers(1, 90),
    batch_size=st.sampled_from((2, 4, 6)),
    accumulation_steps=st.integers(1, 3),
    num_processes=st.integers(1, 3),
    seed=st.integers(0, 5),
)


def test_examples_may_exclude_different_labels(make_args):
    """Those that a batch does not share with the one before are not compared with others, whose labels differ."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_model(num_labels=3)
            self.config = self.inner.config

        def forward(self, input_ids, labels=None):
            excluded = nn.functional.one_hot(input_ids[:, 1] % 3, 3).bool()
            logits = self.inner(input_ids).logits.masked_fill(excluded, -math.inf)
            return {"loss": None if labels is None else nn.functional.cross_entropy(logits, labels), "logits": logits}

    rows = [{**row, "labels": (row["input_ids"][1] + 1) % 3} for row in make_examples(24)]
    trainer = make_trainer(make_args, OVERLAP, model=Masked(), train_dataset=rows, num_train_epochs=3)
    trainer.train()
    assert any(entry.get("loss_previous", 0.0) > 0 for entry in trainer.state.log_history)


@settings(max_examples=150, deadline=None)
@given(batching=batchings)
def test_each_batch_begins_with_half_of_the_one_a_step_before(batching):
    size, steps = batching.batch_size, batching.accumulation_steps
    for epoch in (0, 1, 5):
        processes = epoch_of(batching, epoch)
        # As many steps as plain fine-tuning, all batches full.
        plain = -(-batching.num_examples // (size * batching.num_processes))
        assert all(len(batches) == plain for batches in processes)
        for batches in processes:
            assert all(len(batch) == size for batch in batches)
            for position in range(steps, plain):
                assert batches[position][: size // 2] == batches[position - steps][size // 2 :]


@settings(max_examples=30, deadline=None)
@given(batching=batchings)
def test_all_examples_are_drawn_equally_often(batching):
    """Each new half is fresh: over many epochs no example is ahead by more than one order of all of them."""
    half, counts = batching.batch_size // 2, Counter()
    steps = batching.accumulation_steps
    for epoch in range(40):
        for batches in epoch_of(batching, epoch):
            for position, batch in enumerate(batches):
                counts.update(batch[half:] if position >= steps else batch)
    assert len(counts) == batching.num_examples
    assert max(counts.values()) - min(counts.values()) <= 1


def test_an_order_is_not_repeated():
    batching = Batching(num_examples=32, batch_size=4)
    assert len({tuple(map(tuple, epoch_of(batching, epoch)[0])) for epoch in range(8)}) == 8
    assert epoch_of(batching, 3) == epoch_of(batching, 3)
    assert epoch_of(batching, 0) != epoch_of(Batching(32, 4, seed=1), 0)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_interrupted_equals_uninterrupted(make_args, accumulation):
    options = {"gradient_accumulation_steps": accumulation, "save_strategy": "steps", "save_steps": 1000}
    steps = (2, 4, 7)
    whole = make_trainer(make_args, OVERLAP, callbacks=[SavesAt(steps)], **options)
    whole.train()
    assert whole.distilled_steps == whole.state.global_step - 6  # all but the first of each epoch
    assert [entry["exposures"] for entry in whole.state.log_history[:-1]][-1] == pytest.approx(6 * 16 / 14)
    for step in steps:
        resumed = make_trainer(make_args, OVERLAP, **options)
        resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
        assert_same_weights(whole.model, resumed.model)
        assert whole.teacher.log_metrics() == resumed.teacher.log_metrics()


def test_without_weight_it_is_stock_trainer(make_args):
    models = []
    for trainer_class in (Trainer, LSTSDTrainer):
        trainer = make_trainer(make_args, DLBConfig(alpha=0.0, form="overlap"), trainer_class)
        trainer.train()
        models.append(trainer.model)
    assert_same_weights(*models)


class OwnSampler(LSTSDTrainer):
    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_device_train_batch_size": 3}, "`per_device_train_batch_size` must be even"),
        (
            {"train_sampling_strategy": "group_by_length"},
            "`train_sampling_strategy` must be random with OverlappingDLB",
        ),
        ({"auto_find_batch_size": True}, "`auto_find_batch_size` must be False with OverlappingDLB"),
        ({"trainer_class": OwnSampler}, "each batch must share examples with the one before, and this one shares none"),
    ],
)
def test_what_would_break_the_overlap_is_refused(make_args, options, message):
    with pytest.raises(InputError, match=message):
        make_trainer(make_args, OVERLAP, **options).train()


def test_bf16_and_an_epoch_of_one_batch(make_args):
    for rows in (1, 4):
        trainer = make_trainer(make_args, OVERLAP, train_dataset=make_examples(rows), bf16=True, model=make_model())
        trainer.train()
        assert trainer.distilled_steps == 0


@pytest.mark.parametrize(("problem", "num_labels"), [(MULTI, 3), (NUMBERS, 2)])
def test_other_problems(make_args, problem, num_labels):
    model = make_model(num_labels)
    model.config.problem_type = problem
    trainer = make_trainer(make_args, OVERLAP, model=model, train_dataset=make_data(problem, 14, num_labels))
    trainer.train()
    assert trainer.distilled_steps == trainer.state.global_step - 6


def test_a_last_batch_that_plain_training_leaves_out_is_left_out(make_args):
    assert Batching(14, 4, drop_last=True).batches_per_epoch == 3
    assert Batching(14, 4).batches_per_epoch == 4
    trainer = make_trainer(make_args, OVERLAP, dataloader_drop_last=True, num_train_epochs=2)
    trainer.train()
    assert trainer.state.global_step == 6
