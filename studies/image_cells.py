"""The protocol's cells on pictures."""

from collections.abc import Iterator

from .commands import IMAGES, MATCHED, Command

THREE = range(1, 4)
CYCLES = "--snapshot_ensemble.cycle_epochs 5 --snapshot_distillation.cycle_epochs 5"
# The E of V1, of 20 epochs; the others are those of V2.
V1_LENGTH, V2_LENGTHS = 2, (1, 3, 5, 10)


def _pictures(records: str, epochs: int, methods: str, rate: float = 0.0, images: str = IMAGES) -> Command:
    settings = f"{images} --num_train_epochs {epochs}"
    return Command(records, "fashion_mnist", settings, methods, THREE, rate, script="run_cifar.py")


def v1() -> Iterator[Command]:
    """Tables 1 and 3."""
    lengths = " ".join(
        f"--{name}.mini_generation_epochs {V1_LENGTH}"
        for name in ("lstsd", "lstsd_no_long", "lstsd_no_short", "lstsd_single")
    )
    yield _pictures(
        "images",
        20,
        "vanilla lstsd lstsd_no_long lstsd_no_short lstsd_single mean_teacher snapshot_ensemble temporal_ensemble "
        f"snapshot_distillation label_smoothing {lengths} {CYCLES}",
    )
    yield _pictures("images", 20, f"temporal_ensemble {MATCHED}")


def v2() -> Iterator[Command]:
    """Figure 2."""
    for length in V2_LENGTHS:
        yield _pictures("images", 20, f"lstsd --mini_generation_epochs {length}")


def v_epochs() -> Iterator[Command]:
    """As many steps in more epochs. Only the last epoch is scored."""
    few = IMAGES.replace("--max_train_samples 10000", "--max_train_samples 2500 --eval_delay 79")
    lengths = " ".join(f"--{name}.mini_generation_epochs 3" for name in ("lstsd", "lstsd_no_long", "lstsd_no_short"))
    yield _pictures("images_epochs", 80, f"vanilla lstsd lstsd_no_long lstsd_no_short {lengths}", images=few)


def v_noise() -> Iterator[Command]:
    """ELR and SAT, where labels are wrong."""
    yield _pictures("images_noise", 40, "vanilla", 0.4)
    yield _pictures("images_noise_short", 10, "vanilla", 0.4)
    yield _pictures("images_noise", 40, "elr sat lstsd --lstsd.mini_generation_epochs 2", 0.4)
