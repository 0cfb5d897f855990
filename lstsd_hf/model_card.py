"""What a model card says of the method."""

from pathlib import Path

from .checkpoint import describe_teacher
from .teachers import Teacher

HEADING = "### Self-distillation"


def add_to_model_card(path: Path, teacher: Teacher, version: str) -> None:
    """Adds the method and its options to a card, unless they are there.

    Args:
        path: The card; there need be none yet.
        teacher: The teacher that the model was trained with.
        version: Of this package.
    """
    card = path.read_text(encoding="utf-8") if path.exists() else ""
    if HEADING in card:
        return
    name, *options = describe_teacher(teacher).items()
    lines = [f"Trained with lstsd_hf {version}, method `{name[1]}`.", ""]
    lines += [f"- {option}: {value}" for option, value in options]
    path.write_text("\n".join([card.rstrip("\n"), "", HEADING, "", *lines, ""]), encoding="utf-8")
