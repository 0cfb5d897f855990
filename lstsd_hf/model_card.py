"""What a model card says of the method."""

from pathlib import Path

from . import __version__
from .checkpoint import describe_teacher
from .methods import Teacher

HEADING = "### Self-distillation"


class ModelCardMixin:
    """A trainer whose model cards name the method and its options."""

    def create_model_card(self, *args, **kwargs) -> None:
        """The parent's, with the method and its options."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            add_to_model_card(Path(self.args.output_dir) / "README.md", self.teacher)


def add_to_model_card(path: Path, teacher: Teacher) -> None:
    """Adds the method and its options to a card, unless they are there.

    Args:
        path: The card; there need be none yet.
        teacher: The teacher that the model was trained with.
    """
    card = path.read_text(encoding="utf-8") if path.exists() else ""
    if HEADING in card:
        return
    name, *options = describe_teacher(teacher).items()
    lines = [f"Trained with lstsd_hf {__version__}, method `{name[1]}`.", ""]
    lines += [f"- {option}: {value}" for option, value in options]
    lines += ["", teacher.card_note] if teacher.card_note else []
    path.write_text("\n".join([card.rstrip("\n"), "", HEADING, "", *lines, ""]), encoding="utf-8")
