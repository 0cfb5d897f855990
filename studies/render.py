#!/usr/bin/env python
"""Makes docs/results.md, its figures, and the measured parts of README.md and other pages from the records.

python -m studies.render           # or: make results
python -m studies.render --check   # writes nothing, fails if something is out of date
"""

import argparse
import re
import sys
from pathlib import Path

from . import bench_tables, figures, pages

ROOT = Path(__file__).resolve().parent.parent


def with_blocks(text: str, blocks: dict[str, str]) -> str:
    """The text with what stands between `<!-- results: NAME -->` and `<!-- end of results -->` replaced."""
    names = re.findall(r"<!-- results: ([\w-]+) -->", text)
    if sorted(names) != sorted(blocks):
        raise ValueError(f"The blocks in the text must be {sorted(blocks)}, found {sorted(names)}.")
    for name, block in blocks.items():
        pattern = rf"(<!-- results: {name} -->\n).*?(<!-- end of results -->)"
        text = re.sub(pattern, lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text, flags=re.DOTALL)
    return text


def rendered() -> dict[Path, str]:
    """Every file with measured numbers, as it should be."""
    blocks = {
        ROOT / "README.md": pages.readme_blocks(),
        ROOT / "docs" / "methods" / "index.md": pages.methods_blocks(),
        ROOT / "docs" / "scale.md": bench_tables.scale_blocks(),
        ROOT / "docs" / "results.md": pages.results_blocks() | pages.conclusion_blocks(),
    }
    return {path: with_blocks(path.read_text(), own) for path, own in blocks.items()}


def main(arguments: list[str]) -> None:
    """Writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if something is out of date")
    options = parser.parse_args(arguments)
    stale = {path: text for path, text in rendered().items() if path.read_text() != text}
    stale_figures = figures.stale()
    if options.check:
        if stale or stale_figures:
            sys.exit(f"Out of date: {', '.join(map(str, [*stale, *stale_figures]))}. Run: make results")
        return
    for path, text in stale.items():
        path.write_text(text)
    figures.draw()


if __name__ == "__main__":
    main(sys.argv[1:])
