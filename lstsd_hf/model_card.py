"""What a model card says of the method."""

from dataclasses import asdict
from pathlib import Path

from . import __version__
from .files import replacing
from .methods import Teacher
from .schedules import TrainingPlan

HEADING = "### Self-distillation"


class ModelCardMixin:
    """A trainer whose model cards name the method and its options."""

    def create_model_card(self, *args, **kwargs) -> None:
        """The parent's, with the method and its options."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            add_to_model_card(Path(self.args.output_dir) / "README.md", self.teacher, self._context.plan)


def add_to_model_card(path: Path, teacher: Teacher, plan: TrainingPlan | None = None) -> None:
    """Adds the method and its options to a card, unless they are there.

    Args:
        path: The card; there need be none yet.
        teacher: The teacher that the model was trained with.
        plan: The length of the run, to which options that were left out are fitted; `None` leaves them.
    """
    card = path.read_text(encoding="utf-8") if path.exists() else ""
    if HEADING in card:
        return
    config = teacher.config
    if config is not None and plan is not None:
        config = config.fitted_to(plan)
    name = type(teacher).__name__ if config is None else config.name
    lines = [f"Trained with lstsd_hf {__version__}, method `{name}`.", ""]
    lines += [f"- {option}: {value}" for option, value in (asdict(config) if config is not None else {}).items()]
    lines += ["", teacher.card_note] if teacher.card_note else []
    with replacing(path) as temporary:
        temporary.write_text("\n".join([card.rstrip("\n"), "", HEADING, "", *lines, ""]), encoding="utf-8")
