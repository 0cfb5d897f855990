"""python -m lstsd_hf.experiments report runs/"""

import argparse
import sys
from pathlib import Path

from ..errors import InputError
from .report import group_runs, read_results, to_markdown, write_report


def main(arguments: list[str]) -> None:
    """Prints the tables of finished runs and writes them with their figures."""
    parser = argparse.ArgumentParser(prog="python -m lstsd_hf.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="tables and figures of finished runs")
    report.add_argument("runs", type=Path, help="folder with runs")
    report.add_argument("--output", type=Path, help="folder for the files; default: RUNS/report")
    report.add_argument("--no-figures", action="store_true", help="tables only; needs no matplotlib")
    options = parser.parse_args(arguments)
    sections = group_runs(read_results(options.runs))
    folder = options.output or options.runs / "report"
    print(to_markdown(sections))
    paths = write_report(sections, folder)
    if not options.no_figures:
        # Matplotlib comes with an extra.
        from .figures import write_figures

        paths += write_figures(sections, folder)
    print("Written:", *paths, sep="\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"lstsd_hf.experiments: error: {error}")
