"""The pages with measured numbers are up to date with the records, and the numbers are right."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import run_glue

ROOT = Path(__file__).parent.parent
TASKS = {"SST-2 (5,000 rows)": ("sst2", "eval_accuracy"), "MRPC": ("mrpc", "eval_accuracy")}
TASKS["CoLA"] = ("cola", "eval_matthews_correlation")


def render(root, *arguments):
    command = [sys.executable, str(root / "results" / "render.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def block(name, page="docs/results.md"):
    """The lines of a table in a page, as lists of cells."""
    text = re.search(rf"<!-- results: {name} -->\n(.*?)<!-- end", (ROOT / page).read_text(), re.DOTALL)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def records(file="mlp"):
    return [json.loads(line) for line in (ROOT / "results" / f"{file}.jsonl").read_text().splitlines()]


def test_pages_and_figures_are_up_to_date():
    """`make results` changes nothing."""
    result = render(ROOT, "--check")
    assert result.returncode == 0, result.stderr


@pytest.fixture
def copy(tmp_path):
    for name in ("results", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_another_record_makes_the_pages_stale(copy):
    path = copy / "results" / "mlp.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["last_epoch"] |= {name: value / 2 for name, value in line["last_epoch"].items() if "eval_" in name}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = render(copy, "--check")
    assert result.returncode == 1
    for name in ("README.md", "results.md", "noise.png", "length.png"):
        assert name in result.stderr
    assert "methods.md" not in result.stderr
    assert render(copy).returncode == 0
    assert render(copy, "--check").returncode == 0
    assert (copy / "docs" / "results.md").read_text() != (ROOT / "docs" / "results.md").read_text()


def test_a_number_written_by_hand_is_found(copy):
    page = copy / "docs" / "results.md"
    page.write_text(re.sub(r"(\d) ± ", r"\1 ± 1", page.read_text(), count=1))
    assert "results.md" in render(copy, "--check").stderr


def test_the_primary_comparisons_from_the_records_alone():
    """Means, differences, intervals and Holm's p-values, computed without the package."""
    rows, p_values = block("primary"), []
    for row in rows:
        name, _, noise = row[0].partition(", ") if "rows" not in row[0] else row[0].partition("), ")
        task, metric = TASKS[name + (")" if "rows" in row[0] and noise else "")]
        rate = float(noise.split(" ")[0]) / 100 if noise else None
        scores = {"vanilla": {}, "lstsd": {}}
        for line in records():
            config = line["config"]
            method = config["method"]
            is_paper = method["name"] != "lstsd" or method["mini_generation_epochs"] == 6
            if (line["task"], config.get("label_noise"), is_paper, "untuned" in config) == (task, rate, True, False):
                scores.setdefault(line["method"], {})[line["seed"]] = 100 * line["last_epoch"][metric]
        seeds = sorted(scores["vanilla"].keys() & scores["lstsd"].keys())
        plain, taught = (np.array([scores[method][seed] for seed in seeds]) for method in ("vanilla", "lstsd"))
        low, high = stats.t.interval(0.95, len(seeds) - 1, (taught - plain).mean(), stats.sem(taught - plain))
        p_values.append(stats.ttest_rel(taught, plain).pvalue)
        assert row[1] == str(len(seeds))
        assert row[3] == f"{taught.mean():.2f} ± {taught.std(ddof=1):.2f}"
        assert row[4] == f"{(taught - plain).mean():+.2f} [{low:+.2f}, {high:+.2f}]"
    order = np.argsort(p_values)
    steps = np.array(p_values)[order] * (len(rows) - np.arange(len(rows)))
    adjusted = dict(zip(order, np.minimum(1, np.maximum.accumulate(steps)), strict=True))
    for index, row in enumerate(rows):
        assert row[5] == ("<0.001" if adjusted[index] < 0.001 else f"{adjusted[index]:.3f}")
        is_shown = adjusted[index] < 0.05
        assert row[6].split(",")[0] == (("gain" if row[4][0] == "+" else "loss") if is_shown else "no difference shown")


def test_every_command_of_the_protocol_parses():
    command = [sys.executable, str(ROOT / "results" / "cells.py")]
    names = re.search(r"\{(.*?)\}", subprocess.run([*command, "--help"], capture_output=True, text=True).stdout)[1]
    printed = subprocess.run([*command, *names.split(",")], capture_output=True, text=True).stdout.splitlines()
    assert {"--output_dir runs/mlp ", "--output_dir runs/cnn "} <= set(
        re.findall(r"--output_dir runs/\w+ ", " ".join(printed))
    )
    for line in printed:
        python, program, *arguments = shlex.split(line)
        assert (python, program) == ("python", "run_glue.py")
        run_glue.parse(arguments)
