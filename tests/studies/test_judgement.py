"""The judgement of `anchored`, counted again from the records' lines alone."""

import json
import re

import numpy as np

from tests.helpers import ROOT

RECORDS = ROOT / "studies" / "records"


def lines_of(*names):
    for name in names:
        path = RECORDS / f"{name}.jsonl"
        yield from map(json.loads, path.read_text().splitlines() if path.exists() else [])


def place(line):
    config = line["config"]
    return config["task"], config.get("label_noise", 0.0), config.get("label_noise_kind", "symmetric")


def is_control(line):
    method = line["config"]["method"]
    if "untuned" in line["config"]:
        return line["method"] == "vanilla"
    paper = {"lambda_short": 4.0, "lambda_long": 2.4, "mini_generation_epochs": 6}
    defaults = {"lambda_short": 1.0, "lambda_long": 1.0, "mini_generation_epochs": 6}
    return {
        "lstsd": any(all(method.get(key) == value for key, value in form.items()) for form in (paper, defaults)),
        "temporal_ensemble": method.get("consistency_weight") == 6.4,
    }.get(line["method"], line["method"] in ("vanilla", "elr", "sat"))


def mean_score(line):
    # One that stops early is judged by the model that it ends with.
    key = "best_model" if line["config"].get("held_out_share") else "last_epoch"
    return 100 * np.mean([run[key][f"eval_{line['metrics'][0]}"] for run in line["runs"].values()])


def scores():
    """The mean score of the candidate, and of each setting of its controls, by cell."""
    candidate, controls = {}, {}
    for line in lines_of("mlp", "mlp_targets", "judged", "mlp_short", "judged_short", "mlp_stopped", "judged_stopped"):
        if line["method"] == "anchored":
            candidate[place(line)] = mean_score(line)
        # LSTSD with 3 epochs is no control.
        elif is_control(line) and not (
            line["method"] == "lstsd" and line["config"]["training"]["num_train_epochs"] < 30
        ):
            controls.setdefault(place(line), []).append(line)
    merged = {}
    for key, lines in controls.items():
        # Seeds of one setting may lie in two files.
        by_setting = {}
        for line in lines:
            by_setting.setdefault(line["config_hash"], []).append(line)
        merged[key] = {}
        for setting, same in by_setting.items():
            runs = {seed: run for line in same for seed, run in line["runs"].items()}
            # ELR has one setting.
            name = "elr" if same[0]["method"] == "elr" else setting
            merged[key][name] = mean_score({**same[0], "runs": runs})
    return candidate, merged


def test_the_cells_in_which_the_candidate_holds():
    candidate, merged = scores()
    held = sum(score >= max(merged[key].values()) - 0.5 for key, score in candidate.items())
    text = (ROOT / "docs" / "results.md").read_text()
    assert re.search(rf"candidate holds \(0.5 points\) in {held} of the {len(candidate)} cells", text)


def test_how_often_a_control_is_among_the_best():
    candidate, merged = scores()
    shown = []
    for is_wrong in (False, True):
        behind = [
            max(candidate[key], *merged[key].values()) - merged[key]["elr"]
            for key in candidate
            if bool(key[1]) == is_wrong
        ]
        close = sum(points <= 0.5 for points in behind)
        shown += [f"{close} of {len(behind)}", f"{np.mean(behind):.1f}"]
    assert f"| ELR | {' | '.join(shown)} |" in (ROOT / "docs" / "results.md").read_text()
