"""The families of comparisons that PROTOCOL.md names, from the records beside it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lstsd_hf.experiments.records import read_results
from lstsd_hf.experiments.report import Group, Section, group_runs, percent
from lstsd_hf.experiments.statistics import PairedDifference, holm, mean_and_std, paired_difference

FOLDER = Path(__file__).resolve().parent

TASKS = {"sst2": "SST-2 (5,000 rows)", "mrpc": "MRPC", "cola": "CoLA", "rte": "RTE"}
NAMES = {
    "vanilla": "vanilla",
    "vanilla-tuned": "vanilla, tuned",
    "lstsd": "LSTSD",
    "lstsd-tuned": "LSTSD, tuned",
    "lstsd_no_long": "LSTSD without long-term teacher",
    "lstsd_no_short": "LSTSD without short-term teacher",
    "lstsd_single": "LSTSD, one snapshot",
    "temporal_ensemble-6.4": "temporal ensembling, weight 6.4",
    "temporal_ensemble": "temporal ensembling",
    "mean_teacher": "Mean Teacher",
    "snapshot_ensemble": "Snapshot Ensembles",
    "snapshot_distillation": "Snapshot Distillation",
    "dlb": "DLB",
    "label_smoothing": "label smoothing",
}
# Largest class and size of the validation splits; Matthews correlation is 0 for a constant answer.
MAJORITY = {"sst2": (444, 872), "mrpc": (279, 408), "rte": (146, 277)}
# The protocol's E in each file, and seeds in its families of comparisons.
LENGTHS = {"mlp": 6, "mlp_tuned": 6, "cnn": 6, "cnn_fitting": 6, "top_layer": 2, "full": 2}
LENGTHS |= {"single_seed_glue": 2, "single_seed_mrpc_minilm": 2, "single_seed_mrpc_cnn": 6, "timing_mrpc_minilm": 1}
SEEDS = 10
SIGNIFICANCE, PRACTICAL = 0.05, 1.0


# ---- Runs ----


@dataclass(frozen=True)
class Cell:
    """The runs of a task under one setting, by kind of method.

    Attributes:
        name: Task and, where there is any, noise.
        task: The task.
        rate: Share of replaced labels.
        metric: The headline metric.
        groups: By key of `NAMES`; `lstsd-E3` is LSTSD with E = 3.
    """

    name: str
    task: str
    rate: float
    metric: str
    groups: Mapping[str, Group]


def cells(file: str) -> list[Cell]:
    """The cells of a file of records; none if there is no such file yet.

    Raises:
        ValueError: If two cells, or two methods of one, could not be told apart.
    """
    path = FOLDER / f"{file}.jsonl"
    found = [cell_of(section, LENGTHS[file]) for section in group_runs(read_results([path]))] if path.exists() else []
    if len({cell.name for cell in found}) < len(found):
        raise ValueError(f"{path} must hold one setting of each task and noise rate.")
    order = list(TASKS)
    return sorted(found, key=lambda cell: (order.index(cell.task), cell.rate))


def cell_of(section: Section, length: int) -> Cell:
    """The cell of a section; `length` is the protocol's E there."""
    config = section.groups[0].first["config"]
    rate = config.get("label_noise", 0.0)
    name = TASKS[config["task"]] + (f", {100 * rate:.0f} % noise" if rate else "")
    groups = {kind(group, length): group for group in section.groups}
    if len(groups) < len(section.groups):
        raise ValueError(f"{section.title}: two methods have the same name among {list(groups)}.")
    return Cell(name, config["task"], rate, section.metric, groups)


def kind(group: Group, length: int) -> str:
    """The key of a group in `NAMES`; other E than the protocol's belong to the paper's Figure 2."""
    config = group.first["config"]
    method, name = config["method"], config["method"]["name"]
    if "untuned" in config:
        return f"{name}-tuned"
    if name == "temporal_ensemble" and method["consistency_weight"] != 1.0:
        return f"{name}-{method['consistency_weight']:g}"
    is_planned = name != "lstsd" or method["mini_generation_epochs"] == length
    return name if is_planned else f"lstsd-E{method['mini_generation_epochs']}"


def by_length(cell: Cell) -> dict[int, Group]:
    """LSTSD's groups by E."""
    groups = [group for name, group in cell.groups.items() if name == "lstsd" or name.startswith("lstsd-E")]
    by = {group.first["config"]["method"]["mini_generation_epochs"]: group for group in groups}
    return dict(sorted(by.items()))


def shared_seeds(groups: dict[int, Group]) -> list[int]:
    """The seeds that all groups have."""
    return sorted(set.intersection(*[set(group.results) for group in groups.values()]))


# ---- Comparisons ----

Values = Callable[[Cell, Group], dict[int, float]]


def score(cell: Cell, group: Group) -> dict[int, float]:
    """The headline metric by seed, in percent."""
    return percent(group.scores(f"eval_{cell.metric}"))


def nll(cell: Cell, group: Group) -> dict[int, float]:
    """Negative log-likelihood by seed, in nats."""
    return group.scores("eval_nll")


def ranking(source: str, number: str = "roc_auc") -> Values:
    """How well replaced labels were found by "model" or "memory", in percent."""

    def values(cell: Cell, group: Group) -> dict[int, float]:
        return {seed: 100 * result["label_errors"][source][number] for seed, result in group.results.items()}

    return values


@dataclass(frozen=True)
class Comparison:
    """Two methods in a cell: spreads of both, their paired difference, and its adjusted p-value."""

    cell: Cell
    first: tuple[float, float]
    second: tuple[float, float]
    difference: PairedDifference
    p_value: float

    @property
    def verdict(self) -> str:
        """What the protocol calls it."""
        if not self.p_value < SIGNIFICANCE:
            return "no difference shown"
        size = "" if abs(self.difference.mean) >= PRACTICAL else ", small"
        return ("gain" if self.difference.mean > 0 else "loss") + size


def compare(
    among: Iterable[Cell], first: str, second: str, values: Values = score, second_values: Values | None = None
) -> list[Comparison]:
    """A family of comparisons: one method minus another in each cell, corrected for their number.

    Cells in which one of them has not been run with all seeds yet are left out.
    """
    used = [
        cell
        for cell in among
        if all(name in cell.groups and len(cell.groups[name].results) >= SEEDS for name in (first, second))
    ]
    pairs = [(values(cell, cell.groups[first]), (second_values or values)(cell, cell.groups[second])) for cell in used]
    differences = [paired_difference(*pair) for pair in pairs]
    adjusted = adjust(differences)
    return [
        Comparison(cell, mean_and_std([*a.values()]), mean_and_std([*b.values()]), difference, p_value)
        for cell, (a, b), difference, p_value in zip(used, pairs, differences, adjusted, strict=True)
    ]


def adjust(differences: Iterable[PairedDifference]) -> list[float]:
    """P-values adjusted for their number (Holm); equal differences, which cannot be tested, count as 1."""
    return holm([1.0 if math.isnan(item.p_value) else item.p_value for item in differences])


# ---- Defaults ----

# E by the number of epochs.
LENGTH_RULES: dict[str, Callable[[float], int]] = {
    "1": lambda epochs: 1,
    "2": lambda epochs: 2,
    "a sixth of the epochs, up to 3": lambda epochs: min(3, round(epochs / 6)),
    "a third of the epochs, up to 6": lambda epochs: min(6, round(epochs / 3)),
}
Default = tuple[float, float, str]
PRESENT_DEFAULT: Default = (1.0, 1.0, "a third of the epochs, up to 6")


def default_scores() -> dict[Default, dict[tuple, float]]:
    """Held-out scores of each candidate (λS, λL, rule for E), by cell and seed; complete candidates only."""
    path, scores = FOLDER / "defaults.jsonl", {}
    for section in group_runs(read_results([path])) if path.exists() else []:
        for group in section.groups:
            config = group.first["config"]
            method, epochs = config["method"], config["training"]["num_train_epochs"]
            if method["name"] != "lstsd":
                continue
            for rule, length in LENGTH_RULES.items():
                if method["mini_generation_epochs"] == length(epochs):
                    found = scores.setdefault((method["lambda_short"], method["lambda_long"], rule), {})
                    cell = epochs, config["task"], config.get("label_noise", 0.0)
                    values = percent(group.scores(f"eval_{section.metric}"))
                    found |= {(*cell, seed): value for seed, value in values.items()}
    complete = max(map(len, scores.values()), default=0)
    return {candidate: found for candidate, found in scores.items() if len(found) == complete}
