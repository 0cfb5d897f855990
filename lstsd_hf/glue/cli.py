"""The command for texts."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import DatasetDict

from ..errors import InputError
from ..methods import TeacherConfig
from ..runner.cli import Command
from ..runner.cli import describe as describe
from ..runner.options import ALL, Domain, Parsed, check_unique
from ..runner.run import Run
from .data import load_task
from .models import CNN
from .options import DEMO_METHOD_SETTINGS, DEMO_SETTINGS, DESCRIPTION, TextArguments
from .own_files import load_files
from .run import PAPER_CNN_SETTINGS, GlueRun, paper_settings
from .tasks import TASKS, GlueTask, get_task


class TextDomain(Domain):
    """GLUE's tasks, and texts of one's own."""

    description = DESCRIPTION
    arguments = TextArguments
    demo_method_settings = DEMO_METHOD_SETTINGS

    def training_defaults(self, model_name: str | None, is_demo: bool) -> Mapping[str, Any]:
        defaults = {**paper_settings(model_name), "train_sampling_strategy": "group_by_length"}
        if is_demo:
            defaults |= DEMO_SETTINGS
            if model_name == CNN:
                defaults["learning_rate"] = PAPER_CNN_SETTINGS["learning_rate"]
        return defaults

    def has_lengths(self, run: TextArguments, teachers: Sequence[TeacherConfig]) -> bool:
        # Hidden states have none, and a method that chooses its batches does not look at them.
        return run.trainable_layers is None and not any(config.build().chooses_batches for config in teachers)

    def paper_teacher(self, config_class: type[TeacherConfig]) -> TeacherConfig:
        return config_class.paper()

    def load(self, parsed: Parsed) -> Sequence[GlueRun]:
        return [
            GlueRun(task, splits, source, **parsed.of_every_run)
            for task, splits, source in load(parsed.run, predicts=parsed.args.do_predict)
        ]

    def notice(self, runs: Sequence[Run]) -> str | None:
        if all(run.data_source != "synthetic" for run in runs):
            return None
        return "GENERATED DATA: sentences from a template grammar, not GLUE. The scores say nothing about GLUE."

    def table_prefix(self, result: Mapping[str, Any]) -> str:
        return "Generated data, not GLUE: " if result["data"]["generated"] else ""


def load(run: TextArguments, *, predicts: bool) -> list[tuple[GlueTask, DatasetDict, str]]:
    """The tasks, their splits, and what kind of source they came from.

    Args:
        run: The options.
        predicts: Whether a test split is to be predicted.

    Raises:
        InputError: If the options do not name data, or a split that is asked for is missing.
    """
    if run.train_file or run.validation_file:
        if run.task or not (run.train_file and run.validation_file):
            raise InputError("`train_file` and `validation_file` go together and without `task`.")
        task, splits = load_files(run.train_file, run.validation_file, run.test_file, run.text_columns)
        loaded = [(task, splits, f"{run.train_file}, {run.validation_file}")]
    else:
        if run.task is None:
            raise InputError("`task` is missing. Give --task, or --train_file and --validation_file.")
        names = list(TASKS) if run.task == [ALL] else run.task
        check_unique("task", names)
        tasks = [get_task(name) for name in names]
        data = run.data or os.environ.get("GLUE_DIR") or "hub"
        # The same files in another place are the same data.
        source = data if data in ("hub", "synthetic") else "tsv"
        loaded = [(task, load_task(task, data), source) for task in tasks]
    if run.test_file and not predicts:
        raise InputError("`test_file` is for predictions: give --do_predict too.")
    for task, splits, _ in loaded:
        if predicts and "test" not in splits:
            raise InputError(
                f"`do_predict` needs a test split of {task.name}, found {sorted(splits)}. Add one, or leave it out."
            )
    return loaded


COMMAND = Command(TextDomain())
parse, plan, main, run = COMMAND.parse, COMMAND.plan, COMMAND.main, COMMAND.run
