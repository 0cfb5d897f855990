#!/usr/bin/env python
"""Prints the commands of PROTOCOL.md's cells. Finished runs are skipped and interrupted ones go on, so run it again:

GLUE_DIR=... OMP_NUM_THREADS=1 sh -c "python -m studies.cells a1 | xargs -P 2 -d '\\n' -n 1 sh -c"
python -m lstsd_hf.experiments collect runs/mlp studies/records/mlp.jsonl
"""

import argparse
import collections
import sys
from collections.abc import Callable, Iterator

from lstsd_hf.experiments.records import read_results

from .analysis import cells, records_file
from .commands import (
    CNN,
    CNN_RATES,
    CNN_TASKS,
    FITTED_LOSS,
    FIVE,
    L3,
    L3_DEFAULTS,
    MATCHED,
    MLP,
    NOISY_RATES,
    RANDOM,
    RATES,
    SLICES,
    TASKS,
    TEN,
    TWO,
    Command,
    NotYetError,
)
from .gpu_cells import gpu_base, gpu_core, gpu_large, gpu_more, gpu_noisy, gpu_short, gpu_stopped, gpu_trials, gpu_tuned
from .image_cells import v1, v2, v_epochs, v_noise
from .judgement_cells import judged, judged_constant, judged_controls, judged_l3, judged_lengths, judged_prototype
from .neighbour_cells import gated, kd, kd_from_12_layers, savings, targets, teachers
from .scale_cells import speeds, storages


def a1() -> Iterator[Command]:
    for rate in RATES:
        for task in TASKS:
            methods = f"vanilla lstsd label_smoothing temporal_ensemble {MATCHED}"
            yield Command("mlp", task, f"{MLP} --learning_rate 1e-3 --num_train_epochs 30", methods, TEN, rate)
            searched = "vanilla lstsd --sweep 16"
            yield Command("mlp", task, f"{MLP} --learning_rate 1e-3 --num_train_epochs 30", searched, TEN, rate)


def short() -> Iterator[Command]:
    """A1's control with fewer epochs, and LSTSD with as few."""
    lstsd = "lstsd --lambda_short 1 --lambda_long 1 --teacher_floor 1e-4 --mini_generation_epochs 1"
    for methods in ("vanilla", lstsd):
        for rate in RATES:
            for task in TASKS:
                yield Command("mlp_short", task, f"{MLP} --learning_rate 1e-3 --num_train_epochs 3", methods, TEN, rate)


def stopped() -> Iterator[Command]:
    """A1's control that stops early by rows kept out, with their labels as they are."""
    for rate in RATES:
        for task in TASKS:
            settings = f"{MLP} --learning_rate 1e-3 --num_train_epochs 30 --held_out_share 0.15"
            yield Command("mlp_stopped", task, settings, "vanilla", TEN, rate)


def a3() -> Iterator[Command]:
    methods = "lstsd_no_long lstsd_no_short lstsd_single temporal_ensemble mean_teacher snapshot_ensemble"
    methods += " snapshot_distillation dlb --dlb.form repeat --dlb.alpha 0.5"
    methods += " --snapshot_ensemble.cycle_epochs 6 --snapshot_distillation.cycle_epochs 6"
    for rate in RATES[:2]:
        for task in TASKS:
            yield Command("mlp", task, f"{MLP} --learning_rate 1e-3 --num_train_epochs 30", methods, FIVE, rate)


def figure2() -> Iterator[Command]:
    for task in TASKS:
        for length in (1, 2, 3, 4, 5, 8, 10, 12, 15, 20):
            method = f"lstsd --mini_generation_epochs {length}"
            yield Command("mlp", task, f"{MLP} --learning_rate 1e-3 --num_train_epochs 30", method, FIVE, 0.2)


def dynamics() -> Iterator[Command]:
    """A1's vanilla and LSTSD with every epoch recorded, on TREC too, where the 3-epoch control is run here."""
    for rate in NOISY_RATES:
        for task in (*TASKS, "trec"):
            settings = f"{MLP} --learning_rate 1e-3 --num_train_epochs 30 --record_dynamics True"
            yield Command("dynamics", task, settings, "vanilla lstsd", FIVE, rate)
        settings = f"{MLP} --learning_rate 1e-3 --num_train_epochs 3 --record_dynamics True"
        yield Command("dynamics", "trec", settings, "vanilla", FIVE, rate)


def a4() -> Iterator[Command]:
    """At the learning rate and dropout that the searches of a1 found; these must be among the records."""
    tuned = {(cell.rate, cell.task): cell.groups.get("vanilla-tuned") for cell in cells("mlp")}
    for rate in RATES:
        for task in TASKS:
            if tuned.get((rate, task)) is None:
                raise NotYetError(f"a4 needs vanilla's search of a1 for {task}, noise {rate}, in mlp.jsonl.")
            config = tuned[rate, task].first["config"]
            found = f"--num_train_epochs 30 --learning_rate {config['training']['learning_rate']:g}"
            found += f" --dropout {config['dropout']:g}" if "dropout" in config else ""
            methods = f"vanilla lstsd temporal_ensemble {MATCHED}"
            yield Command("mlp_tuned", task, f"{MLP} {found}", methods, TEN, rate)


def a2() -> Iterator[Command]:
    methods = "vanilla mean_teacher snapshot_ensemble temporal_ensemble snapshot_distillation lstsd label_smoothing"
    for task in CNN_TASKS:
        yield Command("cnn", task, CNN, methods, FIVE)


def a2_matched() -> Iterator[Command]:
    """The control of the same total weight."""
    for task in CNN_TASKS:
        yield Command("cnn", task, CNN, f"temporal_ensemble {MATCHED}", FIVE)


def a2_tuned() -> Iterator[Command]:
    """The control of a search, for the paper's rate and the other one together: its factors span both."""
    for task in CNN_TASKS:
        yield Command("cnn_tuned", task, f"{CNN} --learning_rate 0.032 --dropout 0.5", "vanilla --sweep 16", FIVE)


def a2_rates() -> Iterator[Command]:
    for rate in CNN_RATES:
        # A single run goes to the very folder that is named.
        yield Command(f"cnn_rates/{rate}", "mrpc", f"{CNN} --learning_rate {rate} --resume", "vanilla", range(1, 2))


def a2_fitting() -> Iterator[Command]:
    """At the smallest rate at which the CNN fits; a2_rates must be among the records."""
    path = records_file("cnn_rates.jsonl")
    results = [result for _, result in read_results([path])] if path.exists() else []
    losses = {result["config"]["training"]["learning_rate"]: result["last_epoch"]["loss"] for result in results}
    if set(losses) != set(CNN_RATES):
        raise NotYetError(f"a2_fitting needs the runs of a2_rates in {path}, found those of {sorted(losses)}.")
    fitting = min((rate for rate, loss in losses.items() if loss < FITTED_LOSS), default=max(CNN_RATES))
    for methods in (f"vanilla lstsd temporal_ensemble {MATCHED}", "label_smoothing"):
        for task in CNN_TASKS:
            yield Command("cnn_fitting", task, f"{CNN} --learning_rate {fitting}", methods, FIVE)


def defaults() -> Iterator[Command]:
    """On slices of the training splits (slices.py), for a short and a long run."""
    for epochs, lengths in ((6, (1, 2)), (30, (1, 2, 3, 6))):
        settings = f"--data {SLICES} {MLP} --learning_rate 1e-3 --num_train_epochs {epochs}"
        for task in TASKS:
            for rate in RATES[:2]:
                yield Command("defaults", task, settings, "vanilla", TWO, rate)
                for short, long in ((1, 1), (1, 0.6), (2, 1.2), (4, 2.4), (8, 4.8)):
                    for length in lengths:
                        method = f"lstsd --lambda_short {short} --lambda_long {long} --teacher_floor 1e-4"
                        method += f" --mini_generation_epochs {length}"
                        yield Command("defaults", task, settings, method, TWO, rate)


def b1() -> Iterator[Command]:
    settings = "--model_name_or_path minilm --trainable_layers 1 --learning_rate 2e-4 --per_device_train_batch_size 32"
    settings += " --num_train_epochs 10 --bf16 True --use_cpu True"
    for task in ("mrpc", "rte"):
        methods = f"vanilla lstsd temporal_ensemble {MATCHED} --lstsd.mini_generation_epochs 2"
        yield Command("top_layer", task, settings, methods, TEN)
        yield Command("top_layer", task, settings, "vanilla --sweep 16", TEN)


def b2() -> Iterator[Command]:
    settings = "--model_name_or_path minilm --learning_rate 1e-4 --per_device_train_batch_size 16"
    settings += f" --num_train_epochs 6 --bf16 True --use_cpu True{RANDOM}"
    yield Command("full", "mrpc", settings, "vanilla lstsd --lstsd.mini_generation_epochs 2", TWO)


def l3() -> Iterator[Command]:
    for methods in (f"vanilla lstsd temporal_ensemble {MATCHED} --lstsd.mini_generation_epochs 2", L3_DEFAULTS):
        for task in ("mrpc", "rte"):
            yield Command("l3", task, f"{L3} --num_train_epochs 6", methods, FIVE)


def l3_short() -> Iterator[Command]:
    """L3's control with fewer epochs."""
    for task in ("mrpc", "rte"):
        yield Command("l3_short", task, f"{L3} --num_train_epochs 3", "vanilla", FIVE)


CELLS: dict[str, Callable[[], Iterator[Command]]] = {
    cell.__name__: cell
    for cell in (
        *(a1, short, stopped, a3, figure2, a4, a2, a2_matched, a2_tuned, a2_rates, a2_fitting, defaults, b1, b2),
        *(v1, v2, v_noise, v_epochs, judged, judged_controls, judged_lengths, judged_constant),
        *(judged_prototype, judged_l3),
        *(l3, l3_short, dynamics, targets, teachers, kd, kd_from_12_layers, gated, savings),
        *(gpu_core, gpu_short, gpu_trials, gpu_tuned, gpu_more, gpu_large, gpu_noisy, gpu_stopped, gpu_base),
        *(storages, speeds),
    )
}


def planned(records: str) -> dict[tuple[str, float], int]:
    """How many runs of each task and noise rate a file of records is to hold."""
    counts: dict[tuple[str, float], int] = collections.Counter()
    for cell in CELLS.values():
        try:
            for command in cell():
                if command.records == records:
                    counts[command.task, command.rate] += command.runs
        except NotYetError:
            continue
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", choices=list(CELLS), help="in this order")
    for wanted in parser.parse_args().cells:
        try:
            print(*CELLS[wanted](), sep="\n")
        except NotYetError as error:
            sys.exit(f"cells.py: {error}")
