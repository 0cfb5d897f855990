#!/usr/bin/env python
"""Makes the folder .gpu for a machine that has a GPU, torch and transformers, but no network.

    python benchmarks/gpu/pack.py $GLUE_DIR                   # the MiniLM encoder in bf16
    python benchmarks/gpu/pack.py $GLUE_DIR --encoder FOLDER  # a larger one, in parts of at most 52 MiB
    python benchmarks/gpu/pack.py --join /tmp/parts           # there, once all parts have arrived

It then holds wheels of this package and of what it needs beside transformers, GLUE's files, and an encoder, and
`runs/slices` holds slices of the training splits. All that and the repository is to be copied there. An encoder too
large for one transfer comes as .gpu/parts/part-1, part-2, …: each transfer carries one, with the files beside them, and
copies it to a folder that stays; after the last one they are joined to .gpu/encoder-bf16.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import planes
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
TARGET = ROOT / ".gpu"
PARTS = TARGET / "parts"
WEIGHTS = "model.safetensors"
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
    from studies import slices

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
    weights = load_file(source / WEIGHTS)
    rounded = {name: item.bfloat16() if item.is_floating_point() else item for name, item in weights.items()}
    save_file(rounded, target / WEIGHTS, metadata={"format": "pt"})


def pack_encoder(source: Path, target: Path) -> None:
    """An encoder's folder, its weights rounded to bf16 and split into parts."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.suffix in (".json", ".txt"):
            shutil.copy(path, target / path.name)
    weights = {name: item.bfloat16() for name, item in load_file(source / WEIGHTS).items() if item.is_floating_point()}
    sizes = []
    for part in planes.write_parts(weights, target):
        sizes.append(sum(path.stat().st_size for path in part.iterdir()))
        print(f"{part}: {sizes[-1] / 2**20:.1f} MiB")
    print(f"{sum(sizes) / sum(item.numel() for item in weights.values()):.2f} bytes a parameter")


def join_encoder(source: Path, target: Path) -> None:
    """The encoder's folder again, checked bit by bit."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            shutil.copy(path, target / path.name)
    save_file(planes.join_parts(source), target / WEIGHTS, metadata={"format": "pt"})
    print(f"{target}: joined and verified")


def main() -> None:
    """Packs everything anew, or joins what was packed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, nargs="?", help="folder with GLUE's TSV files")
    parser.add_argument("--encoder", type=Path, help="folder of an encoder with safetensors; default: MiniLM")
    parser.add_argument("--join", type=Path, metavar="FOLDER", help="join the parts of an encoder")
    options = parser.parse_args()
    if options.join:
        join_encoder(options.join, TARGET / "encoder-bf16")
        return
    if options.glue is None:
        parser.error("give the folder with GLUE's TSV files")
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir()
    pack_wheels(TARGET / "wheels")
    pack_data(options.glue, TARGET / "glue")
    if options.encoder is None:
        pack_minilm(TARGET / "minilm-bf16")
    else:
        pack_encoder(options.encoder, PARTS)
    size = sum(path.stat().st_size for path in TARGET.rglob("*") if path.is_file())
    print(f"{TARGET}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
