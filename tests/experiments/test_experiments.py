"""Grids of runs, searches, and reports."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from filelock import FileLock

from lstsd_hf import METHODS
from lstsd_hf.errors import InputError
from lstsd_hf.experiments.__main__ import main as experiments
from lstsd_hf.experiments.figures import reliability_points, write_figures
from lstsd_hf.experiments.grouping import group_runs
from lstsd_hf.experiments.published import published_score
from lstsd_hf.experiments.records import collect, read_results
from lstsd_hf.experiments.report import CSV_COLUMNS, section_rows, to_csv
from lstsd_hf.experiments.statistics import holm, mean_and_std, paired_difference
from lstsd_hf.glue import cli
from lstsd_hf.glue.models import load_model
from lstsd_hf.glue.run import GlueRun
from lstsd_hf.glue.tasks import TASKS
from lstsd_hf.runner.grid import take_shard
from tests.helpers import ROOT, error_of

ALL = [name for name in METHODS if name not in ("kd", "tskd")]


def grid_options(encoder):
    return [
        *("--task", "rte", "cola", "--data", "synthetic", "--method", "all", "--seeds", "1", "2"),
        *("--model_name_or_path", encoder, "--max_train_samples", "16", "--num_train_epochs", "3"),
        *("--per_device_train_batch_size", "8", "--learning_rate", "1e-2", "--use_cpu", "true"),
        *(f"--{name}.mini_generation_epochs=1" for name in METHODS if "lstsd" in name),
        *("--self_regulated.distillation", "none"),  # in one stage
        *("--snapshot_ensemble.cycle_epochs", "1", "--snapshot_distillation.cycle_epochs", "1"),
    ]


def finished(folder):
    # The running grid removes its checkpoints meanwhile, on which rglob fails.
    paths = [Path(place) / "results.json" for place, _, names in os.walk(folder) if "results.json" in names]
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.slow
def test_a_killed_grid_completes_without_repeating_a_run(workplace, encoder, capsys):
    command = [sys.executable, str(ROOT / "run_glue.py"), *grid_options(encoder)]
    total = 2 * len(ALL) * 2
    with open("first.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ})
        while len(finished(workplace)) < total // 2:
            assert process.poll() is None, (workplace / "first.log").read_text()[-3000:]
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = finished(workplace)
    assert total // 2 <= len(before) < total
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    after = finished(workplace)
    assert len(after) == total
    assert {path: after[path] for path in before} == before
    assert again.stdout.count("Finished before in") == len(before)
    assert again.stdout.count("Saved in") == total - len(before)
    assert re.search(r"\| method +\| seed \| matthews_correlation", again.stdout)

    # The report over all of it.
    experiments(["report", "runs"])
    shown = capsys.readouterr().out
    assert shown.count("GENERATED DATA") == 2
    sections = group_runs(read_results([workplace / "runs"]))
    assert [section.metric for section in sections] == ["matthews_correlation", "accuracy"]
    for section in sections:
        assert [group.label for group in section.groups] == ["vanilla", *sorted({*ALL} - {"vanilla"})]
        rows = {row.label: row for row in section_rows(section)}
        assert all(row.seeds == 2 and row.paper is None for row in rows.values())
        assert list(rows["mean_teacher"].others) == ["ema"]
        assert list(rows["snapshot_ensemble"].others) == ["student"]
    assert len(list((workplace / "runs" / "report").glob("*.png"))) == 4
    with open(workplace / "runs" / "report" / "report.csv") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(ALL)


def test_the_predictions_are_those_of_the_last_epoch(workplace, encoder):
    cli.main(
        [
            *("--task", "rte", "--data", "synthetic", "--method", "snapshot_ensemble", "--cycle_epochs", "1"),
            *("--model_name_or_path", encoder, "--max_train_samples", "32", "--num_train_epochs", "3"),
            *("--learning_rate", "1e-2", "--use_cpu", "true", "--output_dir", "mine"),
        ]
    )
    results = json.loads((workplace / "mine" / "results.json").read_text())
    with np.load(workplace / "mine" / "predictions.npz") as arrays:
        logits, labels = arrays["logits"], arrays["labels"]
    assert logits.shape == (160, 2)
    assert (logits.argmax(-1) == labels).mean() == pytest.approx(results["last_epoch"]["eval_accuracy"])
    # The ensemble's: probabilities, not the last snapshot's logits.
    np.testing.assert_allclose(np.exp(logits).sum(axis=-1), 1.0, rtol=1e-5)
    assert results["last_epoch"]["eval_nll"] == pytest.approx(results["last_epoch"]["eval_loss"], rel=1e-3)
    assert "eval_student_accuracy" in results["last_epoch"]
    assert len(list((workplace / "mine" / "snapshots").glob("cycle-*.safetensors"))) == 3


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_disjoint_and_complete(count):
    items = list(range(10))
    shards = [take_shard(items, f"{index}/{count}") for index in range(1, count + 1)]
    assert sorted(item for shard in shards for item in shard) == items
    assert take_shard(items, None) == items


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_malformed_shards(shard):
    with pytest.raises(InputError, match="`shard` must be i/n with i from 1 to n, such as 1/4"):
        take_shard([1], shard)


@pytest.mark.parametrize("layers", ["0", "1"])
def test_the_top_of_an_encoder_from_cached_states(workplace, layers, capsys):
    command = [
        *("--task", "cola", "--data", "synthetic", "--method", "vanilla", "lstsd", "--trainable_layers", layers),
        *("--model_name_or_path", "minilm", "--max_train_samples", "64", "--num_train_epochs", "3"),
        *("--learning_rate", "1e-3", "--use_cpu", "true", "--lstsd.mini_generation_epochs", "1"),
    ]
    cli.main([*command, "--seeds", "1"])
    states = {path: path.stat().st_mtime_ns for path in workplace.glob("runs/.cache/states-*/states.npy")}
    assert len(states) == 2  # training and validation split, for both methods
    cli.main([*command, "--seeds", "2", "--label_noise", "0.25"])
    assert {path: path.stat().st_mtime_ns for path in workplace.glob("runs/.cache/states-*/states.npy")} == states
    if layers == "1":
        # What is saved is the whole model, texts in and labels out.
        from transformers import pipeline

        (folder,) = workplace.glob("runs/cola/minilm/lstsd/*-seed1")
        trained = pipeline("text-classification", model=str(folder)).model.state_dict()
        before = load_model("minilm", TASKS["cola"])[0].state_dict()
        assert trained.keys() == before.keys()
        changed = {name for name, value in trained.items() if not torch.equal(value, before[name])}
        assert any("layer.5" in name for name in changed)
        assert all(name.startswith(("bert.encoder.layer.5", "bert.pooler", "classifier")) for name in changed)


def test_a_search_looks_at_the_training_split_only(workplace, encoder, monkeypatch):
    seen = []
    from lstsd_hf.experiments import sweep

    execute = sweep.execute

    def spy(run, *args, **options):
        seen.append(run)
        return execute(run, *args, **options)

    monkeypatch.setattr(sweep, "execute", spy)
    command = [
        *("--task", "rte", "--data", "synthetic", "--method", "vanilla", "lstsd", "--seeds", "1", "2", "--sweep", "3"),
        *("--model_name_or_path", encoder, "--max_train_samples", "40", "--num_train_epochs", "3"),
        *("--learning_rate", "1e-2", "--use_cpu", "true", "--lstsd.mini_generation_epochs", "1"),
    ]
    cli.main(command)
    assert len(seen) == 6  # the same budget for both
    train = cli.load_task(cli.get_task("rte"), "synthetic")["train"].select(range(40))
    for run in seen:
        texts = [run.splits[name]["sentence1"][:] for name in ("train", "validation")]
        assert sorted(texts[0] + texts[1]) == sorted(train["sentence1"][:])
        assert len(texts[1]) == 6
    studies = {path.stem.split("-")[2]: json.loads(path.read_text()) for path in workplace.glob("runs/sweeps/*.json")}
    assert set(studies) == {"vanilla", "lstsd"}
    for study in studies.values():
        assert study["budget"] == len(study["trials"]) == 3
        assert study["best"]["score"] == max(trial["score"] for trial in study["trials"])
    # The first trial has the given options, and lengths that do not fit are not tried.
    assert studies["lstsd"]["trials"][0]["params"]["lambda_short"] == 4.0
    assert studies["lstsd"]["search_space"]["mini_generation_epochs"] == [1, 2]
    assert studies["vanilla"]["trials"][0]["params"] == {"learning_rate_factor": 1.0, "dropout": None}
    assert studies["vanilla"]["trials"][0]["params"]["learning_rate_factor"] == 1.0
    results = [json.loads(path.read_text()) for path in workplace.glob("runs/rte/*/lstsd/*/results.json")]
    assert len(results) == 2
    best = studies["lstsd"]["best"]["params"]
    for result in results:
        assert {name: result["config"]["method"][name] for name in best} == best
    # Searched or not, both methods stand in one table, and the difference is paired.
    (section,) = group_runs(read_results([workplace / "runs"]))
    labels = [row.label for row in section_rows(section)]
    assert [label.split(" ")[0] for label in labels] == ["vanilla", "lstsd"]
    assert all("searched=True" in label for label in labels)
    assert section_rows(section)[1].difference.count == 2
    # Finished trials are not repeated, by any shard.
    cli.main([*command, "--shard", "2/2"])
    cli.main(command)
    assert len(seen) == 6
    command[command.index("--sweep") + 1] = "0"
    assert error_of(command) == "`sweep` must be a number of trials of at least 1, got 0."


def test_searching_noisy_data_selects_on_labels_as_noisy():
    from lstsd_hf.experiments.sweep import hold_out

    parsed = cli.parse(
        [
            *("--task", "rte", "--data", "synthetic", "--method", "lstsd", "--label_noise", "0.3"),
            *("--num_train_epochs", "3", "--mini_generation_epochs", "1"),
        ]
    )
    (planned,) = cli.plan(parsed)
    inner = hold_out(planned.run)
    assert inner.options.label_noise == 0.0
    true = dict(zip(planned.run.splits["train"]["sentence1"][:], planned.run.splits["train"]["label"][:], strict=True))
    wrong = {name: sum(true[row["sentence1"]] != row["label"] for row in inner.splits[name]) for name in inner.splits}
    assert wrong["train"] + wrong["validation"] == pytest.approx(120, abs=8)  # sentences may occur in two pairs
    assert wrong["validation"] > 5


# ---- Statistics, beside hand-computed ones ----


def test_mean_and_standard_deviation():
    assert mean_and_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt((4 + 1 + 9) / 2)))
    mean, deviation = mean_and_std([4.0])
    assert mean == 4.0
    assert math.isnan(deviation)


def test_paired_difference_by_hand():
    scores, baseline = {1: 80.0, 2: 83.0, 3: 82.0, 9: 10.0}, {3: 80.0, 2: 80.0, 1: 79.0, 4: 0.0}
    # Differences 1, 3, 2: mean 2, standard deviation 1, standard error 1/sqrt(3); t(2) at 97.5 % is 4.302653.
    found = paired_difference(scores, baseline)
    assert (found.count, found.mean) == (3, 2.0)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    # t = 2 sqrt(3); for 2 degrees of freedom p = 1 - t / sqrt(t² + 2).
    t = 2 * math.sqrt(3)
    assert found.p_value == pytest.approx(1 - t / math.sqrt(t**2 + 2), abs=1e-9)


def test_differences_that_cannot_be_tested():
    one = paired_difference({1: 3.0}, {1: 2.0})
    assert (one.count, one.mean) == (1, 1.0)
    assert math.isnan(one.low)
    assert math.isnan(one.p_value)
    same = paired_difference({1: 3.0, 2: 4.0}, {1: 3.0, 2: 4.0})
    assert same.mean == 0.0
    assert math.isnan(same.p_value)
    # The same gain for every seed, but for rounding: no spread, so nothing to test, and not p = 0.
    gain = paired_difference({1: 70.1, 2: 71.3, 3: 69.7}, {1: 69.2, 2: 70.4, 3: 68.8})
    assert gain.mean == pytest.approx(0.9)
    assert math.isnan(gain.low)
    assert math.isnan(gain.p_value)
    # As records keep them: 2 of 277 examples more for every seed.
    plain = {seed: 100 * float(f"{right / 277:.6g}") for seed, right in enumerate((147, 151, 160))}
    taught = {seed: 100 * float(f"{right / 277:.6g}") for seed, right in enumerate((149, 153, 162))}
    assert len({taught[seed] - plain[seed] for seed in plain}) > 1
    assert math.isnan(paired_difference(taught, plain).p_value)
    # One example of 872 in one of ten runs is a spread.
    scores = {seed: 75.0 + (100 / 872 if seed == 3 else 0.0) for seed in range(10)}
    assert paired_difference(scores, dict.fromkeys(range(10), 74.0)).p_value < 1e-3
    with pytest.raises(InputError, match=r"only be paired over common seeds, got \[1\] and \[2\]"):
        paired_difference({1: 3.0}, {2: 3.0})


def test_holm_by_hand():
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, .06, .04, and never less than the one before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    # What could not be tested is a comparison all the same.
    with_gap = holm([math.nan, 0.01, 0.02])
    assert math.isnan(with_gap[0])
    assert with_gap[1:] == pytest.approx([0.03, 0.04])


def fake_run(folder, method, seed, accuracy, **changes):
    path = folder / f"{method}-{seed}-{len(list(folder.iterdir()))}"
    path.mkdir()
    options = changes.pop("options", {})
    epoch = {"epoch": 1.0, "eval_loss": 0.5, "eval_accuracy": accuracy, "eval_nll": 0.5, "eval_ece": 0.1}
    epoch["eval_runtime"] = len(list(folder.iterdir())) / 7  # no two are alike
    result = {
        "schema_version": 3,
        "config_hash": f"{method}-{options}-{changes.get('more')}",
        "task": "rte",
        "method": method,
        "model": "cnn",
        "seed": seed,
        "metrics": ["accuracy"],
        "data": {"source": "tsv", "generated": False, "train_examples": 10, "validation_examples": 5},
        "config": {
            "task": "rte",
            "data": "tsv",
            "model": "cnn",
            "method": {"name": method, **options},
            "training": {"num_train_epochs": 50.0, "max_steps": -1, "learning_rate": changes.pop("lr", 0.1)},
            **changes.pop("more", {}),
        },
        "epochs": [epoch],
        "last_epoch": epoch,
        "best_epoch": 1.0,
        "resumed": False,
        "distilled_steps": 3,
        "coverage": None,
        "label_errors": None,
        "seconds": 9.0,
        "seconds_per_epoch": 2.0,
        "versions": {"torch": "2"},
    }
    (path / "results.json").write_text(json.dumps(result | changes))
    return path


def test_the_report_by_hand(tmp_path, capsys):
    for seed, (plain, taught) in enumerate([(0.79, 0.80), (0.80, 0.83), (0.80, 0.82)]):
        fake_run(tmp_path, "vanilla", seed, plain)
        fake_run(tmp_path, "lstsd", seed, taught, options={"mini_generation_epochs": 6})
        fake_run(tmp_path, "lstsd", seed, 0.7, options={"mini_generation_epochs": 2})
    experiments(["report", str(tmp_path)])
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if line.startswith("| ")]
    assert "## RTE · cnn · 50 epochs" in shown
    assert re.sub(r"\s+", " ", lines[1]) == (
        "| vanilla | 3 | **79.67 ± 0.58** | – | – | 0.500 ± 0.000 | 0.100 ± 0.000 | – | 2.00 | 53.79 |"
    )
    # The mean of 1, 3, 2, its interval and twice the p-value (two comparisons), as computed above.
    assert "| lstsd (mini_generation_epochs=6) | 3 | **81.67 ± 1.53** | +2.00 [-0.48, +4.48] | 0.074 |" in lines[3]
    assert lines[2].startswith("| lstsd (mini_generation_epochs=2) | 3 | **70.00 ± 0.00** | -9.67")
    with open(tmp_path / "report" / "report.csv") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["paper"] for row in rows] == ["53.79", "57.4", "57.4"]
    assert rows[2]["p_value"] == "0.0741799"
    names = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert names == ["RTE-cnn-50-epochs-curves.png", "RTE-cnn-50-epochs-length.png", "report.csv", "report.md"]


def test_collected_runs_make_the_same_report_and_are_never_dropped(tmp_path, capsys):
    runs, records = tmp_path / "runs", tmp_path / "kept" / "grid.jsonl"
    runs.mkdir()
    folders = [
        fake_run(runs, method, seed, 0.7045678 + 0.01 * seed + 0.02 * (method == "lstsd"), seconds=4.00000049)
        for method in ("lstsd", "vanilla")
        for seed in (2, 10, 1)
    ]
    (runs / "sweeps").mkdir()
    study = {"study": "rte-cnn-lstsd-1", "task": "rte", "method": "lstsd", "budget": 4, "best": {"score": 0.5}}
    study["config"] = {"task": "rte", "training": {"num_train_epochs": 3.0, "max_steps": -1, "optim": "sgd"}}
    (runs / "sweeps" / "rte-cnn-lstsd-1-4.json").write_text(json.dumps(study))
    whole = to_csv(group_runs(read_results([runs])))
    experiments(["collect", str(runs), str(records)])
    assert capsys.readouterr().out == f"{records}: 6 runs\n"
    assert to_csv(group_runs(read_results([records]))) == whole
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert [(line["method"], [*line["runs"]]) for line in lines] == [
        (method, ["1", "2", "10"]) for method in ("lstsd", "vanilla")
    ]
    first = lines[0]["runs"]["1"]
    assert first["course"] == {"epoch": [1], "eval_accuracy": [0.7346]}
    assert first["last_epoch"]["eval_accuracy"] == 0.734568
    # Not the default 3 epochs and 5e-5, but no other training arguments; six digits.
    assert lines[0]["config"]["training"] == {"num_train_epochs": 50.0, "learning_rate": 0.1}
    assert first["seconds"] == 4
    study["config"]["training"] = {"num_train_epochs": 3.0, "optim": "sgd"}
    assert [json.loads(line) for line in (tmp_path / "kept" / "grid.sweeps.jsonl").read_text().splitlines()] == [study]

    # One run is gone, one was repeated: the first stays in the file, the second is replaced.
    shutil.rmtree(folders[0])
    shutil.rmtree(folders[3])
    fake_run(runs, "vanilla", 2, 0.9)
    assert collect(runs, records) == 6
    again = [json.loads(line) for line in records.read_text().splitlines()]
    scores = [run["last_epoch"]["eval_accuracy"] for line in again for run in line["runs"].values()]
    assert scores == [0.734568, 0.744568, 0.824568, 0.714568, 0.9, 0.804568]


def test_searched_runs_and_runs_from_folders_and_files_stand_together(tmp_path):
    """A default learning rate, here that of a searched run, must survive; so must the setting of the others."""
    for part, seed in (("kept", 1), ("fresh", 2)):
        (tmp_path / part).mkdir()
        fake_run(tmp_path / part, "vanilla", seed, 0.7, lr=2e-4)
        fake_run(
            *(tmp_path / part, "vanilla", seed, 0.8),
            lr=5e-5,
            more={"untuned": {"learning_rate": 2e-4, "dropout": None}, "dropout": 0.3},
        )
    collect(tmp_path / "kept", tmp_path / "kept.jsonl")
    (section,) = group_runs(read_results([tmp_path / "kept.jsonl", tmp_path / "fresh"]))
    assert [(group.label, sorted(group.results)) for group in section.groups] == [
        ("vanilla", [1, 2]),
        ("vanilla (searched=True, learning_rate=5e-05, dropout=0.3)", [1, 2]),
    ]
    with pytest.raises(
        InputError, match=r"kept\.jsonl and .*kept.* both hold a run of this setting \(vanilla-.*\) with seed 1"
    ):
        group_runs(read_results([tmp_path / "kept.jsonl", tmp_path / "kept"]))


def test_collected_to_another_kind_of_file(tmp_path):
    with pytest.raises(InputError, match=r"`output` must end in \.jsonl, got .*results\.csv\."):
        experiments(["collect", str(tmp_path), str(tmp_path / "results.csv")])


def test_sections_that_differ_in_their_tables_say_so(tmp_path):
    fake_run(tmp_path, "vanilla", 1, 0.7)
    fake_run(tmp_path, "vanilla", 2, 0.9, more={"memory_form": "bf16"})
    titles = {section.title for section in group_runs(read_results([tmp_path]))}
    assert titles == {"RTE · cnn · 50 epochs", "RTE · cnn · memory_form=bf16 · 50 epochs"}


def test_what_only_looks_on_makes_no_other_section(tmp_path):
    fake_run(tmp_path, "lstsd", 1, 0.8)
    fake_run(tmp_path, "vanilla", 1, 0.7, more={"record_dynamics": True})
    fake_run(tmp_path, "vanilla", 1, 0.7, more={"cross_validate": 5})
    (section,) = group_runs(read_results([tmp_path]))
    assert [(group.label, [*group.results]) for group in section.groups] == [("vanilla", [1]), ("lstsd", [1])]
    fake_run(tmp_path, "vanilla", 1, 0.6)
    with pytest.raises(InputError, match="both hold a run of this setting"):
        group_runs(read_results([tmp_path]))


@pytest.mark.parametrize("changes", [{}, {"best_model": {"step": 3}}])
def test_other_splits_stand_beside(tmp_path, changes):
    for seed, score in enumerate((0.5, 0.75)):
        other = {"validation_mismatched": {"eval_accuracy": score, "eval_loss": 0.5}}
        fake_run(tmp_path, "vanilla", seed, 0.8, other_splits=other, **changes)
    (row,) = section_rows(group_runs(read_results([tmp_path]))[0])
    name = "mismatched (saved model)" if changes else "mismatched"
    assert row.others == {name: (62.5, pytest.approx(25 / math.sqrt(2)))}


def test_records_keep_the_digest_of_a_model_in_a_folder(tmp_path):
    for seed in (1, 2):
        fake_run(tmp_path, "vanilla", seed, 0.7, model_digest="454a0fd668")
    collect(tmp_path, tmp_path / "kept.jsonl")
    assert {result["model_digest"] for _, result in read_results([tmp_path / "kept.jsonl"])} == {"454a0fd668"}
    # Another model at the same place is another one.
    fake_run(tmp_path, "vanilla", 1, 0.8, model_digest="0123456789")
    assert collect(tmp_path, tmp_path / "kept.jsonl") == 3


def test_who_collects_waits_for_another_to_have_written(tmp_path):
    (tmp_path / "runs").mkdir()
    fake_run(tmp_path / "runs", "vanilla", 1, 0.7)
    output = tmp_path / "all.jsonl"
    with FileLock(tmp_path / ".all.jsonl.lock"):
        thread = Thread(target=collect, args=(tmp_path / "runs", output))
        thread.start()
        thread.join(timeout=0.5)
        assert thread.is_alive()
        assert not output.exists()
    thread.join()
    assert len(read_results([output])) == 1


def test_what_is_under_way_is_left_alone(tmp_path):
    """Checkpoints come and go; the trials of a search are no runs."""
    fake_run(tmp_path, "vanilla", 1, 0.7)
    for place in ("vanilla-1-0/checkpoint-10", "sweeps/rte/trial-3"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "results.json").write_text("{}")
    (tmp_path / "vanilla-1-0" / "run.json").write_text("{}")
    assert len(read_results([tmp_path])) == 1


def test_a_model_in_a_checkpoint_is_a_model(tmp_path):
    """Its runs are in a folder of its name."""
    (tmp_path / "rte" / "checkpoint-10").mkdir(parents=True)
    fake_run(tmp_path / "rte" / "checkpoint-10", "vanilla", 1, 0.7)
    assert len(read_results([tmp_path])) == 1


def test_long_titles_have_short_file_names(tmp_path):
    """Of one's own data they name whole paths."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        own = {"data": "/home/jane/" + "数据/" * 60 + name}
        fake_run(tmp_path / name, "vanilla", 1, 0.7, more=own, config_hash=name * 10)
    paths = write_figures(group_runs(read_results([tmp_path])), tmp_path / "figures")
    assert len({path.name for path in paths}) == len(paths) == 2
    assert all(len(path.name) < 160 for path in paths)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must be a result as run_glue.py writes it, got a damaged file"),
        ("[1]", "must be a result as run_glue.py writes it, got a list"),
        ('{"schema_version": 3}', "must be a result as run_glue.py writes it, got a file without `task`"),
        ('{"schema_version": 2}', r"`schema_version` of .* must be 3, got 2"),
    ],
)
def test_a_damaged_or_foreign_result(tmp_path, content, message):
    folder = fake_run(tmp_path, "vanilla", 1, 0.7)
    (folder / "results.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_results([tmp_path])


def test_runs_of_different_settings_are_never_averaged(tmp_path):
    fake_run(tmp_path, "vanilla", 1, 0.7)
    fake_run(tmp_path, "vanilla", 2, 0.9, lr=0.2)
    sections = group_runs(read_results([tmp_path]))
    assert [section.title for section in sections] == [
        "RTE · cnn · 50 epochs · learning_rate=0.1",
        "RTE · cnn · 50 epochs · learning_rate=0.2",
    ]
    assert all(len(section.groups) == 1 and section_rows(section)[0].seeds == 1 for section in sections)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": {"torch": "3"}}, "must have the same `versions`, but it is {'torch': '2'} in"),
        ({"model_digest": "d156b9d545"}, "must have the same `model_digest`, but it is None in"),
        (
            {"data": {"source": "tsv", "generated": False, "train_examples": 11, "validation_examples": 5}},
            "must have the same `data`, but it is",
        ),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_refused(tmp_path, changes, message):
    fake_run(tmp_path, "vanilla", 1, 0.7)
    fake_run(tmp_path, "vanilla", 2, 0.9, **changes)
    with pytest.raises(InputError) as error:
        group_runs(read_results([tmp_path]))
    assert message in str(error.value)


def test_the_same_run_twice_is_refused(tmp_path):
    fake_run(tmp_path, "vanilla", 1, 0.7)
    fake_run(tmp_path, "vanilla", 1, 0.9)
    with pytest.raises(
        InputError, match=r"both hold a run of this setting \(.*\) with seed 1\. Move one of them elsewhere"
    ):
        group_runs(read_results([tmp_path]))


def test_models_in_folders_of_the_same_name_are_told_apart(tmp_path):
    for model in ("x/best", "y/best/", "z/other"):
        fake_run(tmp_path, "vanilla", 1, 0.7, more={"model": model})
    titles = sorted(section.title for section in group_runs(read_results([tmp_path])))
    assert [title.split(" · ")[1] for title in titles] == ["other", "x/best", "y/best"]


def test_results_of_another_version_are_refused(tmp_path):
    fake_run(tmp_path, "vanilla", 1, 0.7, schema_version=1)
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(InputError, match=r"must be a file of records as `collect` writes them, got another one"):
        read_results([tmp_path / "other.jsonl"])
    with pytest.raises(InputError, match=r"`schema_version` of .* must be 3, got 1: another version of lstsd_hf"):
        read_results([tmp_path])


def test_nothing_to_report(tmp_path):
    with pytest.raises(
        InputError, match=r"must contain finished runs \(results.json, or a line for each setting\), found none"
    ):
        read_results([tmp_path])


def test_reliability_by_hand(tmp_path):
    probabilities = np.array([[0.62, 0.38], [0.68, 0.32], [0.05, 0.95], [0.01, 0.99]])
    np.savez(tmp_path / "predictions.npz", logits=np.log(probabilities), labels=np.array([0, 1, 1, 1]))
    confidence, accuracy = reliability_points([tmp_path / "predictions.npz"])
    np.testing.assert_allclose(confidence, [0.65, 0.97], atol=1e-6)
    np.testing.assert_allclose(accuracy, [0.5, 1.0])


def test_published_scores():
    assert published_score("google-bert/bert-base-uncased", "cola", "mean_teacher") == 61.75
    assert published_score("cnn", "mrpc", "snapshot_distillation") == 73.77
    assert published_score("cnn", "mrpc", "dlb") is None
    assert published_score("cnn", "custom", "lstsd") is None


def test_a_setting_that_is_drawn_again_is_not_run_again(workplace, encoder, monkeypatch):
    from lstsd_hf.experiments import sweep

    execute, calls = sweep.execute, []

    def counts(run, folder, **options):
        calls.append(run)
        return execute(run, folder, **options)

    monkeypatch.setattr(sweep, "execute", counts)
    monkeypatch.setattr(sweep, "TRAINING_SEARCH_SPACE", {"learning_rate_factor": (0.5, 1.0)})
    monkeypatch.setattr(GlueRun, "option_search_space", {})
    command = [
        *("--task", "rte", "--data", "synthetic", "--method", "vanilla", "--model_name_or_path", encoder),
        *("--num_train_epochs", "1", "--max_train_samples", "32", "--use_cpu", "true", "--sweep", "6"),
    ]
    cli.main([*command, "--output_dir", "found"])
    (study,) = (json.loads(path.read_text()) for path in (workplace / "found" / "sweeps").glob("*.json"))
    scores = {trial["params"]["learning_rate_factor"]: trial["score"] for trial in study["trials"]}
    assert len(calls) == len(scores) == 2
    assert len(study["trials"]) == 6
    assert all(trial["score"] == scores[trial["params"]["learning_rate_factor"]] for trial in study["trials"])


def test_a_search_goes_on_without_settings_that_fail(workplace, encoder, monkeypatch):
    from lstsd_hf.experiments import sweep

    execute, calls = sweep.execute, []

    def fails(run, folder, **options):
        calls.append(run)
        if len(calls) != 2:
            raise InputError("The outputs must be finite.")
        return execute(run, folder, **options)

    command = [
        *("--task", "rte", "--data", "synthetic", "--method", "lstsd", "--model_name_or_path", encoder),
        *("--num_train_epochs", "3", "--max_train_samples", "32", "--use_cpu", "true"),
        *("--mini_generation_epochs", "1", "--sweep", "1", "--output_dir", "found"),
    ]
    monkeypatch.setattr(sweep, "execute", fails)
    cli.main(command)
    (study,) = (json.loads(path.read_text()) for path in (workplace / "found" / "sweeps").glob("*.json"))
    assert len(calls) == len(study["trials"]) + 1 == 2
    calls[:] = [None, None]
    assert re.fullmatch(
        r"3 trials of .* failed, the last one: The outputs must be finite.",
        error_of([*command, "--seed", "2", "--sweep", "2"]),
    )


def test_a_search_tunes_what_runs_are_judged_by(workplace, encoder, monkeypatch):
    """With rows held out the last epoch's score has no say."""
    from lstsd_hf.experiments import sweep

    def scored(run, folder, **options):
        factor = run.args.learning_rate / 1e-2
        return {
            "config": {"held_out_share": 0.25},
            "last_epoch": {"eval_accuracy": 0.9},
            "best_model": {"eval_accuracy": 0.1 * factor},
        }

    command = [
        *("--task", "rte", "--data", "synthetic", "--method", "vanilla", "--model_name_or_path", encoder),
        *("--num_train_epochs", "1", "--max_train_samples", "32", "--use_cpu", "true", "--learning_rate", "1e-2"),
        *("--held_out_share", "0.25", "--sweep", "6", "--output_dir", "found"),
    ]
    monkeypatch.setattr(sweep, "execute", scored)
    cli.main(command)
    (study,) = (json.loads(path.read_text()) for path in (workplace / "found" / "sweeps").glob("*.json"))
    factors = [trial["params"]["learning_rate_factor"] for trial in study["trials"]]
    assert len(set(factors)) > 1
    assert study["best"]["params"]["learning_rate_factor"] == max(factors)
