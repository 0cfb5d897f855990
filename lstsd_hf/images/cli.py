"""The command for pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..methods import TeacherConfig
from ..runner.cli import Command
from ..runner.options import ALL, Domain, Parsed, check_unique
from .data import LoadedImages, load_task
from .folders import load_folders
from .options import DEMO_METHOD_SETTINGS, DEMO_SETTINGS, DESCRIPTION, ImageArguments
from .run import PAPER_MILESTONES, ImageRun, paper_settings
from .tasks import SOURCES

DEFAULT_SIZE = 32


class ImageDomain(Domain):
    """Data sets of pictures, and folders of one's own."""

    description = DESCRIPTION
    arguments = ImageArguments
    demo_method_settings = DEMO_METHOD_SETTINGS

    def training_defaults(self, model_name: str | None, is_demo: bool) -> Mapping[str, Any]:
        return {**paper_settings(model_name), **(DEMO_SETTINGS if is_demo else {})}

    def paper_teacher(self, config_class: type[TeacherConfig]) -> TeacherConfig:
        return config_class.paper_for_images()

    def load(self, parsed: Parsed) -> Sequence[ImageRun]:
        run = parsed.run
        if parsed.args.do_predict:
            raise InputError("`do_predict` is for texts, got True: pictures have no test split beside the one scored.")
        args = parsed.args
        if args.train_sampling_strategy == "group_by_length":
            raise InputError("`train_sampling_strategy` must be random, got group_by_length: pictures have no lengths.")
        if args.lr_scheduler_type != "constant" and tuple(run.lr_milestones) != PAPER_MILESTONES:
            raise InputError(
                "`lr_milestones` divide a constant learning rate and must not be given with `lr_scheduler_type` "
                f"{args.lr_scheduler_type.value}. Leave one of them out."
            )
        with args.main_process_first(desc="pictures"):
            everything = load(run)
        return [
            ImageRun(loaded.task, loaded.splits, loaded.source, pixels=loaded.pixels, **parsed.of_every_run)
            for loaded in everything
        ]


def load(run: ImageArguments) -> list[LoadedImages]:
    """The tasks with their pictures.

    Raises:
        InputError: If the options do not name data, or they cannot be had.
    """
    if run.train_dir or run.validation_dir:
        if run.task or not (run.train_dir and run.validation_dir):
            raise InputError("`train_dir` and `validation_dir` go together and without `task`.")
        return [load_folders(run.train_dir, run.validation_dir, run.image_size or DEFAULT_SIZE, Path(run.cache_dir))]
    if run.task is None:
        raise InputError("`task` is missing. Give --task, or --train_dir and --validation_dir.")
    names = list(SOURCES) if run.task == [ALL] else run.task
    check_unique("task", names)
    if run.data is not None and names == ["digits"]:
        raise InputError(f"`data` must not be given with task digits, which scikit-learn has, got {run.data!r}.")
    if run.data is not None and len(names) > 1:
        raise InputError(f"`data` is the place of one task, got {len(names)} tasks. Give one, or leave it out.")
    return [load_task(name, run.data) for name in names]


COMMAND = Command(ImageDomain())
parse, plan, main, run = COMMAND.parse, COMMAND.plan, COMMAND.main, COMMAND.run
