"""The protocol's cells for what makes training cheaper: does it change a score?"""

from collections.abc import Iterator

from .commands import MLP, RANDOM, SHORT_MINILM, TASKS, TEN, Command

FIVE = range(1, 6)
LONG = f"{MLP} --learning_rate 1e-3 --num_train_epochs 30"
# As the end-to-end benchmark runs the task: plainly, and as fast as it can.
GROUPED = " --train_sampling_strategy group_by_length"
BF16 = " --bf16 True"


def storages() -> Iterator[Command]:
    """LSTSD with tables that are rounded, or hold the largest probability and the rest; A1 has its whole ones."""
    for task in TASKS:
        for storage in ("bf16", "fp16"):
            yield Command("storages", task, f"{LONG} --memory_storage {storage}", "lstsd", TEN, 0.2)
    for storage in ("", " --memory_storage bf16", " --memory_storage top-1"):
        yield Command("storages", "trec", f"{LONG}{storage}", "lstsd", TEN, 0.2)


def speeds() -> Iterator[Command]:
    """Vanilla, plainly and as fast as it can."""
    for task in ("cola", "rte", "mrpc"):
        for settings in (SHORT_MINILM, SHORT_MINILM.replace(GROUPED, RANDOM).replace(BF16, "")):
            yield Command("speeds", task, settings, "vanilla", FIVE)
