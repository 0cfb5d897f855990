"""Tables with a row for each training example: what a method remembers of it."""

from .average import MovingAverageMemory
from .constant import ConstantMemory, check_same_digest
from .epoch import EpochMemory
from .last_step import LastStepMemory
from .latest import LatestMemory
from .short_long import TeacherMemory
from .staged import ExampleMemory, index_out_of_range
from .storage import IN_MEMORY, TableStorage

__all__ = [
    "IN_MEMORY",
    "ConstantMemory",
    "EpochMemory",
    "ExampleMemory",
    "LastStepMemory",
    "LatestMemory",
    "MovingAverageMemory",
    "TableStorage",
    "TeacherMemory",
    "check_same_digest",
    "index_out_of_range",
]
