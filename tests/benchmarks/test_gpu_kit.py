"""The kit for minutes of a GPU, on a CPU: filling the time, and weights that travel in parts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.glue.test_heads import save
from tests.helpers import ROOT

KIT = ROOT / "benchmarks" / "gpu"


@pytest.fixture
def planes(monkeypatch):
    monkeypatch.syspath_prepend(KIT)
    import planes

    return planes


def command(method, seeds, epochs):
    return (
        "python run_glue.py --task rte --data synthetic --max_train_samples 256 --model_name_or_path model "
        f"--use_cpu True --per_device_train_batch_size 16 --num_train_epochs {epochs} --method {method} "
        f"--seeds {seeds} --output_dir runs/tiny --cache_dir cache --save_strategy no"
    )


def children_of(pid):
    processes = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, processes[::2]), map(int, processes[1::2]), strict=True))
    found, left = set(), {pid}
    while left:
        left = {child for child, parent in parents.items() if parent in left} - found
        found |= left
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_killed_filling_goes_on_where_it_was(tmp_path):
    """Every run once, no line lost, no process left behind."""
    save(tmp_path / "model")
    plan = [command("vanilla lstsd --lstsd.mini_generation_epochs 2", "1 2 3", 10), command("vanilla", "4 5", 8)]
    (tmp_path / "plan").write_text("\n".join(plan) + "\n")
    fill = [sys.executable, KIT / "fill.py", "plan", "--seconds", "60", "--folder", "found", "--workers", "2"]
    output = tmp_path / "found" / "tiny.jsonl"
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(fill, cwd=tmp_path, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not output.exists() or len(output.read_text().splitlines()) < 2:
            assert first.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        processes = children_of(first.pid)
        first.send_signal(signal.SIGKILL)
        first.wait()
    kept = output.read_text()
    assert 2 <= len(kept.splitlines()) < 8
    while any(map(is_running, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # As if it had been killed within a line.
    with output.open("a") as file:
        file.write('{"task": "rt')
    second = subprocess.run(fill, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    lines = output.read_text()
    assert lines.startswith(kept)
    results = [json.loads(line) for line in lines.splitlines()]
    runs = Counter((result["method"], result["seed"]) for result in results)
    assert runs == Counter({(method, seed): 1 for method in ("vanilla", "lstsd") for seed in (1, 2, 3)}) + Counter(
        {("vanilla", 4): 1, ("vanilla", 5): 1}
    )
    already = len(kept.splitlines())
    assert f"8 runs planned, {already} finished before" in second.stdout
    assert f"{8 - already} of {8 - already} runs in" in second.stdout
    assert "by 2 processes, 0 failed" in second.stdout
    assert "vanilla" in second.stdout.split("RTE · model", 1)[1]


def test_what_does_not_fit_is_not_begun_and_a_failure_is_named(tmp_path):
    save(tmp_path / "model")
    # What a kill within the very first line leaves.
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "tiny.jsonl").write_text('{"task": "rt')
    (tmp_path / "plan").write_text(command("vanilla", "1", 2) + "\n" + command("vanilla", "2", 100_000) + "\n")
    fill = [sys.executable, KIT / "fill.py", "plan", "--seconds", "150", "--folder", "found", "--workers", "1"]
    run = subprocess.run(fill, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 of 2 runs in" in run.stdout
    # It stopped when nothing fitted, not at the end of the time.
    assert float(run.stdout.rpartition("runs in ")[2].split()[0]) < 149


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_planes_come_back_bit_for_bit(planes):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16).reshape(256, 256)
    for weights in (every, numbers(0), numbers(7), numbers(3, 5, 2), numbers(64, 64).T):
        back = planes.join_planes(*planes.split_planes(weights), weights.shape)
        assert torch.equal(back.view(torch.int16), weights.contiguous().view(torch.int16))


def test_parts_are_small_enough_and_join_again(planes, tmp_path):
    weights = {f"layer.{index}": numbers(300, 200, seed=index) * 0.02 for index in range(12)}
    parts = planes.write_parts(weights, tmp_path, max_part=300_000)
    sizes = [sum(path.stat().st_size for path in part.iterdir()) for part in parts]
    assert len(parts) > 3
    assert max(sizes) <= 300_000
    assert sum(sizes) < 1.45 * sum(item.numel() for item in weights.values())
    back = planes.join_parts(tmp_path)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    # A part that is missing, and one that was damaged.
    os.rename(tmp_path / "part-4", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="must hold all parts"):
        planes.join_parts(tmp_path)
    os.rename(tmp_path / "elsewhere", tmp_path / "part-4")
    last = parts[-1] / "planes"
    last.write_bytes(last.read_bytes()[:-1] + b"\x55")
    with pytest.raises(ValueError, match="differ from those that were written"):
        planes.join_parts(tmp_path)
