"""A real `run_glue.py` process, killed at random moments and started again, ends where an undisturbed one ends."""

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lstsd_hf import METHODS
from lstsd_hf.checkpoint import UnfinishedCheckpointError, check_whole, newest_whole_checkpoint
from lstsd_hf.runner.results import package_versions
from tests.helpers import ROOT, active, assert_same_weights

STEPS = 24  # 48 examples in batches of 8, 4 epochs
NEVER_THE_SAME = ("seconds", "seconds_per_epoch", "resumed")


def command(method, encoder, folder):
    config = active(METHODS[method])
    periods = [name for name in ("mini_generation_epochs", "cycle_epochs", "rampup_epochs") if hasattr(config, name)]
    return [
        *(sys.executable, str(ROOT / "run_glue.py"), "--task", "rte", "--data", "synthetic", "--method", method),
        *("--model_name_or_path", encoder, "--max_train_samples", "48", "--num_train_epochs", "4"),
        *("--per_device_train_batch_size", "8", "--learning_rate", "1e-2", "--use_cpu", "true", "--logging_steps", "1"),
        *("--logging_strategy", "steps", "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "3"),
        *("--eval_strategy", "steps", "--eval_steps", "1", "--resume", "--output_dir", str(folder)),
        *(f"--{name}={1 if name == 'mini_generation_epochs' else getattr(config, name)}" for name in periods),
    ]


def start(arguments, folder, log):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("GLUE_DIR", None)
    return subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder.parent)


def final_state(folder):
    """Everything that a run leaves behind, but for the time it took."""
    results = json.loads((folder / "results.json").read_text())
    checkpoint = folder / f"checkpoint-{STEPS}"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    times = ("_runtime", "_per_second")
    history = [{k: v for k, v in entry.items() if not k.endswith(times)} for entry in state["log_history"]]
    teacher = checkpoint / "teacher_state.safetensors"
    with np.load(folder / "predictions.npz") as predictions:
        arrays = {name: torch.tensor(array) for name, array in predictions.items()}
    return {
        "results": {
            name: value for name, value in results.items() if name not in NEVER_THE_SAME and not name.endswith("epoch")
        }
        | {"epochs": [{k: v for k, v in epoch.items() if not k.endswith(times)} for epoch in results["epochs"]]},
        "history": history,
        "weights": load_file(folder / "model.safetensors") | arrays,
        "optimizer": torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"],
        "scheduler": torch.load(checkpoint / "scheduler.pt", weights_only=True),
        "teacher": load_file(teacher) if teacher.exists() else {},
    }


def assert_same_state(first, second):
    for name in ("results", "history", "scheduler"):
        assert first[name] == second[name], name
    for name in ("weights", "teacher"):
        assert_same_weights(first[name], second[name])
    for index, tensors in first["optimizer"].items():
        assert_same_weights(tensors, second["optimizer"][index])


def assert_loads(checkpoint, needs_teacher):
    """What is taken for whole can be read, every file of it."""
    names = ["model.safetensors", *(["teacher_state.safetensors"] if needs_teacher else [])]
    assert all(load_file(checkpoint / name) is not None for name in names)
    for name in ("optimizer.pt", "scheduler.pt"):
        assert torch.load(checkpoint / name, weights_only=True)
    assert torch.load(checkpoint / "rng_state.pth", weights_only=False)
    assert json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]


def moment(log, folder):
    """In what a process was killed, from what it left."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    if checkpoints:
        try:
            check_whole(checkpoints[-1], needs_teacher=False)
        except UnfinishedCheckpointError:
            return "saving"
    lines = [line for line in log.read_text().splitlines() if line.startswith(("{'loss'", "{'eval_loss'"))]
    if not lines:
        return "starting"
    if lines[-1].startswith("{'loss'"):
        return "evaluation"
    return "the end" if checkpoints[-1].name == f"checkpoint-{STEPS}" else "between steps"


def kill_and_resume(method, encoder, tmp_path, kills, seed=0):
    """Kills runs until there were so many kills, and compares each run that ends with an undisturbed one."""
    generator = random.Random(f"{method} {seed}")
    needs_teacher = active(METHODS[method]).build().is_stateful
    whole = tmp_path / "whole"
    with open(tmp_path / "whole.log", "w") as log:
        assert start(command(method, encoder, whole), whole, log).wait() == 0, (tmp_path / "whole.log").read_text()
    expected = final_state(whole)
    length = (whole / "results.json").stat().st_mtime - (whole / "run.json").stat().st_mtime

    moments, completed, folder = collections.Counter(), 0, tmp_path / "killed"
    while sum(moments.values()) < kills or folder.exists():
        log_path = tmp_path / f"killed-{sum(moments.values())}.log"
        earlier = (folder / "run.json").stat().st_mtime_ns if folder.exists() else 0
        with open(log_path, "w") as log:
            process = start(command(method, encoder, folder), folder, log)
            # The run's file is written when the imports are over.
            while sum(moments.values()) < kills and process.poll() is None:
                if (folder / "run.json").exists() and (folder / "run.json").stat().st_mtime_ns != earlier:
                    time.sleep(generator.uniform(0.0, 0.6 * length))
                    break
                time.sleep(0.01)
            if sum(moments.values()) < kills and process.poll() is None:
                process.send_signal(signal.SIGKILL)
            code = process.wait()
        if code == -signal.SIGKILL:
            moments[moment(log_path, folder)] += 1
            found = newest_whole_checkpoint(folder, needs_teacher)
            if found is not None:
                assert_loads(found[0], needs_teacher)
            continue
        assert code == 0, log_path.read_text()[-3000:]
        assert_same_state(expected, final_state(folder))
        shutil.rmtree(folder)
        completed += 1
    print(f"{method}: {sum(moments.values())} kills ({dict(moments)}), {completed} runs completed, all the same")
    return moments


def test_a_killed_run_ends_like_an_undisturbed_one(encoder, tmp_path):
    kill_and_resume("lstsd", encoder, tmp_path, kills=3)


@pytest.mark.slow
def test_sixty_kills(encoder, tmp_path):
    print({**package_versions(), "python": sys.version.split()[0]})
    moments = kill_and_resume("lstsd", encoder, tmp_path, kills=60, seed=1)
    assert {"saving", "evaluation", "between steps"} <= moments.keys()


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"lstsd"}))
def test_five_kills_of_every_other_method(encoder, tmp_path, method):
    kill_and_resume(method, encoder, tmp_path, kills=5, seed=1)
