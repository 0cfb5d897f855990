"""Searching a method's options, on a held-out slice of the training split and with the same budget for every method."""

import copy
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from datasets import DatasetDict
from sqlalchemy.exc import SQLAlchemyError

from ..errors import InputError
from ..runner.noise import NOISE_KINDS
from ..runner.preparation import with_noise
from ..runner.results import headline, write_json
from ..runner.run import Run, check_can_be_searched, check_plan
from ..runner.training import execute

HELD_OUT_SHARE = 0.15
SPLIT_SEED = 0
# For methods without options of their own: what a practitioner would tune instead, beside `option_search_space`.
TRAINING_SEARCH_SPACE: Mapping[str, tuple] = {"learning_rate_factor": (0.25, 0.5, 1.0, 2.0, 4.0)}


def hold_out(run: Run) -> Run:
    """The run with a part of its training split, labels as noisy as those, instead of the validation split.

    Raises:
        InputError: If the training split has fewer than 2 rows.
    """
    train, _ = with_noise(run.splits["train"], run.task, run.options)
    if len(train) < 2:
        raise InputError(f"`sweep` holds out a part of the training split, which must have 2 rows, got {len(train)}.")
    parts = train.train_test_split(test_size=HELD_OUT_SHARE, seed=SPLIT_SEED)
    return dataclasses.replace(
        run,
        splits=DatasetDict(train=parts["train"], validation=parts["test"]),
        options=dataclasses.replace(
            run.options, max_train_samples=None, label_noise=0.0, label_noise_kind=NOISE_KINDS[0]
        ),
    )


def search(run: Run, trials: int, storage: str, root: Path, cache: Path) -> dict[str, Any]:
    """Searches the options of a run's method and returns the best ones, for `with_options`.

    The first trial has the run's own options. The score is the headline metric of the last epoch on 15 % of the
    training split, which the trials do not train on; the validation split is never looked at. A setting that is
    drawn again counts as a trial, with the score that it had, but is not run again. Several machines can share a
    study through its storage; the `trials` trials that were completed first count. What was found is kept.

    Args:
        run: The run.
        trials: Completed trials of the study.
        storage: URL of an Optuna storage.
        root: Folder for the trials' files and the result `<study>.json`.
        cache: Folder for tokens and hidden states.

    Raises:
        InputError: If `trials` is not positive, or several processes train together.
    """
    if trials < 1:
        raise InputError(f"`sweep` must be a number of trials of at least 1, got {trials}.")
    if run.args.world_size > 1:
        raise InputError(
            f"`sweep` must run on one process, got {run.args.world_size}. Start it without torchrun; several "
            "such processes can share `sweep_storage`."
        )
    check_can_be_searched(run)
    # What judges labels does not change the score.
    run = dataclasses.replace(run, cross_validate=0, record_dynamics=False)
    name = _study_name(run)
    path = root / f"{name}-{trials}.json"
    if path.exists():
        return json.loads(path.read_text())["best"]["params"]
    inner = hold_out(run)
    space = _search_space(inner)
    if storage.startswith("sqlite:///"):
        Path(storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    # No such address, no driver for it, or nobody there.
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"`sweep_storage` must be a database that optuna can open, such as sqlite:///studies.sqlite3, got "
            f"{storage!r}: {reason}"
        ) from error
    # Continued by another process, a study must not draw the same trials again.
    seed = run.args.seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(5, trials // 2))
    start = {key: _current(run, key) for key in space}
    if all(trial.params != start for trial in _completed(study)):
        study.enqueue_trial(start)
    objective = _objective(inner, space, root / name, cache)
    failures: list[str] = []
    while len(_completed(study)) < trials:
        study.optimize(lambda trial: objective(trial, failures), n_trials=1)
        if len(failures) > trials:
            raise InputError(f"{len(failures)} trials of {name} failed, the last one: {failures[-1]}")
    counted = _completed(study)[:trials]
    best = max(counted, key=lambda trial: trial.value)
    root.mkdir(parents=True, exist_ok=True)
    write_json(
        {
            "study": name,
            "method": run.teacher.name,
            "task": run.task.name,
            "config": run.config,
            "budget": trials,
            "held_out_share": HELD_OUT_SHARE,
            "search_space": {key: list(values) for key, values in space.items()},
            "best": {"params": best.params, "score": best.value},
            "trials": [{"params": trial.params, "score": trial.value} for trial in counted],
        },
        path,
    )
    return best.params


def with_options(run: Run, params: Mapping[str, Any]) -> Run:
    """The run with some options of its method or data, or its learning rate (by a factor), replaced."""
    params = dict(params)
    untuned = {name: getattr(run.options, name) for name in run.option_search_space}
    found = {name: params.pop(name, value) for name, value in untuned.items()}
    args = copy.copy(run.args)
    args.learning_rate *= params.pop("learning_rate_factor", 1.0)
    options = dataclasses.replace(run.options, **found)
    teacher = dataclasses.replace(run.teacher, **params)
    untuned = {"learning_rate": run.args.learning_rate, **untuned}
    return dataclasses.replace(run, args=args, options=options, teacher=teacher, untuned=untuned)


def _objective(
    inner: Run, space: Mapping[str, list], folder: Path, cache: Path
) -> Callable[[optuna.Trial, list[str]], float]:
    def objective(trial: optuna.Trial, failures: list[str]) -> float:
        params = {name: trial.suggest_categorical(name, values) for name, values in space.items()}
        for done in _completed(trial.study):
            if done.params == params:
                return done.value  # the same run would end with the same score
        run = with_options(inner, params)
        run.args.save_strategy = "no"
        run.args.eval_strategy = "no"
        run.args.load_best_model_at_end = False
        place = folder / f"trial-{trial.number}"
        try:
            results = execute(run, place, resume=False, overwrite=True, cache=cache)
        except InputError as error:
            # Some settings diverge; the search goes on without them.
            failures.append(str(error))
            raise optuna.TrialPruned from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return headline(results)[f"eval_{run.task.headline_metric}"]

    return objective


def _search_space(run: Run) -> dict[str, list]:
    """The method's search space with the run's own options, without values that do not fit the run's length."""
    space: dict[str, list] = {}
    for name, values in (run.teacher.search_space or {**TRAINING_SEARCH_SPACE, **run.option_search_space}).items():
        candidates = dict.fromkeys([_current(run, name), *values])
        space[name] = [value for value in candidates if _fits(with_options(run, {name: value}))]
    return space


def _fits(run: Run) -> bool:
    try:
        check_plan(run)
    except InputError:
        return False
    return True


def _current(run: Run, name: str) -> Any:
    if name == "learning_rate_factor":
        return 1.0
    return getattr(run.options if name in run.option_search_space else run.teacher, name)


def _completed(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The completed trials, the first completed first."""
    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: trial.datetime_complete)


def _study_name(run: Run) -> str:
    # The data count too: a study of other rows under the same name is another one.
    digest = hashlib.sha256(json.dumps(run.state, sort_keys=True).encode()).hexdigest()[:10]
    return f"{run.task.name}-{run.model_name_or_path.rstrip('/').split('/')[-1]}-{run.teacher.name}-{digest}"
