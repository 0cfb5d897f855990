"""Self-distillation for fine-tuning with `transformers.Trainer`."""

import importlib
import logging
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    # For type checkers and editors, which do not see the lazy imports below.
    from .events import TeacherEvents as TeacherEvents
    from .example_index import ExampleIndexCollator as ExampleIndexCollator
    from .memory import TeacherMemory as TeacherMemory
    from .model_copy import ModelCopy as ModelCopy
    from .student import Student as Student
    from .teachers import LSTSD as LSTSD
    from .teachers import TEACHERS as TEACHERS
    from .teachers import DistillationTerm as DistillationTerm
    from .teachers import DLBConfig as DLBConfig
    from .teachers import LabelSmoothingConfig as LabelSmoothingConfig
    from .teachers import LSTSDConfig as LSTSDConfig
    from .teachers import LSTSDNoLongConfig as LSTSDNoLongConfig
    from .teachers import LSTSDNoShortConfig as LSTSDNoShortConfig
    from .teachers import LSTSDSingleConfig as LSTSDSingleConfig
    from .teachers import MeanTeacher as MeanTeacher
    from .teachers import MeanTeacherConfig as MeanTeacherConfig
    from .teachers import NoTeacher as NoTeacher
    from .teachers import NoTeacherConfig as NoTeacherConfig
    from .teachers import SnapshotDistillationConfig as SnapshotDistillationConfig
    from .teachers import SnapshotEnsembleConfig as SnapshotEnsembleConfig
    from .teachers import Teacher as Teacher
    from .teachers import TeacherBatch as TeacherBatch
    from .teachers import TeacherConfig as TeacherConfig
    from .teachers import TemporalEnsembleConfig as TemporalEnsembleConfig
    from .trainer import LSTSDTrainer as LSTSDTrainer
    from .trainer import SelfDistillationMixin as SelfDistillationMixin

_LOCATIONS = {
    "DLBConfig": "teachers",
    "DistillationTerm": "teachers",
    "ExampleIndexCollator": "example_index",
    "LSTSD": "teachers",
    "LSTSDConfig": "teachers",
    "LSTSDNoLongConfig": "teachers",
    "LSTSDNoShortConfig": "teachers",
    "LSTSDSingleConfig": "teachers",
    "LSTSDTrainer": "trainer",
    "LabelSmoothingConfig": "teachers",
    "MeanTeacher": "teachers",
    "MeanTeacherConfig": "teachers",
    "ModelCopy": "model_copy",
    "NoTeacher": "teachers",
    "NoTeacherConfig": "teachers",
    "SelfDistillationMixin": "trainer",
    "SnapshotDistillationConfig": "teachers",
    "SnapshotEnsembleConfig": "teachers",
    "Student": "student",
    "TEACHERS": "teachers",
    "Teacher": "teachers",
    "TeacherBatch": "teachers",
    "TeacherConfig": "teachers",
    "TeacherMemory": "memory",
    "TeacherEvents": "events",
    "TemporalEnsembleConfig": "teachers",
}

__all__ = [*_LOCATIONS, "__version__"]


def __getattr__(name: str):
    # torch and transformers take seconds to import; `import lstsd_hf` should not.
    if name not in _LOCATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LOCATIONS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


# The one line at train start must be seen without setting up logging, and can be silenced by level.
_logger = logging.getLogger(__name__)
if not _logger.handlers:
    _logger.addHandler(logging.StreamHandler())
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
del _logger
