"""Self-distillation for fine-tuning with `transformers.Trainer`."""

import importlib
import logging

__version__ = "0.1.0"

_LOCATIONS = {
    "DLBConfig": "teachers",
    "DistillationTerm": "teachers",
    "ExampleIndexCollator": "data",
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
    "TeacherMemoryCallback": "callback",
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
