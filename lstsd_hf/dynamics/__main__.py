"""`python -m lstsd_hf.dynamics report FOLDER`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .recorder import FOLDER_NAME
from .report import write_report


def main(arguments: Sequence[str]) -> None:
    """Writes a report and says where."""
    parser = argparse.ArgumentParser(prog="python -m lstsd_hf.dynamics", description=__doc__)
    commands = parser.add_subparsers(required=True)
    report = commands.add_parser("report", help="a page, figures and tables about a recorded run")
    report.add_argument("folder", type=Path, help="the recorded run: <output_dir>, or <output_dir>/dynamics")
    report.add_argument("--output", type=Path, help="where to write; by default FOLDER/report")
    report.add_argument(
        "--mini_generation_epochs", type=int, help="E of LSTSD, to show what its two teachers said of each suspect"
    )
    options = parser.parse_args(arguments)
    # The folder of the run does as well.
    inner = options.folder / FOLDER_NAME
    try:
        page = write_report(inner if inner.is_dir() else options.folder, options.output, options.mini_generation_epochs)
    except InputError as error:
        sys.exit(f"python -m lstsd_hf.dynamics: error: {error}")
    print(f"Wrote {page}. Open it in a browser; it needs no network.")


if __name__ == "__main__":
    main(sys.argv[1:])
