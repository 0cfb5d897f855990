"""The families of comparisons that PROTOCOL.md names, from the records beside it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lstsd_hf.experiments.grouping import Group, Section, group_runs
from lstsd_hf.experiments.records import read_results
from lstsd_hf.experiments.report import percent
from lstsd_hf.experiments.statistics import PairedDifference, holm, mean_and_std, paired_difference

FOLDER = Path(__file__).resolve().parent / "records"

TASKS = {"sst2": "SST-2 (5,000 rows)", "mrpc": "MRPC", "cola": "CoLA", "rte": "RTE", "trec": "TREC-6"}
TASKS |= {"fashion_mnist": "Fashion-MNIST (10,000 pictures)"}
NAMES = {
    "vanilla": "vanilla",
    "vanilla-short": "vanilla, 3 epochs",
    "vanilla-short-10": "vanilla, 10 epochs",
    "vanilla-stopped": "vanilla, stopped early",
    "vanilla-tuned": "vanilla, tuned",
    "lstsd": "LSTSD",
    "lstsd-defaults": "LSTSD, its defaults",
    "lstsd-tuned": "LSTSD, tuned",
    "lstsd_no_long": "LSTSD without long-term teacher",
    "lstsd_no_short": "LSTSD without short-term teacher",
    "lstsd_single": "LSTSD, one snapshot",
    "temporal_ensemble-6.4": "temporal ensembling, weight 6.4",
    "temporal_ensemble-2": "temporal ensembling, weight 2",
    "temporal_ensemble": "temporal ensembling",
    "mean_teacher": "Mean Teacher",
    "snapshot_ensemble": "Snapshot Ensembles",
    "snapshot_distillation": "Snapshot Distillation",
    "dlb": "DLB",
    "ps_kd": "PS-KD",
    "anchored": "anchored (ours)",
    "elr": "ELR",
    "sat": "SAT",
    "kd": "KD",
    "dlb-overlap": "DLB, overlapping batches",
    "self_regulated": "self-regulated teacher",
    "self_regulated-hybrid": "its hybrid student",
    "regulated_lstsd": "LSTSD with a gate (ours)",
    "tskd": "TSKD",
    "tskd-free": "TSKD without a teacher (ours)",
    "label_smoothing": "label smoothing",
}
# The task of runs on `--train_file`.
OWN_FILES = "custom"
# Largest class and size of the validation splits; Matthews correlation is 0 for a constant answer.
MAJORITY = {"sst2": (444, 872), "mrpc": (279, 408), "rte": (146, 277), "fashion_mnist": (1000, 10000)}
# The protocol's E in each file, and the seeds and cells of its families of comparisons.
LENGTHS = dict.fromkeys(("mlp", "mlp_tuned", "cnn", "cnn_tuned", "cnn_fitting", "single_seed_mrpc_cnn"), 6)
LENGTHS |= dict.fromkeys(("mlp_targets", "mlp_kd", "mlp_gated", "mlp_stopped", "judged_prototype"), 6)
LENGTHS |= dict.fromkeys(("top_layer", "full", "single_seed_glue", "single_seed_mrpc_minilm"), 2)
LENGTHS |= dict.fromkeys(
    ("mlp_short", "timing_mrpc_minilm", "gpu_short", "gpu_tuned", "l3_short", "kd_cnn", "kd_minilm"), 1
)
LENGTHS |= dict.fromkeys(("l3", "l3_gated", "images", "images_noise", "images_noise_short"), 2)
LENGTHS |= dict.fromkeys(("judged_l3", "judged_l3_short", "judged_l3_stopped"), 2)
LENGTHS |= {"gpu": 6, "images_epochs": 3}
# Of `LSTSDConfig()`, whose E is the file's.
DEFAULTS = {"lambda_short": 1.0, "lambda_long": 1.0, "teacher_floor": 1e-4}
SEEDS, CELLS = 10, 9
SIGNIFICANCE, PRACTICAL = 0.05, 1.0


def records_file(name: str) -> Path:
    """A file of records."""
    return FOLDER / name


# ---- Runs ----


def own_files_named(found: tuple[Path, dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """A run with its place, where own files are TREC's."""
    path, result = found
    if result["task"] == OWN_FILES:
        result = {**result, "task": "trec", "config": {**result["config"], "task": "trec"}}
    return path, result


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
        ValueError: If two cells, or two methods of one, could not be told apart, or the data were generated.
    """
    path = records_file(f"{file}.jsonl")
    runs = map(own_files_named, read_results([path])) if path.exists() else []
    found = [cell_of(section, LENGTHS[file]) for section in group_runs(runs)]
    if len({cell.name for cell in found}) < len(found):
        raise ValueError(f"{path} must hold one setting of each task and noise rate.")
    order = list(TASKS)
    return sorted(found, key=lambda cell: (order.index(cell.task), cell.rate))


def cell_of(section: Section, length: int) -> Cell:
    """The cell of a section; `length` is the protocol's E there."""
    if section.is_generated:
        raise ValueError(f"{section.title}: generated data must not stand in a table of results.")
    config = section.groups[0].first["config"]
    rate = config.get("label_noise", 0.0)
    noise = "asymmetric noise" if config.get("label_noise_kind") == "asymmetric" else "noise"
    name = TASKS[config["task"]] + (f", {100 * rate:.0f} % {noise}" if rate else "")
    groups = {kind(group, length): group for group in section.groups}
    if len(groups) < len(section.groups):
        raise ValueError(f"{section.title}: two methods have the same name among {list(groups)}.")
    return Cell(name, config["task"], rate, section.metric, groups)


def mlp_cells() -> list[Cell]:
    """A1's cells, each with its controls of fewer epochs: three, or as many as rows kept out say."""
    found = cells("mlp")
    for name, file in (("vanilla-short", "mlp_short"), ("vanilla-stopped", "mlp_stopped")):
        found = with_control(found, name, {cell.name: cell.groups["vanilla"] for cell in cells(file)})
    return found


def l3_cells() -> list[Cell]:
    """L3's cells, each with its control of fewer epochs."""
    return with_control(cells("l3"), "vanilla-short", {cell.name: cell.groups["vanilla"] for cell in cells("l3_short")})


def cnn_cells(file: str) -> list[Cell]:
    """A2's cells at one of its settings, each with what the search for both found."""
    name = "vanilla-tuned"
    return with_control(cells(file), name, {cell.name: cell.groups[name] for cell in cells("cnn_tuned")})


def with_control(among: list[Cell], name: str, groups: Mapping[str, Group]) -> list[Cell]:
    """The cells, each with a control that has records of its own; `groups` are by name of the cell."""
    return [
        replace(cell, groups={**cell.groups, name: groups[cell.name]}) if cell.name in groups else cell
        for cell in among
    ]


def kind(group: Group, length: int) -> str:
    """The key of a group in `NAMES`; other E than the protocol's belong to the paper's Figure 2."""
    config = group.first["config"]
    method, name = config["method"], config["method"]["name"]
    if "untuned" in config:
        return f"{name}-tuned"
    if name == "lstsd" and all(method[option] == value for option, value in DEFAULTS.items()):
        return f"{name}-defaults"
    if name == "temporal_ensemble" and method["consistency_weight"] != 1.0:
        return f"{name}-{method['consistency_weight']:g}"
    if name == "dlb" and method.get("form") == "overlap":
        return "dlb-overlap"
    if name == "self_regulated" and method["distillation"] != "none":
        return f"{name}-{method['distillation']}"
    if name == "tskd" and method["teacher_free"]:
        return "tskd-free"
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
    def is_shown(self) -> bool:
        """Whether there is a difference by the protocol's standard."""
        return self.p_value < SIGNIFICANCE

    @property
    def is_below_majority(self) -> bool:
        """Whether a constant answer scores higher than the first method."""
        return self.first[0] < majority(self.cell.task)

    @property
    def verdict(self) -> str:
        """What the protocol calls it."""
        if not self.is_shown:
            return "no difference shown"
        parts = ["gain" if self.difference.mean > 0 else "loss"]
        parts += ["small"] if abs(self.difference.mean) < PRACTICAL else []
        return ", ".join(parts + (["below majority"] if self.is_below_majority else []))


def majority(task: str) -> float:
    """The score of always answering with the largest class, in percent."""
    count, size = MAJORITY.get(task, (0, 1))
    return 100 * count / size


def compare(
    among: Iterable[Cell],
    first: str,
    second: str,
    values: Values = score,
    second_values: Values | None = None,
    count: int = CELLS,
    seeds: int = SEEDS,
) -> list[Comparison]:
    """A family of comparisons: one method minus another in each of `count` cells, corrected for their number.

    There are none until every cell has been run with all seeds: a smaller family would have smaller p-values.
    """
    used = [
        cell
        for cell in among
        if all(name in cell.groups and len(cell.groups[name].results) >= seeds for name in (first, second))
    ]
    if len(used) < count:
        return []
    pairs = [(values(cell, cell.groups[first]), (second_values or values)(cell, cell.groups[second])) for cell in used]
    differences = [paired_difference(*pair) for pair in pairs]
    adjusted = holm([item.p_value for item in differences])
    return [
        Comparison(cell, mean_and_std([*a.values()]), mean_and_std([*b.values()]), difference, p_value)
        for cell, (a, b), difference, p_value in zip(used, pairs, differences, adjusted, strict=True)
    ]


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
VANILLA: Default = (0.0, 0.0, "–")


def default_scores(results: list[tuple[Path, dict]]) -> dict[Default, dict[tuple, float]]:
    """Held-out scores of vanilla and of each candidate (λS, λL, rule for E) by cell, averaged over seeds."""
    scores: dict[Default, dict[tuple, float]] = {}
    for section in group_runs(results):
        for group in section.groups:
            config = group.first["config"]
            method, epochs = config["method"], config["training"]["num_train_epochs"]
            candidates = [VANILLA]
            if method["name"] == "lstsd":
                rules = [
                    rule for rule, length in LENGTH_RULES.items() if method["mini_generation_epochs"] == length(epochs)
                ]
                candidates = [(method["lambda_short"], method["lambda_long"], rule) for rule in rules]
            cell = epochs, config["task"], config.get("label_noise", 0.0)
            mean, _ = mean_and_std([*percent(group.scores(f"eval_{section.metric}")).values()])
            for candidate in candidates:
                scores.setdefault(candidate, {})[cell] = mean
    return scores
