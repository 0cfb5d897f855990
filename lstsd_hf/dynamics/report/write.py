"""Writes the files of a report: the page, the table of all statistics, and figures."""

from pathlib import Path

from ...errors import InputError
from ...files import replacing
from ..history import History
from ..measures import statistics
from .figures import data_map, learning_curves
from .page import page


def write_report(
    folder: str | Path, output: str | Path | None = None, mini_generation_epochs: int | None = None
) -> Path:
    """Writes `report.html`, `statistics.csv`, `statistics.parquet`, `data_map.png` and `curves.png`.

    Args:
        folder: A recorded run, `<output_dir>/dynamics`.
        output: Where to write; `None` is `folder/report`.
        mini_generation_epochs: E of LSTSD, to show what its two teachers said; `None` for other methods.

    Returns:
        The page: one file that loads nothing.

    Raises:
        InputError: If the folder is no recorded run, no example of it has a label, or E is less than 1.
    """
    if mini_generation_epochs is not None and mini_generation_epochs < 1:
        raise InputError(f"`mini_generation_epochs` must be at least 1, got {mini_generation_epochs}.")
    history = History.read(folder)
    table = statistics(history)
    if not table["suspicion"].notna().any():
        raise InputError(f"The examples recorded in {folder} must have labels that are classes, found none.")
    output = Path(output) if output is not None else Path(folder) / "report"
    output.mkdir(parents=True, exist_ok=True)
    with replacing(output / "statistics.csv") as temporary:
        table.to_csv(temporary, index=False)
    with replacing(output / "statistics.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    for name, figure in (("data_map.png", data_map(table)), ("curves.png", learning_curves(history, table))):
        with replacing(output / name) as temporary:
            figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
    path = output / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(page(history, table, mini_generation_epochs), encoding="utf-8")
    return path
