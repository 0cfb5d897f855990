"""python -m lstsd_hf.experiments report runs/
python -m lstsd_hf.experiments collect runs/ results.jsonl
"""

import argparse
import sys
from pathlib import Path

from ..errors import InputError
from .grouping import group_runs
from .records import collect, read_results
from .report import to_markdown, write_report


def main(arguments: list[str]) -> None:
    """Makes tables of finished runs, or keeps them in a small file."""
    parser = argparse.ArgumentParser(
        prog="python -m lstsd_hf.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    report = commands.add_parser("report", help="tables and figures of finished runs")
    report.add_argument("runs", type=Path, nargs="+", help="folders with runs, or files written by collect")
    report.add_argument("--output", type=Path, help="folder for the files; default: report in the first RUNS")
    report.add_argument("--no-figures", action="store_true", help="tables only; needs no matplotlib")
    report.set_defaults(command=_report)
    keep = commands.add_parser("collect", help="adds the last epoch's scores of finished runs to a small file")
    keep.add_argument("runs", type=Path, help="folder with runs")
    keep.add_argument("output", type=Path, help="file ending in .jsonl; a report can be made of it")
    keep.set_defaults(command=_collect)
    options = parser.parse_args(arguments)
    options.command(options)


def _report(options: argparse.Namespace) -> None:
    sections = group_runs(read_results(options.runs))
    first = options.runs[0]
    folder = options.output or (first.parent if first.is_file() else first) / "report"
    print(to_markdown(sections))
    paths = write_report(sections, folder)
    if not options.no_figures:
        try:
            from .figures import write_figures
        except ModuleNotFoundError as error:
            raise InputError(
                f"Figures need the package {error.name}: `pip install -e '.[experiments]'`, or give --no-figures."
            ) from error

        paths += write_figures(sections, folder)
    print("Written:", *paths, sep="\n")


def _collect(options: argparse.Namespace) -> None:
    if options.output.suffix != ".jsonl":
        raise InputError(f"`output` must end in .jsonl, got {options.output}.")
    print(f"{options.output}: {collect(options.runs, options.output)} runs")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"lstsd_hf.experiments: error: {error}")
