"""Methods by name. A module here that has a `TeacherConfig` with a name is a method; nothing else lists it."""

import importlib
import pkgutil

from ..errors import InputError
from .base import Teacher
from .config import TeacherConfig
from .lstsd import LSTSDConfig


def _public_classes() -> dict[str, type]:
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def _methods(classes: list[type]) -> dict[str, type[TeacherConfig]]:
    found: dict[str, type[TeacherConfig]] = {}
    for config in classes:
        if issubclass(config, TeacherConfig) and "name" in vars(config):
            if config.name in found:
                raise TypeError(
                    f"`name` of {config.__name__} must be its own, got {config.name!r}, which "
                    f"{found[config.name].__name__} has."
                )
            found[config.name] = config
    # The paper's own first, with what they are compared to.
    return dict(
        sorted(found.items(), key=lambda item: (item[0] != "vanilla", not item[0].startswith("lstsd"), item[0]))
    )


_CLASSES = _public_classes()
globals().update(_CLASSES)

METHODS: dict[str, type[TeacherConfig]] = _methods([*_CLASSES.values()])
"""The config of each method."""


def build_teacher(teacher: Teacher | TeacherConfig | str | None) -> Teacher:
    """The teacher object behind what a trainer was given.

    Args:
        teacher: A `Teacher`, a `TeacherConfig`, the name of a method, or `None` for `LSTSDConfig()`.

    Raises:
        InputError: If no method has that name.
        TypeError: If it is anything else.

    Examples:
        >>> build_teacher("mean_teacher").config.ema_decay
        0.999
    """
    if teacher is None:
        teacher = LSTSDConfig()
    if isinstance(teacher, str):
        if teacher not in METHODS:
            raise InputError(f"`teacher` must be one of {', '.join(METHODS)}, got {teacher!r}.")
        teacher = METHODS[teacher]()
    if isinstance(teacher, TeacherConfig):
        return teacher.build()
    if isinstance(teacher, Teacher):
        return teacher
    hint = ""
    if isinstance(teacher, type) and issubclass(teacher, Teacher | TeacherConfig):
        hint = f" Pass an object: `teacher={teacher.__name__}()`."
    raise TypeError(
        "`teacher` must be a TeacherConfig such as `LSTSDConfig()`, the name of a method, a `Teacher`, or None, "
        f"got {teacher!r} of type {type(teacher).__name__}.{hint}"
    )


__all__ = [*_CLASSES, "METHODS", "build_teacher"]
