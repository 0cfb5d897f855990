"""Methods by name: the only map from a name to its config."""

from .base import DistillationTerm, Teacher, TeacherBatch, TeacherConfig
from .lstsd import LSTSD, LSTSDConfig
from .vanilla import NoTeacher, NoTeacherConfig

TEACHERS: dict[str, type[TeacherConfig]] = {config.name: config for config in (NoTeacherConfig, LSTSDConfig)}


def build_teacher(teacher: Teacher | TeacherConfig | None) -> Teacher:
    """The teacher object behind what a trainer was given.

    Args:
        teacher: A `Teacher`, a `TeacherConfig`, or `None` for `LSTSDConfig()`.

    Raises:
        TypeError: If it is anything else.
    """
    if teacher is None:
        teacher = LSTSDConfig()
    if isinstance(teacher, TeacherConfig):
        return teacher.build()
    if isinstance(teacher, Teacher):
        return teacher
    raise TypeError(
        "`teacher` must be a TeacherConfig such as `LSTSDConfig()`, a `Teacher`, or None, "
        f"got {teacher!r} of type {type(teacher).__name__}."
    )


__all__ = [
    "LSTSD",
    "TEACHERS",
    "DistillationTerm",
    "LSTSDConfig",
    "NoTeacher",
    "NoTeacherConfig",
    "Teacher",
    "TeacherBatch",
    "TeacherConfig",
    "build_teacher",
]
