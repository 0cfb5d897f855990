"""The pages with measured numbers are up to date with the records, and the numbers are right."""

import importlib
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


def render(root, *arguments):
    command = [sys.executable, str(root / "results" / "render.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def block(name, page="docs/results.md"):
    """The lines of a table in a page, as lists of cells."""
    text = re.search(rf"<!-- results: {name} -->\n(.*?)<!-- end", (ROOT / page).read_text(), re.DOTALL)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def records():
    """The runs of A1 and A3, each with its setting."""
    lines = map(json.loads, (ROOT / "results" / "mlp.jsonl").read_text().splitlines())
    return [{**line, **run, "seed": int(seed)} for line in lines for seed, run in line["runs"].items()]


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
    for last in [run["last_epoch"] for line in lines for run in line["runs"].values()]:
        last |= {name: value / 2 for name, value in last.items() if "eval_" in name}
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


def is_plain(config):
    """Not searched, and LSTSD with the protocol's E."""
    return "untuned" not in config and config["method"].get("mini_generation_epochs", 6) == 6


def score_of(line):
    metric = "eval_matthews_correlation" if line["task"] == "cola" else "eval_accuracy"
    return 100 * line["last_epoch"][metric]


@pytest.mark.parametrize(
    ("name", "first", "second", "values"),
    [
        ("primary", ("lstsd", False), ("vanilla", False), (score_of, score_of)),
        ("against-tuned", ("lstsd", False), ("vanilla", True), (score_of, score_of)),
        (
            "memory-against-model",
            ("lstsd", False),
            ("vanilla", False),
            [lambda line, key=key: 100 * line["label_errors"][key]["roc_auc"] for key in ("memory", "model")],
        ),
    ],
)
def test_families_of_comparisons_from_the_records_alone(name, first, second, values):
    """Means, differences, intervals, Holm's p-values and verdicts, computed without the package."""
    cells, p_values, expected = {}, [], []
    for line in records():
        config, method = line["config"], line["method"]
        for (wanted, is_searched), value in zip((first, second), values, strict=True):
            is_method = (
                method == wanted and (is_searched == ("untuned" in config)) and (is_searched or is_plain(config))
            )
            if is_method and (name != "memory-against-model" or "label_noise" in config):
                cell = cells.setdefault((line["task"], config.get("label_noise", 0)), {})
                cell.setdefault((wanted, is_searched), {})[line["seed"]] = value(line)
    cells = {key: cell for key, cell in cells.items() if [len(found) for found in cell.values()] == [10, 10]}
    for key in sorted(cells, key=lambda key: (["sst2", "mrpc", "cola"].index(key[0]), key[1])):
        a, b = (np.array([cells[key][method][seed] for seed in range(1, 11)]) for method in (first, second))
        low, high = stats.t.interval(0.95, 9, (a - b).mean(), stats.sem(a - b))
        p_values.append(stats.ttest_rel(a, b).pvalue)
        expected.append(
            [
                f"{b.mean():.2f} ± {b.std(ddof=1):.2f}",
                f"{a.mean():.2f} ± {a.std(ddof=1):.2f}",
                f"{round((a - b).mean(), 2) + 0.0:+.2f} [{low:+.2f}, {high:+.2f}]",
            ]
        )
    order = np.argsort(p_values)
    steps = np.array(p_values)[order] * (len(p_values) - np.arange(len(p_values)))
    adjusted = dict(zip(order, np.minimum(1, np.maximum.accumulate(steps)), strict=True))
    rows = block(name)
    assert len(rows) == len(expected) > 0
    for index, (row, numbers) in enumerate(zip(rows, expected, strict=True)):
        has_verdict = name != "memory-against-model"
        start = 3 if has_verdict else 2
        assert row[start : start + 3] == numbers
        assert row[start + 3] == ("<0.001" if adjusted[index] < 0.001 else f"{adjusted[index]:.3f}")
        if has_verdict:
            sign = "gain" if numbers[2][0] == "+" else "loss"
            assert row[7].split(",")[0] == (sign if adjusted[index] < 0.05 else "no difference shown")


@pytest.fixture
def cells(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "results"))
    return importlib.import_module("cells")


def test_every_command_of_the_protocol_parses(cells):
    assert {"a1", "a2", "a3", "b1", "b2", "defaults", "figure2"} < set(cells.CELLS)
    refused, single = {}, []
    for name, cell in cells.CELLS.items():
        try:
            commands = list(cell())
        except SystemExit as stop:
            refused[name] = str(stop)
            continue
        assert commands
        for command in commands:
            python, program, *arguments = shlex.split(command)
            assert (python, program) == ("python", "run_glue.py")
            parsed = run_glue.parse(arguments)
            if len(parsed.seeds) * len(parsed.teachers) == 1:
                # It goes to the very folder that is named, which can hold no other run.
                assert parsed.run.resume
                single.append(parsed.output_dir)
    assert len(single) == len(set(single)) == 4
    # Cells that start from what others found.
    assert set(refused) <= {"a4", "a2_fitting"}
    assert all(f"cells.py: {name} needs" in message for name, message in refused.items())


@pytest.mark.parametrize(("losses", "rate"), [((0.5, 0.2, 0.09, 0.01), "0.3"), ((0.5, 0.4, 0.3, 0.2), "1.0")])
def test_the_smallest_rate_at_which_the_cnn_fits(cells, tmp_path, monkeypatch, losses, rate):
    monkeypatch.setattr(cells, "FOLDER", tmp_path)
    lines = [
        {
            "schema_version": 3,
            "config": {"training": {"learning_rate": rate}},
            "runs": {"1": {"last_epoch": {"loss": loss}, "course": {}}},
        }
        for rate, loss in zip((0.03, 0.1, 0.3, 1.0), losses, strict=True)
    ]
    path = tmp_path / "cnn_rates.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    with pytest.raises(
        SystemExit, match=r"a2_fitting needs the runs of a2_rates in .*found those of \[0.03, 0.1, 0.3\]"
    ):
        list(cells.a2_fitting())
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    commands = list(cells.a2_fitting())
    assert len(commands) == 8
    assert all(f"--learning_rate {rate} " in command for command in commands)
