"""One page and a few files about a recorded run."""

from .write import write_report

__all__ = ["write_report"]
