"""The options of the command for pictures."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import InputError
from ..runner.options import ALL, RunArguments
from .models import NETWORKS
from .run import PAPER_MILESTONES, ImageOptions
from .tasks import SOURCES

DESCRIPTION = """\
Trains image classifiers on CIFAR, Fashion-MNIST, or one's own folders, with methods of self-distillation.

python run_cifar.py --task cifar100 --method lstsd
python run_cifar.py --task digits --method vanilla lstsd --demo
python run_cifar.py --task fashion_mnist --max_train_samples 10000 --method vanilla lstsd --seeds 1 2 3
python run_cifar.py --help_all    # with every option of TrainingArguments
"""
DEMO_SETTINGS = {
    "task": ["digits"],
    "model_name_or_path": "resnet20",
    "num_train_epochs": 12.0,
    "per_device_train_batch_size": 64,
    "lr_scheduler_type": "cosine",
    "save_strategy": "no",
}
DEMO_METHOD_SETTINGS = {"mini_generation_epochs": 4, "cycle_epochs": 4, "interval_epochs": 1}


@dataclass
class ImageArguments(RunArguments):
    """What to train on what pictures."""

    options_class: ClassVar = ImageOptions

    task: list[str] | None = field(
        default=None,
        metadata={"help": f"One or several of: {', '.join(SOURCES)}; or {ALL}. Own data: --train_dir."},
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "hub, or a folder with the data set's own files: CIFAR's Python or binary form, IDX. Default: "
            "what a package of the system has installed, else hub."
        },
    )
    train_dir: str | None = field(
        default=None, metadata={"help": "Own training pictures: a folder with one folder for each class."}
    )
    validation_dir: str | None = field(default=None, metadata={"help": "Own validation pictures, likewise."})
    image_size: int | None = field(
        default=None, metadata={"help": "Own pictures are resized to that height and width, in pixels. Default: 32."}
    )
    model_name_or_path: str = field(
        default="resnet20",
        metadata={"help": f"One of {', '.join(NETWORKS)}, all new; a name on the hub; or a folder."},
    )
    crop_padding: int | None = field(
        default=None,
        metadata={"help": "Pixels of padding before a random crop, 0 for none. Default: 4; digits 1; own size / 8."},
    )
    flip: bool | None = field(
        default=None, metadata={"help": "Flip pictures at random, half of the time. Default: CIFAR and Fashion-MNIST."}
    )
    lr_milestones: list[float] = field(
        default_factory=lambda: [*PAPER_MILESTONES],
        metadata={"help": "Shares of a run at which a constant learning rate is divided by 10."},
    )
    demo: bool = field(default=False, metadata={"help": "Small and local: digits of 8 × 8 pixels."})

    def __post_init__(self):
        super().__post_init__()
        if self.image_size is not None and self.image_size < 8:
            raise InputError(f"`image_size` must be at least 8, got {self.image_size}.")
        if self.image_size is not None and not self.train_dir:
            raise InputError(
                "`image_size` goes with `train_dir` and `validation_dir`: tasks have pictures of one size."
            )
        for name in ("data", "demo"):
            if getattr(self, name) and self.train_dir:
                raise InputError(f"`{name}` is about a task and must not be given with `train_dir`. Leave it out.")

    def data_options(self) -> ImageOptions:
        shares = self.lr_milestones
        if sorted({*shares}) != shares or not all(0 < share < 1 for share in shares):
            raise InputError(f"`lr_milestones` must be growing shares between 0 and 1, got {shares}.")
        self.lr_milestones = tuple(shares)
        try:
            return super().data_options()
        finally:
            self.lr_milestones = shares
