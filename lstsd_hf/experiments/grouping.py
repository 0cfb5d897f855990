"""Finished runs in comparable sections, and within these in groups that differ in the seed only."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..runner.results import headline, without_times
from .records import rounded

BASELINE = "vanilla"
# Options of the data in a run's config, where they are not the default.
_DATA_SETTINGS = ("max_seq_length", "data", "memory_form")
# They look on, or come after the training: the scores are the same.
_WITHOUT_INFLUENCE = ("record_dynamics", "cross_validate")
_NAMED_SETTINGS = ("max_train_samples", "trainable_layers", "label_noise", "label_noise_seed", "label_noise_kind")
_NAMED_SETTINGS += ("held_out_share", "dropout", "image_size", "crop_padding", "flip", "lr_milestones")


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed.

    Attributes:
        label: Method, and its options where several sets of them were run.
        results: Contents of `results.json` by seed.
        folders: The runs' folders by seed.
    """

    label: str
    results: Mapping[int, dict[str, Any]]
    folders: Mapping[int, Path]

    @property
    def first(self) -> dict[str, Any]:
        """One of the results, for what they have in common."""
        return next(iter(self.results.values()))

    def scores(self, name: str) -> dict[int, float]:
        """A number of the evaluation that a run is judged by, by seed; `name` is its key."""
        judged = {seed: headline(result) for seed, result in self.results.items()}
        return {seed: scores[name] for seed, scores in judged.items() if name in scores}


@dataclass(frozen=True)
class Section:
    """Groups that can be compared: the same task, model, data and training, different methods.

    Attributes:
        title: What they have in common.
        groups: The baseline first, if it was run.
        metric: The headline metric.
        is_generated: Whether the data are generated.
    """

    title: str
    groups: Sequence[Group]
    metric: str
    is_generated: bool

    @property
    def first_hash(self) -> str:
        """A digest that tells sections of the same title apart."""
        return self.groups[0].first["config_hash"]

    @property
    def baseline(self) -> Group | None:
        """The group of plain fine-tuning, if it was run; the one without a search, if there are several."""
        return next((group for group in self.groups if group.first["method"] == BASELINE), None)


def group_runs(found: Iterable[tuple[Path, dict[str, Any]]]) -> list[Section]:
    """Sorts runs into comparable sections and, within these, into groups that differ in the seed only.

    Raises:
        InputError: If runs that should differ in the seed only differ in something else.
    """
    by_setting: dict[str, dict[str, list[tuple[Path, dict[str, Any]]]]] = {}
    for folder, result in found:
        config = result["config"]
        setting = json.dumps(_setting(config), sort_keys=True)
        # A search is part of the method: its runs stand beside those that it started from.
        method = json.dumps(_method(config), sort_keys=True)
        by_setting.setdefault(setting, {}).setdefault(method, []).append((folder, result))
    sections = []
    settings = [json.loads(setting) for setting in by_setting]
    for setting, methods in zip(settings, by_setting.values(), strict=True):
        runs = list(methods.values())
        _check_same_data([member for members in runs for member in members])
        labels = _labels([_method(members[0][1]["config"]) for members in runs])
        groups = [_group(label, members) for label, members in zip(labels, runs, strict=True)]
        groups.sort(
            key=lambda group: (
                group.first["method"] != BASELINE,
                group.first["method"],
                "untuned" in group.first["config"],
                group.label,
            )
        )
        first = groups[0].first
        sections.append(
            Section(_title(setting, settings), groups, first["metrics"][0], bool(first["data"]["generated"]))
        )
    return sorted(sections, key=lambda section: section.title)


def _setting(config: dict[str, Any]) -> dict[str, Any]:
    """All but the method, as it was before a search, and what makes no difference."""
    setting = {name: value for name, value in config.items() if name not in ("method", "untuned", *_WITHOUT_INFLUENCE)}
    if "untuned" in config:
        untuned = {**config["untuned"]}
        setting["training"] = {**setting["training"], "learning_rate": untuned.pop("learning_rate")}
        for name, value in untuned.items():
            setting.pop(name, None)
            setting |= {name: value} if value is not None else {}
    return setting


def _method(config: dict[str, Any]) -> dict[str, Any]:
    """The method's options and, after a search, what else was searched."""
    if "untuned" not in config:
        return config["method"]
    searched = {name: config.get(name) for name in config["untuned"]}
    searched["learning_rate"] = config["training"]["learning_rate"]
    changed = {name: value for name, value in searched.items() if value != config["untuned"][name]}
    return {**config["method"], "searched": True, **changed}


def _check_same_data(members: list[tuple[Path, dict[str, Any]]]) -> None:
    (first_folder, first), *rest = members
    for folder, result in rest:
        # Only models in folders have a digest.
        for name in ("data", "versions", "metrics", "model_digest"):
            here, there = result.get(name), first.get(name)
            if here != there:
                raise InputError(
                    f"Runs that are averaged or compared must have the same `{name}`, but it is {there} in "
                    f"{first_folder} and {here} in {folder}. Move one of them elsewhere, or run it again."
                )


def _group(label: str, members: list[tuple[Path, dict[str, Any]]]) -> Group:
    seeds: dict[int, Path] = {}
    kept: dict[int, dict[str, Any]] = {}
    for folder, result in members:
        if result["seed"] in seeds:
            same = kept[result["seed"]]
            if result["config"] != same["config"] and _scores(result) == _scores(same):
                # Once looked at, and once not.
                continue
            hashes = " and ".join(dict.fromkeys([same["config_hash"], result["config_hash"]]))
            raise InputError(
                f"Runs that are averaged must differ in the seed, but {seeds[result['seed']]} and {folder} both hold a "
                f"run of this setting ({hashes}) with seed {result['seed']}. Move one of them elsewhere."
            )
        seeds[result["seed"]], kept[result["seed"]] = folder, result
    return Group(label, kept, seeds)


def _scores(result: dict[str, Any]) -> dict[str, float]:
    """What a run is judged by, to as many digits as records keep."""
    return rounded(without_times(headline(result)))


def _labels(methods: Sequence[dict[str, Any]]) -> list[str]:
    """A method's name, with the options in which the section's runs of that method differ."""
    labels = []
    for method in methods:
        same = [other for other in methods if other["name"] == method["name"]]
        varying = [name for name in method if any(other.get(name) != method[name] for other in same)]
        varying += ["searched"] if "searched" in method and "searched" not in varying else []
        details = ", ".join(f"{name}={method[name]}" for name in varying)
        labels.append(method["name"] + (f" ({details})" if details else ""))
    return labels


def _title(setting: dict[str, Any], settings: Sequence[dict[str, Any]]) -> str:
    training = setting["training"]
    paths = {other["model"].rstrip("/") for other in settings}
    name = setting["model"].rstrip("/").split("/")[-1]
    # Two folders may have the same last name.
    is_clear = sum(path.split("/")[-1] == name for path in paths) == 1
    parts = [setting["task"].upper(), name if is_clear else setting["model"].rstrip("/")]
    others = [other for other in settings if all(other[name] == setting[name] for name in ("task", "model"))]
    parts += [
        f"{name}={setting[name]}"
        for name in (*_NAMED_SETTINGS, *_DATA_SETTINGS)
        if setting.get(name) is not None
        and (name in _NAMED_SETTINGS or any(other.get(name) != setting[name] for other in others))
    ]
    length = training.get("max_steps", -1)
    parts.append(f"{length} steps" if length > 0 else f"{training['num_train_epochs']:g} epochs")
    # What else tells it from the other sections of the same task and model.
    twins = [
        other["training"]
        for other in others
        if all(other.get(name) == setting.get(name) for name in (*_NAMED_SETTINGS, *_DATA_SETTINGS))
    ]
    for name, value in training.items():
        if name != "num_train_epochs" and any(other.get(name) != value for other in twins):
            parts.append(f"{name}={value}")
    return " · ".join(parts) + (" · GENERATED DATA" if setting["data"] == "synthetic" else "")
