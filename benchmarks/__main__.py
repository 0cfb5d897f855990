"""Every figure of speed, memory and scale, each a ratio of two things that take turns: `make bench`.

    python -m benchmarks                       # all, half an hour on one CPU core
    python -m benchmarks --sections overhead   # one of: startup, overhead, end_to_end, memory_scale
    python -m benchmarks --quick               # do they run? The figures say nothing

Run it with nothing else on the machine. Ratios are medians, with quartiles in brackets.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from . import end_to_end, memory_scale, overhead, startup
from .measuring import Ratio, hardware

SECTIONS = {module.__name__.rpartition(".")[-1]: module for module in (startup, overhead, end_to_end, memory_scale)}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_shown(row.get(name)) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " to ".join(_shown(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """Ratios as mappings, for JSON."""
    if isinstance(value, Ratio):
        return value._asdict()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="also keep the figures here, those of other sections as they are")
    options = parser.parse_args()
    measured: dict[str, Any] = {"hardware": hardware()}
    for name in options.sections:
        rows = SECTIONS[name].measure(options.quick)
        print(f"\n## {name}\n\n{SECTIONS[name].__doc__}\n{table(rows)}", flush=True)
        measured[name] = plain(rows)
        if options.json:
            before = json.loads(options.json.read_text()) if options.json.exists() else {}
            temporary = options.json.with_suffix(".tmp")
            temporary.write_text(json.dumps(before | measured, indent=2) + "\n")
            os.replace(temporary, options.json)


if __name__ == "__main__":
    main()
