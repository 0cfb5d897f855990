"""Which columns of one's own data are the texts. What is not clear is refused, never guessed."""

import re
from collections.abc import Sequence
from typing import Any

from .errors import InputError

LABEL = "label"

# Any of these names settles it; a pair goes before its parts.
KNOWN_PAIRS = (
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "answer"),
    ("question", "context"),
    ("question", "passage"),
    ("query", "passage"),
    ("query", "document"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
)
KNOWN_SINGLES = ("text", "sentence", "question", "query")

_UNNAMED = re.compile(r"(unnamed: ?\d+.*|index|level_\d+|__index_level_\d+__|)", re.IGNORECASE)
_ID = re.compile(r"(.*[_\-. ])?(id|idx|guid|uuid)s?|\w*[a-z]Id", re.IGNORECASE)
_LABEL_LIKE = re.compile(r"labels?([_\-. ].*)?|(.*[_\-. ])?labels?", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?%?|nan|inf", re.IGNORECASE)


def choose_text_columns(
    rows: Sequence[dict[str, Any]], path: str, requested: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The one or two columns of text in a training split.

    In this order: those requested; those with a known name such as `text` or `premise` and `hypothesis`; the only one
    or two that look like text. A column does not look like text if it has no name, is named like an identifier or a
    label, holds numbers, lists or objects, has one value throughout, or tells the label (each of its values, most of
    which repeat, stands with a single label). Among those left, columns of single words give way to sentences.

    Args:
        rows: The rows, with a column `label`.
        path: Their file, for messages.
        requested: Names of one or two columns.

    Returns:
        The columns, and for each of the others but the label why it was left out.

    Raises:
        InputError: If it is not clear which columns are meant.
    """
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != LABEL]
    if requested is not None:
        return _requested(requested, names, path), {}
    known = _known(names, path)
    if known:
        return known, {name: "not named as a text" for name in names if name not in known}
    labels = [row[LABEL] for row in rows]
    reasons = {name: _no_text(name, [row.get(name) for row in rows], labels) for name in names}
    left = [name for name in names if reasons[name] is None]
    sentences = [name for name in left if _is_of_sentences([row.get(name) for row in rows])]
    if sentences:
        reasons |= {name: "single words" for name in left if name not in sentences}
        left = sentences
    # Two columns of single words could be anything.
    if len(left) in ((1, 2) if sentences else (1,)):
        return tuple(left), {name: reason for name, reason in reasons.items() if reason}
    shown = "; ".join(f"{name!r}: {reason or 'may be a text'}" for name, reason in reasons.items())
    raise InputError(
        f"{path} must have a column `text`, or two such as `sentence1` and `sentence2`, or one or two others that look "
        f"like text; got {shown or 'no column beside the label'}. Name the columns of text: --text_columns NAME [NAME]."
    )


def _requested(requested: Sequence[str], names: Sequence[str], path: str) -> tuple[str, ...]:
    unknown = [name for name in requested if name not in names]
    if unknown or len(requested) not in (1, 2) or len(set(requested)) < len(requested):
        raise InputError(
            f"`text_columns` must be one or two different columns of {path} beside the label, got {list(requested)}; "
            f"the columns are {list(names)}."
        )
    return tuple(requested)


def _known(names: Sequence[str], path: str) -> tuple[str, ...] | None:
    own = {name.strip().lower(): name for name in names}
    pairs = [pair for pair in KNOWN_PAIRS if all(name in own for name in pair)]
    paired = {name for pair in pairs for name in pair}
    found = [*pairs, *((name,) for name in KNOWN_SINGLES if name in own and name not in paired)]
    if len(found) > 1 or len(own) < len(names):
        shown = " or ".join(" and ".join(own[name] for name in columns) for columns in found) or list(names)
        raise InputError(
            f"{path} must have one text, or one pair of texts, got columns for several: {shown}. Name them: "
            "--text_columns NAME [NAME]."
        )
    return tuple(own[name] for name in found[0]) if found else None


def _no_text(name: str, values: Sequence[Any], labels: Sequence[Any]) -> str | None:
    """Why a column does not look like text; `None` if it does."""
    filled = [value for value in values if value is not None]
    if _UNNAMED.fullmatch(name.strip()):
        return "an index without a name"
    if _ID.fullmatch(name.strip()):
        return "an identifier"
    if _LABEL_LIKE.fullmatch(name.strip()):
        return "named like a label"
    if not all(isinstance(value, str) for value in filled):
        is_plain = all(isinstance(value, str | int | float) for value in filled)
        return "holds numbers" if is_plain else "holds lists or objects"
    if all(_NUMBER.fullmatch(value.strip()) for value in filled if value.strip()):
        return "holds numbers"
    distinct = set(filled)
    if len(distinct) == 1 and len(filled) > 1:
        return "one value throughout"
    if len(set(zip(values, labels, strict=True))) == len(set(values)) <= len(values) / 2:
        return "tells the label"
    return None


def _is_of_sentences(values: Sequence[Any]) -> bool:
    """Whether most of the values have several words."""
    filled = [value for value in values if value]
    return sum(len(value.split()) > 1 for value in filled) > len(filled) / 2
