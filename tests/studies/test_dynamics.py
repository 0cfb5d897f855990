"""What is said of recorded runs in docs/results.md."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lstsd_hf.dynamics import History
from lstsd_hf.dynamics.files import EpochTable, epoch_path, write_epoch
from studies import cleaning_table, dynamics, history_table


def finished_run(folder, task, seed, epochs, generated=False):
    """Wrong labels of 40 examples are believed less in epochs 2 to 4 and more in the last one."""
    random = np.random.default_rng(seed)
    given, wrong = np.arange(40) % 2, [1, 4, 10, 13]
    (folder / "dynamics").mkdir(parents=True)
    for epoch in range(epochs):
        own = random.uniform(0.6, 0.7, 40)
        own[wrong] = 0.9 if epoch + 1 == epochs and epochs > 3 else 0.3
        ones = np.where(given == 1, own, 1 - own)
        log_probs = np.log(np.stack([1 - ones, ones], axis=1)).astype(np.float32)
        write_epoch(epoch_path(folder / "dynamics", epoch), EpochTable(log_probs, given))
    result = {"task": task, "method": "vanilla", "seed": seed, "data": {"generated": generated}}
    result |= {"label_errors": {"model": {"roc_auc": 0.5, "precision_at_count": 0.1}}, "epochs": [{}] * epochs}
    (folder / "results.json").write_text(json.dumps(result))
    (folder / "label_noise.json").write_text(json.dumps({"rate": 0.2, "rows": wrong}))


def test_a_line_for_each_run(tmp_path):
    finished_run(tmp_path / "a", "mrpc", 1, 8)
    finished_run(tmp_path / "b", "custom", 2, 3)
    lines = {line["task"]: line for line in dynamics.recorded_runs(tmp_path)}
    assert lines.keys() == {"mrpc", "trec"}
    assert lines["mrpc"]["window"] == (2, 4)
    assert lines["mrpc"]["suspicion"] == {"roc_auc": 1.0, "precision_at_count": 1.0}
    assert lines["mrpc"]["last epoch"] == {"roc_auc": 0.0, "precision_at_count": 0.0}
    history = History.read(tmp_path / "a" / "dynamics")
    is_wrong = np.isin(np.arange(40), [1, 4, 10, 13])
    mean = history.given_probabilities.mean(axis=0)
    assert lines["mrpc"]["all epochs (confidence)"]["roc_auc"] == roc_auc_score(is_wrong, -mean)


def test_generated_data_get_no_line(tmp_path):
    finished_run(tmp_path / "a", "mrpc", 1, 8, generated=True)
    with pytest.raises(ValueError, match="generated data, which must not stand in a table of results"):
        list(dynamics.recorded_runs(tmp_path))


def test_the_table_has_the_short_control_and_says_where_the_default_is_not_among_the_best(tmp_path, monkeypatch):
    for seed in (1, 2):
        finished_run(tmp_path / f"long{seed}", "custom", seed, 8)
        finished_run(tmp_path / f"short{seed}", "custom", seed, 3)
    lines = [json.dumps(line) for line in dynamics.recorded_runs(tmp_path)]
    (tmp_path / "dynamics.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(history_table, "records_file", lambda name: tmp_path / name)
    monkeypatch.setattr(history_table, "cells", lambda name: [])
    monkeypatch.setattr(history_table, "METHODS", {"vanilla": "vanilla"})
    page = history_table.history_table()
    assert "within 0.5 points of the best of rankings of the same run in 1 of 1 cells" in page
    assert "| model of a 3-epoch run | 50.0 / 10 |" in page
    assert "| **suspicion** | 100.0 / 100 |" in page


def test_cleaning_is_compared_seed_by_seed(tmp_path, monkeypatch):
    lines = [
        {"task": "mrpc", "rate": 0.2, "seed": seed, "epochs": 30, "action": action, "touched": 10, "touched_wrong": 4}
        | {"score": 0.5 + seed / 100 + gain}
        for seed in range(1, 6)
        for action, gain in (("as given", 0.0), ("dropped", 0.02 + seed / 1000), ("relabelled", -0.03 - seed / 1000))
    ]
    (tmp_path / "cleaning.jsonl").write_text("\n".join(map(json.dumps, lines[:-1])))
    monkeypatch.setattr(cleaning_table, "records_file", lambda name: tmp_path / name)
    assert "MRPC" not in cleaning_table.cleaning_table()  # a run is missing
    (tmp_path / "cleaning.jsonl").write_text("\n".join(map(json.dumps, lines)))
    # Gains of 2.1 to 2.5 points: mean 2.3, t(0.975, 4) = 2.776 times 0.158 / sqrt(5) = 0.20.
    row = "| MRPC, 20%, 30 epochs | 10 (40%) | 53.0 | +2.3 [+2.1, +2.5] | -3.3 [-3.5, -3.1] |"
    assert row in cleaning_table.cleaning_table()
