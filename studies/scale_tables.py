"""The tables of what makes training cheaper: does it change a score?"""

from collections.abc import Callable, Iterable
from typing import Any

from lstsd_hf.experiments.records import read_results
from lstsd_hf.experiments.report import shown_difference, shown_p_value, shown_spread
from lstsd_hf.experiments.statistics import holm, mean_and_std, paired_difference

from .analysis import TASKS, own_files_named, records_file
from .cells import planned
from .tables import NOT_RUN, missing, table

Runs = list[dict[str, Any]]
# By task and by what is compared: the score of each seed, in percent.
Scores = dict[tuple[str, str], dict[int, float]]


def storages_table() -> str:
    """S1: LSTSD by the precision of its tables, with 20 % of the labels replaced."""
    whole = [run for run in _runs("mlp") if _is_s1(run)]
    return _compared(_runs("storages") + whole, lambda config: config.get("memory_form", "fp32"), "fp32", "storages")


def speeds_table() -> str:
    """S2: vanilla in batches of like lengths and bf16."""
    name = {None: "random batches", True: "grouped, bf16"}
    return _compared(_runs("speeds"), lambda config: name[config["training"].get("bf16")], "random batches", "speeds")


def _is_s1(run: dict[str, Any]) -> bool:
    config = run["config"]
    method = config["method"]
    is_papers = [method.get(name) for name in ("lambda_short", "lambda_long", "mini_generation_epochs")] == [4, 2.4, 6]
    return method["name"] == "lstsd" and is_papers and config.get("label_noise") == 0.2 and "untuned" not in config


def _runs(records: str) -> Runs:
    path = records_file(f"{records}.jsonl")
    return [run for _, run in map(own_files_named, read_results([path]))] if path.exists() else []


def _compared(runs: Runs, way: Callable[[dict[str, Any]], str], baseline: str, records: str) -> str:
    """A line for each task and way, against that task's baseline, corrected for their number."""
    scores: Scores = {}
    for run in runs:
        value = 100 * run["last_epoch"][f"eval_{run['metrics'][0]}"]
        scores.setdefault((run["task"], way(run["config"])), {})[run["seed"]] = value
    pairs = [(task, name) for task, name in _in_order(scores) if name != baseline and (task, baseline) in scores]
    if not pairs:
        return NOT_RUN
    found = [paired_difference(scores[pair], scores[pair[0], baseline]) for pair in pairs]
    rows = []
    for (task, name), difference, p_value in zip(pairs, found, holm([item.p_value for item in found]), strict=True):
        # The same seeds on both sides.
        both = scores[task, name].keys() & scores[task, baseline].keys()
        spreads = [mean_and_std([scores[task, one][seed] for seed in sorted(both)]) for one in (baseline, name)]
        shown = [shown_spread(spread, 2) for spread in spreads]
        rows.append([TASKS[task], name, str(difference.count), *shown, shown_difference(difference, len(both))])
        rows[-1].append(shown_p_value(p_value))
    header = ["task", "", "n", baseline, "score", "difference [95 % CI]", "p (Holm)"]
    done, every = len(_runs(records)), sum(planned(records).values())
    return "\n\n".join([*([missing(done, every)] if done < every else []), table(header, rows)])


def _in_order(scores: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(scores, key=lambda pair: (list(TASKS).index(pair[0]), pair[1]))
