"""How much memory a process can still have: of the machine, and of the container that it runs in."""

from collections.abc import Iterator
from pathlib import Path

import psutil

# What the kernel calls limit, use, and files that it keeps in memory as long as nobody needs the space.
_VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
_VERSION_2 = "memory.max", "memory.current", "inactive_file"


def free_memory(groups: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of memory that are free on the machine, or less where a control group allows less, as containers do.

    Args:
        groups: Where Linux shows its control groups.
        process: The file that names those of the process; elsewhere there is none.
    """
    free = psutil.virtual_memory().available
    lines = process.read_text().splitlines() if process.exists() else []
    for _, controllers, path in (line.split(":", maxsplit=2) for line in lines):
        if controllers == "":
            free = min([free, *_left(groups, path, *_VERSION_2)])
        elif "memory" in controllers.split(","):
            free = min([free, *_left(groups / "memory", path, *_VERSION_1)])
    return max(0, free)


def _left(root: Path, path: str, limit: str, use: str, kept: str) -> Iterator[int]:
    """What each group on the way from the root has left. A container may see its own as the root."""
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        files = [folder / name for name in (limit, use, "memory.stat")]
        if all(file.exists() for file in files):
            most, used, stat = (file.read_text() for file in files)
            words = stat.split()
            numbers = dict(zip(words[::2], words[1::2], strict=True))
            if most.strip() != "max":
                yield int(most) - int(used) + int(numbers.get(kept, 0))
        if folder == root:
            return
