"""Tables with a row for each training example: what a method remembers of it."""

from .average import MovingAverageMemory
from .constant import ConstantMemory, check_same_digest
from .epoch import EpochMemory
from .indices import index_out_of_range
from .last_step import LastStepMemory
from .latest import LatestMemory
from .sharded import ShardedMemory, new_memory, restored_memory
from .short_long import TeacherMemory
from .staged import ExampleMemory
from .storage import IN_MEMORY, TableStorage

__all__ = [
    "IN_MEMORY",
    "ConstantMemory",
    "EpochMemory",
    "ExampleMemory",
    "LastStepMemory",
    "LatestMemory",
    "MovingAverageMemory",
    "ShardedMemory",
    "TableStorage",
    "TeacherMemory",
    "check_same_digest",
    "index_out_of_range",
    "new_memory",
    "restored_memory",
]
