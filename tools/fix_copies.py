#!/usr/bin/env python
"""Brings up to date what follows from the methods: public names for type checkers, tables, menu, help.

python tools/fix_copies.py           # or: make fix-copies
python tools/fix_copies.py --check   # writes nothing, fails if something is missing or out of date
"""

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path

import lstsd_hf
from lstsd_hf import METHODS
from lstsd_hf.glue.cli import TextDomain
from lstsd_hf.images.cli import ImageDomain
from lstsd_hf.runner.entry import HELP_NAME
from lstsd_hf.runner.options import short_help

ROOT = Path(__file__).resolve().parents[1]
PAGES = Path("docs", "methods")


def stub() -> str:
    """What type checkers and editors see instead of the lazy imports of `lstsd_hf/__init__.py`."""
    public = {name: getattr(lstsd_hf, name) for name in dir(lstsd_hf) if name[:1].isupper()}
    places = {name: getattr(value, "__module__", "lstsd_hf.methods") for name, value in public.items()}
    lines = [
        f"from .{module.removeprefix('lstsd_hf.')} import {name} as {name}"
        for module, name in sorted((module, name) for name, module in places.items())
    ]
    return "\n".join(["# Made by `make fix-copies`.", *lines, "", "__version__: str", ""])


def summary(name: str) -> str:
    """The first sentence of a method's page."""
    path = ROOT / PAGES / f"{name}.md"
    if not path.is_file():
        raise SystemExit(f"The method `{name}` must have a page, found no {path.relative_to(ROOT)}. Write it.")
    text = re.sub(r"\A# .*\n+", "", path.read_text())
    return " ".join(text.split("\n\n")[0].split())


def methods_table(folder: str) -> str:
    """A row for each method, with links to the pages in a folder."""
    # Links in a summary are relative to its page.
    summaries = {name: summary(name).replace("](", f"]({folder}") for name in METHODS}
    links = {name: f"[`{name}`]({folder}{name}.md)" for name in METHODS}
    rows = [f"| {links[name]} | {summaries[name]} |" for name in METHODS]
    if folder:
        # On README's one screen the rows of the paper's ablation are one.
        of_ablation = [name for name in METHODS if name.startswith("lstsd_")]
        rows = [f"| {links[name]} | {summaries[name]} |" for name in METHODS if name not in of_ablation]
        names = ", ".join(links[name] for name in of_ablation)
        rows.insert(
            2, f"| {names} | The paper's ablation: without one of the two teachers, or with one for all examples. |"
        )
    return "\n".join(["| method | what it does |", "|---|---|", *rows])


def options_table(name: str) -> str:
    """A row for each option of a method."""
    default, paper = METHODS[name](), METHODS[name].paper()
    rows = [
        f"| `{option.name}` | {option.metadata['help'].replace('|', chr(92) + '|')} "
        f"| `{getattr(default, option.name)}` | `{getattr(paper, option.name)}` |"
        for option in fields(default)
        if option.init
    ]
    return "\n".join(["| option | | default | `paper()` |", "|---|---|---|---|", *rows]) if rows else "No options."


def with_block(path: Path, name: str, block: str) -> str:
    """A file's text, with what stands between `<!-- NAME -->` and `<!-- end of NAME -->` replaced."""
    found, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)",
        lambda match: f"{match[1]}\n{block}\n\n{match[2]}",
        path.read_text(),
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{path.relative_to(ROOT)} must have one block `<!-- {name} -->`, found {count}.")
    return found


def menu() -> str:
    """mkdocs.yml with a line for each method."""
    lines = "".join(f"      - methods/{name}.md\n" for name in METHODS)
    text = (ROOT / "mkdocs.yml").read_text()
    return re.sub(r"(      - methods/index\.md\n)(?:      - methods/.*\n)*", lambda match: match[1] + lines, text)


def wanted() -> dict[Path, str]:
    """Every file that follows from the methods, as it should be."""
    index = ROOT / PAGES / "index.md"
    files = {
        ROOT / "lstsd_hf" / "__init__.pyi": stub(),
        ROOT / "README.md": with_block(ROOT / "README.md", "methods", methods_table("docs/methods/")),
        index: with_block(index, "methods", methods_table("")),
        ROOT / "mkdocs.yml": menu(),
        ROOT / "lstsd_hf" / "glue" / HELP_NAME: short_help(TextDomain(), "run_glue.py"),
        ROOT / "lstsd_hf" / "images" / HELP_NAME: short_help(ImageDomain(), "run_cifar.py"),
    }
    for name in METHODS:
        path = ROOT / PAGES / f"{name}.md"
        files[path] = with_block(path, "options", options_table(name))
    return files


def main(arguments: list[str]) -> None:
    """Writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if something is out of date")
    options = parser.parse_args(arguments)
    stale = {path: text for path, text in wanted().items() if not path.exists() or path.read_text() != text}
    if options.check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"Out of date with the methods: {names}. Run: make fix-copies")
    for path, text in stale.items():
        path.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
