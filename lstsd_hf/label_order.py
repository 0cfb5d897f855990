"""Whether two lists of labels are the same in another order, told by their names."""

import re
from collections.abc import Sequence

from .errors import InputError


def normalized(label: object) -> str:
    """A label's name in any case and with any separator."""
    return str(label).strip().lower().replace("-", "_").replace(" ", "_")


def are_names(labels: Sequence[object] | None) -> bool:
    """Whether labels have names: transformers' configs number those that have none."""
    return labels is not None and not all(re.fullmatch(r"LABEL_\d+", str(label)) for label in labels)


def label_order(own: Sequence[object], wanted: Sequence[object]) -> list[int] | None:
    """For each wanted label, its position among one's own; `None` if they are not the same labels.

    Examples:
        >>> label_order(["Not Equivalent", "Equivalent"], ["equivalent", "not_equivalent"])
        [1, 0]
    """
    positions = {normalized(label): position for position, label in enumerate(own)}
    names = [normalized(label) for label in wanted]
    if len(positions) < len(own) or sorted(positions) != sorted(names):
        return None
    return [positions[name] for name in names]


def matched_order(own: Sequence[str] | None, wanted: Sequence[str] | None, count: int, whose: str) -> list[int]:
    """For each of the student's labels, its column in a teacher's outputs: by name, or in their order without names.

    Args:
        own: The names of the teacher's labels, if it has any.
        wanted: The names of the student's, if it has any.
        count: Columns of the teacher's outputs.
        whose: What the outputs are from, for the message.

    Raises:
        InputError: If they are not for the same labels.
    """
    order, found = list(range(count)), label_order(own, wanted) if own and wanted else None
    if found is not None or (are_names(own) and are_names(wanted)):
        order = found
    if order is None or (wanted is not None and len(wanted) != count):
        raise InputError(
            f"The labels of {whose} must be the student's, {list(wanted)}, in any order; got "
            f"{list(own) if are_names(own) else f'{count} labels without names'}. Choose a teacher for the same "
            "labels, or set `id2label` of the two models' configs."
        )
    return order
