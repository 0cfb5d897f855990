"""A command line to dataclasses, and the help for it."""

import argparse
import difflib
from typing import Any

from transformers import HfArgumentParser

from ..errors import InputError


def parsed(parser: HfArgumentParser, arguments: list[str], hint: str) -> list[Any]:
    """The dataclasses of a command line.

    Raises:
        InputError: If nobody has an option; `hint` says more.
    """
    *found, left = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if left:
        similar = difflib.get_close_matches(left[0].partition("=")[0], parser._option_string_actions, n=1)
        meant = f" Did you mean {similar[0]}?" if similar else ""
        raise InputError(f"There is no option {left[0]}.{meant} `--help` lists them all.{hint}")
    return found


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description, and shows defaults."""

    def add_argument(self, action: argparse.Action) -> None:
        # `--no_x` says with the help of `--x` the opposite; `--x False` is the same.
        if action.const is not False:
            super().add_argument(action)


def wide(prog: str) -> argparse.HelpFormatter:
    """As wide wherever it is called."""
    return HelpFormatter(prog, width=110)
