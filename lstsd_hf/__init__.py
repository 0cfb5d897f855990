"""Self-distillation for fine-tuning with `transformers.Trainer`."""

import importlib

__version__ = "0.1.0"

# Where public names live, beside the classes of the methods, which `lstsd_hf.methods` finds by itself.
_LOCATIONS = {
    "ConstantMemory": "memory",
    "DynamicsRecorder": "dynamics.recorder",
    "EpochMemory": "memory",
    "ExampleIndexCollator": "example_index",
    "ExampleMemory": "memory",
    "InputError": "errors",
    "LSTSDTrainer": "trainer",
    "LatestMemory": "memory",
    "METHODS": "methods",
    "ModelCopy": "model_copy",
    "MovingAverageMemory": "memory",
    "Observer": "observers",
    "ProblemType": "problem_types",
    "SelfDistillationMixin": "trainer",
    "Student": "student",
    "TableStorage": "memory",
    "TeacherMemory": "memory",
    "TeacherOutputs": "teacher_outputs",
    "TrainingBatch": "observers",
    "TrainingContext": "context",
}


def __getattr__(name: str):
    # torch and transformers take seconds to import; `import lstsd_hf` should not.
    if name == "__all__":
        return __dir__()
    if name in _LOCATIONS:
        return getattr(importlib.import_module(f".{_LOCATIONS[name]}", __name__), name)
    # Submodules and dunders are looked for here first, when they are imported.
    if not name.startswith("_") and name[:1].isupper():
        methods = importlib.import_module(".methods", __name__)
        if name in methods.__all__:
            return getattr(methods, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    methods = importlib.import_module(".methods", __name__)
    return sorted({*_LOCATIONS, *(name for name in methods.__all__ if name[:1].isupper()), "__version__"})
