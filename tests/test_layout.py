"""The house: no cycles among modules, and none too large to read."""

import ast
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ("lstsd_hf", "studies")
    for path in (ROOT / package).rglob("*.py")
}


def imported(name: str, path: Path) -> set[str]:
    """Modules of the package that a module imports when it is imported."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    package = package.removesuffix(".__init__")
    found = set()
    for item in ast.parse(path.read_text()).body:
        if isinstance(item, ast.ImportFrom) and item.level:
            base = ".".join(
                [*package.split(".")[: len(package.split(".")) - item.level + 1], *filter(None, [item.module])]
            )
            for alias in item.names:
                target = f"{base}.{alias.name}"
                found.add(target if target in MODULES else base if base in MODULES else f"{base}.__init__")
    return found & MODULES.keys()


def test_modules_import_each_other_downhill():
    graph = {name: imported(name, path) for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > 100
    while graph:
        free = {name for name, targets in graph.items() if not targets & graph.keys()}
        assert free, f"a cycle among {sorted(graph)}"
        graph = {name: targets for name, targets in graph.items() if name not in free}


def test_modules_can_be_read_in_one_go():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in MODULES.values()}
    assert lengths["lstsd_hf/trainer.py"] <= 320
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_no_output_of_a_run_is_tracked():
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("not a git checkout")
    outputs = (".safetensors", ".pt", ".pth", ".bin", ".parquet", ".npy")
    assert [name for name in found.stdout.split() if name.endswith(outputs)] == []
