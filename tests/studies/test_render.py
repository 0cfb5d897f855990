"""The pages with measured numbers are up to date with the records, and the numbers are right."""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from lstsd_hf.glue import cli
from lstsd_hf.images import cli as images_cli
from studies import analysis, cells
from studies import pages as studies_pages
from tests.helpers import ROOT


def render(root, *arguments):
    command = [sys.executable, "-m", "studies.render", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=root)


def block(name, page="docs/results.md"):
    """The lines of a table in a page, as lists of cells."""
    text = re.search(rf"<!-- results: {name} -->\n(.*?)<!-- end", (ROOT / page).read_text(), re.DOTALL)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def records(name="mlp"):
    """The runs of a file, each with its setting; by default those of A1, A3 and Figure 2."""
    lines = map(json.loads, (ROOT / "studies" / "records" / f"{name}.jsonl").read_text().splitlines())
    return [{**line, **run, "seed": int(seed)} for line in lines for seed, run in line["runs"].items()]


def test_pages_and_figures_are_up_to_date():
    """`make results` changes nothing."""
    result = render(ROOT, "--check")
    assert result.returncode == 0, result.stderr


@pytest.fixture
def copy(tmp_path):
    for name in ("studies", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_another_record_makes_the_pages_stale(copy):
    path = copy / "studies" / "records" / "mlp.jsonl"
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


def test_no_record_is_of_generated_data():
    for path in (ROOT / "studies" / "records").glob("*.jsonl"):
        # These are statistics, of studies that know GLUE and TREC, or WNUT-17 and EWT, only.
        others = ("dynamics", "cleaning", "anchor_search", "tagging", "tagging_errors")
        if not path.name.endswith(".sweeps.jsonl") and path.stem not in others:
            assert all(run["data"] | {"generated": False} == run["data"] for run in records(path.stem)), path


@pytest.fixture
def pages(monkeypatch, tmp_path):
    """The module that makes the pages, on a copy of the records."""
    shutil.copytree(ROOT / "studies" / "records", tmp_path / "records")
    monkeypatch.setattr(analysis, "FOLDER", tmp_path / "records")
    return studies_pages


def edit(pages, change):
    path = analysis.records_file("mlp.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_generated_data_do_not_get_into_a_table(pages):
    edit(pages, lambda line: line["data"].update(generated=True))
    with pytest.raises(ValueError, match="generated data must not stand in a table of results"):
        pages.results_blocks()


def test_a_family_without_one_run_is_not_shown(pages):
    """A smaller one would have smaller p-values."""

    def drop(line):
        if line["method"] == "vanilla" and "untuned" not in line["config"] and line["task"] == "mrpc":
            line["runs"].pop("10")

    edit(pages, drop)
    blocks = pages.results_blocks()
    assert blocks["primary"] == "Not run yet."
    assert blocks["mlp"].startswith("**Unfinished: 927 of 930 runs.**")
    with pytest.raises(ValueError, match="The records do not show that LSTSD gains over vanilla"):
        pages.readme_blocks()


def test_a_sentence_that_the_records_do_not_bear_is_found(pages):
    """The conclusions are written by hand around generated numbers."""

    def worsen(line):
        if line["method"] == "temporal_ensemble":
            for run in line["runs"].values():
                run["last_epoch"]["eval_accuracy"] *= 0.9

    edit(pages, worsen)
    with pytest.raises(ValueError, match="a simpler teacher: write anew the sentences"):
        pages.conclusion_blocks()


def is_plain(config):
    """Not searched, and LSTSD with the protocol's E."""
    return "untuned" not in config and config["method"].get("mini_generation_epochs", 6) == 6


def score_of(line):
    metric = "eval_matthews_correlation" if line["task"] == "cola" else "eval_accuracy"
    return 100 * line["last_epoch"][metric]


def nll_of(line):
    return line["last_epoch"]["eval_nll"]


def ranking_of(source):
    return lambda line: 100 * line["label_errors"][source]["roc_auc"]


def values_of(file, method, is_searched, value, is_noisy):
    """By cell and seed."""
    found = {}
    for line in records(file):
        config = line["config"]
        is_one = line["method"] == method and is_searched == ("untuned" in config)
        is_one &= config["method"].get("consistency_weight", 6.4) == 6.4
        if is_one and (is_searched or file != "mlp" or is_plain(config)) and (not is_noisy or "label_noise" in config):
            found.setdefault((line["task"], config.get("label_noise", 0)), {})[line["seed"]] = value(line)
    return found


def holm_by_sorting(p_values):
    order = np.argsort(p_values)
    steps = np.array(p_values)[order] * (len(p_values) - np.arange(len(p_values)))
    return dict(zip(order, np.minimum(1, np.maximum.accumulate(steps)), strict=True))


MAJORITY = {"sst2": 100 * 444 / 872, "mrpc": 100 * 279 / 408, "cola": 0.0}
A, B = ("mlp", "lstsd", False), ("mlp", "vanilla", False)
MEMORY, MODEL = ranking_of("memory"), ranking_of("model")


@pytest.mark.parametrize(
    ("name", "first", "second", "values", "count"),
    [
        ("primary", A, B, (score_of, score_of), 9),
        ("against-tuned", A, ("mlp", "vanilla", True), (score_of, score_of), 9),
        ("against-short", A, ("mlp_short", "vanilla", False), (score_of, score_of), 9),
        ("short", ("mlp_short", "lstsd", False), ("mlp_short", "vanilla", False), (score_of, score_of), 9),
        ("against-temporal", A, ("mlp", "temporal_ensemble", False), (score_of, score_of), 9),
        ("against-smoothing", A, ("mlp", "label_smoothing", False), (score_of, score_of), 9),
        ("tuned-against-tuned", ("mlp", "lstsd", True), ("mlp", "vanilla", True), (score_of, score_of), 9),
        ("nll", A, B, (nll_of, nll_of), 9),
        ("memory-against-model", A, B, (MEMORY, MODEL), 6),
    ],
)
def test_families_of_comparisons_from_the_records_alone(name, first, second, values, count):
    """Means, differences, intervals, Holm's p-values and verdicts, computed without the package."""
    digits = 3 if name == "nll" else 2
    found = [values_of(*one, value, count == 6) for one, value in zip((first, second), values, strict=True)]
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == count
    p_values, expected = [], []
    for key in sorted(found[0], key=lambda key: (["sst2", "mrpc", "cola"].index(key[0]), key[1])):
        a, b = (np.array([one[key][seed] for seed in range(1, 11)]) for one in found)
        low, high = stats.t.interval(0.95, 9, (a - b).mean(), stats.sem(a - b))
        p_values.append(stats.ttest_rel(a, b).pvalue)
        mean, low, high = (round(value, digits) + 0.0 for value in ((a - b).mean(), low, high))
        expected.append(
            [
                f"{b.mean():.{digits}f} ± {b.std(ddof=1):.{digits}f}",
                f"{a.mean():.{digits}f} ± {a.std(ddof=1):.{digits}f}",
                f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]",
                (mean, a.mean() < MAJORITY[key[0]]),
            ]
        )
    adjusted = holm_by_sorting(p_values)
    rows = block(name)
    assert len(rows) == count
    for index, (row, (*numbers, (mean, is_below))) in enumerate(zip(rows, expected, strict=True)):
        has_verdict = values[0] is score_of
        start = 3 if has_verdict else 2
        assert row[start : start + 3] == numbers
        assert row[start + 3] == ("<0.001" if adjusted[index] < 0.001 else f"{adjusted[index]:.3f}")
        if has_verdict and adjusted[index] < 0.05:
            verdict = "gain" if mean > 0 else "loss"
            verdict += ", small" if abs(mean) < 1 else ""
            assert row[7] == verdict + (", below majority" if is_below else "")
        elif has_verdict:
            assert row[7] == "no difference shown"


def test_the_conclusions_count_what_the_tables_say():
    text = (ROOT / "docs" / "results.md").read_text()
    for name in ("primary", "against-smoothing", "against-tuned", "tuned-against-tuned", "against-temporal"):
        verdicts = [row[7] for row in block(name)]
        gains, losses = (sum(verdict.startswith(word) for verdict in verdicts) for word in ("gain", "loss"))
        below = sum(verdict.startswith("gain") and verdict.endswith("below majority") for verdict in verdicts)
        bracket = f" ({below} of them below the majority class)" if below else ""
        assert f"{gains} gains{bracket}, {losses} losses, {9 - gains - losses} without a difference shown" in text, name


@pytest.mark.parametrize("name", ["cnn", "cnn_fitting"])
def test_a_table_of_all_methods_from_the_records_alone(name):
    """All methods and tasks are one family, with a search that has records of its own."""
    found = {}
    for line in records(name) + records("cnn_tuned"):
        method = line["method"], "untuned" in line["config"], line["config"]["method"].get("consistency_weight")
        found.setdefault((line["task"], method), {})[line["seed"]] = score_of(line)
    vanilla, lstsd = ("vanilla", False, None), ("lstsd", False, None)
    p_values = {}
    for (task, method), scores in found.items():
        seeds = sorted(scores.keys() & found[task, vanilla].keys())
        a, b = (np.array([values[seed] for seed in seeds]) for values in (scores, found[task, vanilla]))
        if method != vanilla:
            is_testable = len(seeds) > 1 and np.std(a - b) > 1e-9
            p_values[task, method] = stats.ttest_rel(a, b).pvalue if is_testable else 1.0
    adjusted = dict(zip(p_values, map(holm_by_sorting(list(p_values.values())).get, range(len(p_values))), strict=True))
    text = (ROOT / "docs" / "results.md").read_text()
    text = re.search(rf"<!-- results: {name.replace('_', '-')} -->\n(.*?)<!-- end", text, re.DOTALL)[1]
    shown = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| LSTSD |")]
    tasks = [task for task in ("sst2", "mrpc", "cola", "rte") if (task, lstsd) in found]
    assert len(shown) == len(tasks) > 0
    for task, row in zip(tasks, shown, strict=True):
        values = list(found[task, lstsd].values())
        spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        assert row[1:3] == [str(len(values)), f"{np.mean(values):.2f}{spread}"]
        p_value = adjusted[task, lstsd]
        assert row[4] in ("–", "<0.001" if p_value < 0.001 else f"{p_value:.3f}")


def test_every_command_of_the_protocol_parses():
    assert {"a1", "a2", "a3", "b1", "b2", "defaults", "figure2"} < set(cells.CELLS)
    refused, single = {}, []
    for name, cell in cells.CELLS.items():
        try:
            commands = list(map(str, cell()))
        except cells.NotYetError as stop:
            refused[name] = str(stop)
            continue
        assert commands
        for command in commands:
            python, program, *arguments = shlex.split(command)
            assert python == "python"
            parse = {"run_glue.py": cli.parse, "run_cifar.py": images_cli.parse}[program]
            # Some are for a GPU.
            parsed = parse([*arguments, "--use_cpu", "True"])
            if len(parsed.seeds) * len(parsed.teachers) == 1:
                # It goes to the very folder that is named, which can hold no other run.
                assert parsed.run.resume
                single.append(parsed.output_dir)
    assert len(single) == len(set(single)) == 4 + 48 + 10
    # Cells that start from what others found.
    assert set(refused) <= {"a4", "a2_fitting", "gpu_tuned"}
    assert all(f"{name} needs" in message for name, message in refused.items())


def commands_of(name):
    for cell in cells.CELLS.values():
        with contextlib.suppress(cells.NotYetError):
            yield from (command for command in cell() if command.records == name)


@pytest.mark.parametrize(
    ("name", "count"), [("mlp", 930), ("mlp_short", 180), ("cnn", 160), ("cnn_fitting", 80), ("cnn_tuned", 20)]
)
def test_what_the_protocol_plans_was_run(name, count):
    """Every method with all its options, task, noise rate and seed of the commands is among the records."""
    planned = set()
    for command in commands_of(name):
        parsed = cli.parse([*shlex.split(str(command))[2:], "--use_cpu", "True"])
        for teacher in parsed.teachers:
            method = json.dumps(teacher.description(), sort_keys=True)
            is_searched = parsed.run.sweep is not None
            planned |= {
                (command.task, command.rate, is_searched, seed, teacher.name if is_searched else method)
                for seed in parsed.seeds
            }
    assert len(planned) == count == sum(cells.planned(name).values())
    done = set()
    for run in records(name):
        config = run["config"]
        is_searched = "untuned" in config
        method = run["method"] if is_searched else json.dumps(config["method"], sort_keys=True)
        done.add((run["task"], config.get("label_noise", 0.0), is_searched, run["seed"], method))
    assert planned == done


@pytest.mark.parametrize(("losses", "rate"), [((0.5, 0.2, 0.09, 0.01), "0.3"), ((0.5, 0.4, 0.3, 0.2), "1.0")])
def test_the_smallest_rate_at_which_the_cnn_fits(tmp_path, monkeypatch, losses, rate):
    monkeypatch.setattr(analysis, "FOLDER", tmp_path)
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
        cells.NotYetError, match=r"a2_fitting needs the runs of a2_rates in .*found those of \[0.03, 0.1, 0.3\]"
    ):
        list(cells.a2_fitting())
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    commands = list(map(str, cells.a2_fitting()))
    assert len(commands) == 8
    assert all(f"--learning_rate {rate} " in command for command in commands)
