#!/usr/bin/env python
"""Makes the folder .gpu for a machine that has a GPU, torch and transformers, but no network.

    python benchmarks/gpu/pack.py $GLUE_DIR

It then holds wheels of this package and of what it needs beside transformers, GLUE's files, and the MiniLM encoder in
bf16; `runs/slices` holds slices of the training splits. All that and the repository is to be copied there.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "results")]
TARGET = ROOT / ".gpu"
# Pure Python or for the machine that is typical of such loans.
WHEELS = ("datasets", "evaluate", "dill", "multiprocess")
PYTHON = ("--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:")
FOLDERS = ("RTE", "MRPC", "SST-2", "CoLA")
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def pack_wheels(target: Path) -> None:
    """This package, and the packages it needs at the versions that it is tested with."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", target, ROOT], check=True)
    constraints = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, "download", "--no-deps", *PYTHON, *constraints, "--dest", target, *WHEELS], check=True)


def pack_data(source: Path, target: Path) -> None:
    """The labelled splits, and the slices for searches."""
    import slices

    for folder in FOLDERS:
        (target / folder).mkdir(parents=True)
        for name in ("train.tsv", "dev.tsv"):
            shutil.copy(source / folder / name, target / folder / name)
    slices.main(source, ROOT / "runs" / "slices")


def pack_minilm(target: Path) -> None:
    """The encoder, its weights rounded to bf16."""
    from lstsd_hf.glue.models import resolve_model

    source = Path(resolve_model("minilm"))
    target.mkdir()
    for name in TOKENIZER_FILES:
        shutil.copy(source / name, target / name)
    weights = load_file(source / "model.safetensors")
    rounded = {name: item.bfloat16() if item.is_floating_point() else item for name, item in weights.items()}
    save_file(rounded, target / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Packs everything anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, help="folder with GLUE's TSV files")
    options = parser.parse_args()
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir()
    pack_wheels(TARGET / "wheels")
    pack_data(options.glue, TARGET / "glue")
    with torch.no_grad():
        pack_minilm(TARGET / "minilm-bf16")
    size = sum(path.stat().st_size for path in TARGET.rglob("*") if path.is_file())
    print(f"{TARGET}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
