"""The protocol's cells for the judgement of `anchored`, J."""

from collections.abc import Iterator
from dataclasses import replace

from .commands import FIVE, L3, L3_DEFAULTS, LSTSD_DEFAULTS, MATCHED, MLP, RATES, TASKS, TEN, Command

# What A1 and A7 have not run: all of RTE and TREC-6, the defaults of LSTSD, more seeds of ELR and SAT.
NEW_TASKS = ("rte", "trec")
ASYMMETRIC = "--label_noise_kind asymmetric"
LONG = f"{MLP} --learning_rate 1e-3 --num_train_epochs 30"
SHORT = f"{MLP} --learning_rate 1e-3 --num_train_epochs 3"
CONSTANT = "--lr_scheduler_type constant_with_warmup --warmup_steps 100"
L3_BATCHES = L3.replace("train_batch_size 16", "train_batch_size 32")


def places() -> Iterator[tuple[str, float, str]]:
    """Task, noise and further settings of the cells that are new."""
    for rate in RATES:
        for task in NEW_TASKS:
            yield task, rate, ""
    for rate in RATES:
        if rate:
            yield "trec", rate, f" {ASYMMETRIC}"


def judged() -> Iterator[Command]:
    """The candidate, in A1's cells first."""
    for rate in RATES:
        for task in TASKS:
            yield Command("judged", task, LONG, "anchored", TEN, rate)
    for task, rate, more in places():
        yield Command("judged", task, f"{LONG}{more}", "anchored", TEN, rate)


def judged_lengths() -> Iterator[Command]:
    """Does the length matter? Beside the 30 epochs of the judgement."""
    for epochs in (10, 60):
        for task, rate in (("sst2", 0.2), ("mrpc", 0.0), ("cola", 0.0), ("trec", 0.2)):
            settings = f"{MLP} --learning_rate 1e-3 --num_train_epochs {epochs}"
            yield Command(f"judged_{epochs}", task, settings, "vanilla anchored", FIVE, rate)


def judged_controls() -> Iterator[Command]:
    """What A1 and A7 have not run of its controls."""
    for task, rate, more in places():
        yield Command("judged_short", task, f"{SHORT}{more}", "vanilla", TEN, rate)
        yield Command("judged_stopped", task, f"{LONG}{more} --held_out_share 0.15", "vanilla", TEN, rate)
        yield Command("judged", task, f"{LONG}{more}", f"vanilla lstsd elr sat temporal_ensemble {MATCHED}", TEN, rate)
        yield Command("judged", task, f"{LONG}{more}", f"{LSTSD_DEFAULTS} --mini_generation_epochs 6", TEN, rate)
        yield Command("judged", task, f"{LONG}{more}", "vanilla --sweep 16", TEN, rate)
    for rate in RATES:
        for task in TASKS:
            yield Command("judged", task, LONG, f"{LSTSD_DEFAULTS} --mini_generation_epochs 6", TEN, rate)
            yield Command("judged", task, LONG, "elr sat", range(6, 11), rate)


def judged_constant() -> Iterator[Command]:
    """The candidate with a rate that does not depend on the length; other lengths first."""
    for task, rate in (("trec", 0.2), ("sst2", 0.2), ("mrpc", 0.0), ("cola", 0.0), ("trec", 0.0)):
        for epochs in (10, 30, 60):
            settings = f"{MLP} --learning_rate 1e-3 --num_train_epochs {epochs} {CONSTANT}"
            records = "judged_constant" if epochs == 30 else f"judged_constant_{epochs}"
            yield Command(records, task, settings, "vanilla anchored", FIVE, rate)
    for command in judged():
        yield replace(command, records="judged_constant", settings=f"{command.settings} {CONSTANT}")


def judged_prototype() -> Iterator[Command]:
    """What the prototype did: the anchor stays as it is."""
    for rate in RATES:
        for task in TASKS:
            yield Command("judged_prototype", task, LONG, "anchored --momentum 1", TEN, rate)


def judged_l3() -> Iterator[Command]:
    """Full fine-tuning, the candidate first; what memorises most first."""
    seeds, long = range(1, 4), f"{L3_BATCHES} --num_train_epochs 10"
    for rate in RATES:
        for task in ("sst2", "trec"):
            yield Command("judged_l3", task, long, "anchored vanilla", seeds, rate)
            yield Command("judged_l3_short", task, f"{L3_BATCHES} --num_train_epochs 3", "vanilla", seeds, rate)
            yield Command("judged_l3", task, long, "elr sat", seeds, rate)
            yield Command("judged_l3", task, long, L3_DEFAULTS, seeds, rate)
            others = f"lstsd temporal_ensemble {MATCHED} --lstsd.mini_generation_epochs 2"
            yield Command("judged_l3", task, long, others, seeds, rate)
            yield Command("judged_l3_stopped", task, f"{long} --held_out_share 0.15", "vanilla", seeds, rate)
