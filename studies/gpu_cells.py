"""The protocol's cells for a GPU: full fine-tuning."""

import collections
from collections.abc import Iterator

from lstsd_hf.experiments.records import read_results

from .analysis import records_file
from .commands import FIVE, LSTSD_DEFAULTS, MATCHED, NOISY_RATES, SLICES, Command, NotYetError

# Full fine-tuning on a GPU: PROTOCOL.md, cell G1. The folder is made by benchmarks/gpu/pack.py.
GPU = "--model_name_or_path .gpu/minilm-bf16 --per_device_train_batch_size 64 --bf16 True"
GPU += " --train_sampling_strategy group_by_length --per_device_eval_batch_size 256"
SMALL, GPU_TASKS = ("rte", "mrpc"), ("rte", "mrpc", "sst2", "cola")
MATCHED_TO_DEFAULTS = "--temporal_ensemble.consistency_weight 2"
GPU_RATES, GPU_EPOCHS = ("2.5e-5", "5e-5", "1e-4", "2e-4"), (3, 10, 30)
SEARCHED = ("num_train_epochs", "learning_rate")
SEVERAL = f"vanilla lstsd temporal_ensemble mean_teacher label_smoothing {MATCHED}"


def gpu_core() -> Iterator[Command]:
    """The paper's length on the small tasks."""
    for task in SMALL:
        for methods in (f"vanilla lstsd temporal_ensemble {MATCHED}", f"{LSTSD_DEFAULTS} --mini_generation_epochs 6"):
            yield Command("gpu", task, f"{GPU} --learning_rate 5e-5 --num_train_epochs 50", methods, FIVE)


def gpu_short() -> Iterator[Command]:
    """Trainer's default of 3 epochs; the paper's E of 6 does not fit into them."""
    own = f"vanilla mean_teacher label_smoothing temporal_ensemble {MATCHED_TO_DEFAULTS}"
    for methods in (own, LSTSD_DEFAULTS + " --mini_generation_epochs 1"):
        for task in GPU_TASKS:
            yield Command("gpu_short", task, f"{GPU} --learning_rate 5e-5 --num_train_epochs 3", methods, FIVE)


def gpu_trials() -> Iterator[Command]:
    """Vanilla on slices of the training splits (slices.py): rate × epochs."""
    for task in GPU_TASKS:
        for epochs in GPU_EPOCHS:
            for rate in GPU_RATES:
                settings = f"--data {SLICES} {GPU} --learning_rate {rate} --num_train_epochs {epochs} --resume"
                # A single run goes to the very folder that is named.
                yield Command(f"gpu_trials/{task}-{epochs}-{rate}", task, settings, "vanilla", range(1, 2))


def gpu_tuned() -> Iterator[Command]:
    """Vanilla at the rate and the epochs that the trials found; these must be among the records."""
    for task, (rate, epochs) in found_by_trials().items():
        settings = f"{GPU} --learning_rate {rate:g} --num_train_epochs {epochs:g}"
        yield Command("gpu_tuned", task, settings, "vanilla", FIVE)


def found_by_trials() -> dict[str, tuple[float, float]]:
    """By task whose trials are all among the records: learning rate and epochs of the best score, the first of equals.

    Raises:
        NotYetError: If there is no such task.
    """
    path = records_file("gpu_trials.jsonl")
    trials: dict[str, list[dict]] = collections.defaultdict(list)
    for _, result in read_results([path]) if path.exists() else []:
        trials[result["task"]].append(result)
    found = {}
    for task in GPU_TASKS:
        if len(trials[task]) == len(GPU_RATES) * len(GPU_EPOCHS):
            by_cost = sorted(trials[task], key=lambda trial: [trial["config"]["training"][name] for name in SEARCHED])
            best = max(by_cost, key=lambda trial: trial["last_epoch"][f"eval_{trial['metrics'][0]}"])
            found[task] = (
                best["config"]["training"]["learning_rate"],
                best["config"]["training"]["num_train_epochs"],
            )
    if not found:
        raise NotYetError(f"gpu_tuned needs the trials of a task in {path}, found {len(trials)} tasks begun.")
    return found


def gpu_more() -> Iterator[Command]:
    """The other methods on the small tasks."""
    for task in SMALL:
        methods = "mean_teacher label_smoothing"
        yield Command("gpu", task, f"{GPU} --learning_rate 5e-5 --num_train_epochs 50", methods, FIVE)


def gpu_large() -> Iterator[Command]:
    """The paper's length on the larger tasks."""
    for task in ("sst2", "cola"):
        for methods in (SEVERAL, f"{LSTSD_DEFAULTS} --mini_generation_epochs 6"):
            yield Command("gpu", task, f"{GPU} --learning_rate 5e-5 --num_train_epochs 50", methods, FIVE)


def gpu_noisy() -> Iterator[Command]:
    """G1's runs of the paper's length with wrong labels."""
    for rate in NOISY_RATES:
        for task in GPU_TASKS:
            for methods in (SEVERAL, f"{LSTSD_DEFAULTS} --mini_generation_epochs 6"):
                yield Command("gpu", task, f"{GPU} --learning_rate 5e-5 --num_train_epochs 50", methods, FIVE, rate)


def gpu_stopped() -> Iterator[Command]:
    """The control of gpu_noisy that stops early by rows kept out, with their labels as they are."""
    for rate in NOISY_RATES:
        for task in GPU_TASKS:
            settings = f"{GPU} --learning_rate 5e-5 --num_train_epochs 50 --held_out_share 0.15"
            yield Command("gpu_stopped", task, settings, "vanilla", FIVE, rate)


def gpu_base() -> Iterator[Command]:
    """A base-size encoder, joined by pack.py: the paper's Table 2 as far as it can be had."""
    base = GPU.replace("minilm-bf16", "encoder-bf16")
    others = "mean_teacher snapshot_ensemble temporal_ensemble snapshot_distillation label_smoothing"
    for methods in ("vanilla lstsd", others):
        for task in ("rte", "mrpc", "cola"):
            yield Command("gpu_base", task, f"{base} --learning_rate 5e-5 --num_train_epochs 50", methods, FIVE)
