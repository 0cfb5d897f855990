"""The names of terms: one, or those of several that are computed together."""

from torch import Tensor

Names = str | tuple[str, ...]


def quoted(names: Names) -> str:
    """The names for a message."""
    names = (names,) if isinstance(names, str) else names
    return f"term{'s' * (len(names) > 1)} {' and '.join(f'`{name}`' for name in names)}"


def by_name(names: Names, means: Tensor) -> dict[str, Tensor]:
    """The mean of each term.

    Args:
        names: One name, or several.
        means: One number or one for each device; of several terms the last axis is theirs.
    """
    if isinstance(names, str):
        return {names: means.mean()}
    return dict(zip(names, means.flatten(0, -2).mean(dim=0) if means.dim() > 1 else means, strict=True))
