"""How a command begins: its help without what takes seconds to import."""

import importlib
import sys
from pathlib import Path

HELP_NAME = "help.txt"
HELP_ALL = "--help_all"


def start(package: str) -> None:
    """Prints a command's help if it is asked for, else runs the command.

    Args:
        package: The package of the command, within `lstsd_hf`.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((Path(__file__).parents[1] / package / HELP_NAME).read_text(encoding="utf-8"), end="")
        return
    # The parser's own help has what this version of transformers takes.
    sys.argv[1:] = ["--help" if argument == HELP_ALL else argument for argument in sys.argv[1:]]
    importlib.import_module(f"lstsd_hf.{package}.cli").run()
