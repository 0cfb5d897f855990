"""The command's entry point."""

from ..runner.entry import start


def run() -> None:
    """Runs the command with the arguments of this process."""
    start("images")
