"""The tables of docs/scale.md: what the benchmarks measured, and the scores of S1 and S2."""

from typing import Any

from .scale_tables import speeds_table, storages_table
from .settings_tables import read
from .tables import table


def scale_blocks() -> dict[str, str]:
    """Every measured part of the page."""
    bench, many = read("bench"), read("many_examples")
    return {
        "machine": _machine(bench["hardware"]),
        "memory": _memory(bench["memory_scale"]),
        "methods": _methods(bench["overhead"]),
        "example": table(
            ["task", "`run_glue.py`", "times the example's speed"],
            [[row["task"], row["way"], _ratio(row["examples_a_second"])] for row in bench["end_to_end"]],
        ),
        "start": table(
            ["what", "seconds", "over", "ratio"],
            [
                [f"`{row['what']}`", f"{row['ratio']['seconds']:.2f}", f"`{row['over']}`", _ratio(row["ratio"])]
                for row in bench["startup"]
            ],
        ),
        "many": _many(many["figures"]),
        "storages": storages_table(),
        "speeds": speeds_table(),
    }


def _memory(rows: list[dict[str, Any]]) -> str:
    figures = ("lookup_and_stage", "commit", "save", "load")
    header = ["examples", "labels", "storage", "bytes for an example", "lookup and stage", "commit", "save", "load"]
    sizes = [
        [f"{row['examples']:,}", f"{row['labels']:,}", f"`{row['storage']}`", f"{row['bytes_for_an_example']:,.0f}"]
        for row in rows
    ]
    return table(
        header, [[*size, *(_ratio(row.get(name)) for name in figures)] for size, row in zip(sizes, rows, strict=True)]
    )


def _methods(rows: list[dict[str, Any]]) -> str:
    shown = []
    for row in rows:
        low, high = row["quartiles"]
        # Rounded first: a zero has no sign.
        added, low, high = (round(number, 2) + 0.0 for number in (row["added_ms"], low, high))
        added = f"{added:.2f} ms ({low:.2f} to {high:.2f})"
        shown.append([f"`{row['method']}`", _ratio(row["stub_step"]), added])
    return table(["method", "over stock", "added"], shown)


def _many(figures: dict[str, dict[str, float]]) -> str:
    stock = figures["stock"]["seconds"]
    rows = [
        [name, f"{item['peak_gib']:.2f} GiB", f"{item['seconds'] / stock:.2f}", f"{item['loss']:.4f}"]
        for name, item in figures.items()
    ]
    return table(["storage", "peak memory", "time over stock", "last epoch's loss"], rows)


def _ratio(item: dict[str, float] | None) -> str:
    if item is None:
        return "–"
    return f"{item['median']:.2f} ({item['quartile_1']:.2f} to {item['quartile_3']:.2f})"


def _machine(hardware: dict[str, Any]) -> str:
    threads = f"{hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"
    versions = f"torch {hardware['torch']}, transformers {hardware['transformers']}"
    return f"On one {hardware['device']}, {threads}, {versions}."
