"""Two gloo processes under torchrun, beside one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lstsd_hf import TEACHERS

from .conftest import assert_same_weights

ROOT = Path(__file__).parent.parent


def launch(folder, *launcher):
    folder.mkdir()
    command = [sys.executable, *launcher, "-m", "tests.distributed_script", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr[-4000:]
    return [torch.load(path, weights_only=False) for path in sorted(folder.glob("rank*.pt"))]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    ranks = launch(tmp_path_factory.mktemp("two") / "run", *launcher)
    assert len(ranks) == 2
    return ranks


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("one") / "run")[0]


TABLES = ("rows", "written", "staged")


@pytest.mark.parametrize("training", ["trained", "frozen"])
def test_both_ranks_end_with_the_same_complete_tables(two_processes, training):
    first, second = (rank[training] for rank in two_processes)
    for name in TABLES:
        assert torch.equal(first[name], second[name]), name
    assert first["written"].all()
    assert first["epoch"] == second["epoch"] == 6
    assert first["distilled_steps"] == second["distilled_steps"] == (8 if training == "trained" else 0)
    assert_same_weights(first["weights"], second["weights"])


def test_two_processes_store_what_one_stores(two_processes, one_process):
    """With a frozen model without dropout every process must store the same output for an example."""
    for name in TABLES:
        torch.testing.assert_close(two_processes[0]["frozen"][name], one_process["frozen"][name], rtol=1e-5, atol=1e-6)


def test_logs_are_the_mean_over_processes(two_processes):
    for entry in two_processes[0]["trained"]["logs"]:
        parts = entry["loss_base"] + 2.0 * entry.get("loss_short", 0.0) + 1.0 * entry.get("loss_long", 0.0)
        assert entry["loss"] == pytest.approx(parts, rel=1e-4)
    assert two_processes[0]["trained"]["logs"][-1]["loss_short"] > 0


@pytest.mark.parametrize("step", [5, 8])  # within an epoch, and an epoch's last step
def test_resumed_equals_uninterrupted(two_processes, step):
    for rank in two_processes:
        whole, resumed = rank["trained"], rank["resumed"][step]
        assert_same_weights(whole["weights"], resumed["weights"])
        for name in TABLES:
            assert torch.equal(whole[name], resumed[name]), name
        assert whole["distilled_steps"] == resumed["distilled_steps"]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_terms_have_the_scale_of_the_base_loss(two_processes, accumulation, smoothing):
    for rank in two_processes:
        alone, doubled = rank[f"gradients-{accumulation}-{smoothing}"]
        assert len(alone) == len(doubled) > 0
        for first, second in zip(alone, doubled, strict=True):
            assert max(gradient.abs().max() for gradient in first.values()) > 1e-3
            for name, gradient in first.items():
                torch.testing.assert_close(second[name], 2 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", TEACHERS)
def test_every_method_trains_alike_on_both_ranks_and_resumes(two_processes, name):
    first, second = (rank[f"method-{name}"] for rank in two_processes)
    for whole, other in zip(first, second, strict=True):
        assert_same_weights(whole["weights"], other["weights"])
        assert whole["distilled_steps"] == other["distilled_steps"]
        assert whole["teacher"].keys() == other["teacher"].keys()
        for key, value in whole["teacher"].items():
            assert (
                torch.equal(value, other["teacher"][key]) if torch.is_tensor(value) else value == other["teacher"][key]
            )
    for rank in (first, second):
        whole, *resumed = rank
        assert (whole["distilled_steps"] > 0) == TEACHERS[name]().build().needs_batches
        for run in resumed:
            assert_same_weights(whole["weights"], run["weights"])
            assert whole["distilled_steps"] == run["distilled_steps"]
            assert whole["scores"][-1]["eval_loss"] == run["scores"][-1]["eval_loss"]
            assert whole["scores"][-1]["eval_mean"] == run["scores"][-1]["eval_mean"]


def test_two_processes_are_taught_by_what_teaches_one(two_processes, one_process):
    """Snapshots count as one model, whatever the number of processes: the names and shapes of all state agree."""
    for name in TEACHERS:
        if name == "dlb":  # it remembers the batches of each process
            continue
        one, two = one_process[f"method-{name}"][0]["teacher"], two_processes[0][f"method-{name}"][0]["teacher"]
        assert one.keys() == two.keys(), name
        for key, value in one.items():
            assert not torch.is_tensor(value) or value.shape == two[key].shape, (name, key)
