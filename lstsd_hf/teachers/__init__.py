"""Methods by name: the only map from a name to its config."""

from ..errors import InputError
from .base import DistillationTerm, Teacher, TeacherBatch, TeacherConfig
from .dlb import DLB, DLBConfig
from .label_smoothing import LabelSmoothing, LabelSmoothingConfig
from .lstsd import LSTSD, LSTSDConfig
from .lstsd_no_long import LSTSDNoLongConfig
from .lstsd_no_short import LSTSDNoShortConfig
from .lstsd_single import LSTSDSingle, LSTSDSingleConfig
from .mean_teacher import MeanTeacher, MeanTeacherConfig
from .snapshot_distillation import SnapshotDistillation, SnapshotDistillationConfig
from .snapshot_ensemble import SnapshotEnsemble, SnapshotEnsembleConfig
from .temporal_ensemble import TemporalEnsemble, TemporalEnsembleConfig
from .vanilla import NoTeacher, NoTeacherConfig

TEACHERS: dict[str, type[TeacherConfig]] = {
    config.name: config
    for config in (
        NoTeacherConfig,
        LSTSDConfig,
        LSTSDSingleConfig,
        LSTSDNoLongConfig,
        LSTSDNoShortConfig,
        TemporalEnsembleConfig,
        MeanTeacherConfig,
        SnapshotEnsembleConfig,
        SnapshotDistillationConfig,
        DLBConfig,
        LabelSmoothingConfig,
    )
}


def build_teacher(teacher: Teacher | TeacherConfig | str | None) -> Teacher:
    """The teacher object behind what a trainer was given.

    Args:
        teacher: A `Teacher`, a `TeacherConfig`, the name of a method, or `None` for `LSTSDConfig()`.

    Raises:
        InputError: If no method has that name.
        TypeError: If it is anything else.
    """
    if teacher is None:
        teacher = LSTSDConfig()
    if isinstance(teacher, str):
        if teacher not in TEACHERS:
            raise InputError(f"`teacher` must be of {', '.join(TEACHERS)}, got {teacher!r}.")
        teacher = TEACHERS[teacher]()
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


__all__ = [
    "DLB",
    "LSTSD",
    "TEACHERS",
    "DLBConfig",
    "DistillationTerm",
    "LSTSDConfig",
    "LSTSDNoLongConfig",
    "LSTSDNoShortConfig",
    "LSTSDSingle",
    "LSTSDSingleConfig",
    "LabelSmoothing",
    "LabelSmoothingConfig",
    "MeanTeacher",
    "MeanTeacherConfig",
    "NoTeacher",
    "NoTeacherConfig",
    "SnapshotDistillation",
    "SnapshotDistillationConfig",
    "SnapshotEnsemble",
    "SnapshotEnsembleConfig",
    "Teacher",
    "TeacherBatch",
    "TeacherConfig",
    "TemporalEnsemble",
    "TemporalEnsembleConfig",
    "build_teacher",
]
