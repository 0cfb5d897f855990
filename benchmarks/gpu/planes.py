"""Weights in bf16 as two planes, which compress without loss to about 1.4 bytes a parameter, and parts that can travel.

A bf16 number is a sign, 8 bits of exponent and 7 of mantissa. In trained weights the exponents take few values: as a
plane of their own they compress well, while signs and mantissas do not and are kept as they are.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MAX_PART = 52 * 2**20
MANIFEST = "manifest.json"


def split_planes(weights: Tensor) -> tuple[bytes, bytes]:
    """The exponents, compressed, and the signs and mantissas of bf16 weights."""
    bits = weights.contiguous().view(torch.int16).numpy().view(np.uint16).ravel()
    exponents = ((bits >> 7) & 0xFF).astype(np.uint8)
    rest = (((bits >> 8) & 0x80) | (bits & 0x7F)).astype(np.uint8)
    packer = zlib.compressobj(level=9, strategy=zlib.Z_HUFFMAN_ONLY)
    return packer.compress(exponents.tobytes()) + packer.flush(), rest.tobytes()


def join_planes(exponents: bytes, rest: bytes, shape: Sequence[int]) -> Tensor:
    """The bf16 weights of two planes."""
    high = np.frombuffer(zlib.decompress(exponents), np.uint8).astype(np.uint16)
    low = np.frombuffer(rest, np.uint8).astype(np.uint16)
    bits = (low & 0x80) << 8 | high << 7 | low & 0x7F
    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16).reshape(tuple(shape))


def digest(weights: Mapping[str, Tensor]) -> str:
    """Of names, shapes and bits."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(f"{name} {tuple(weights[name].shape)}".encode())
        sha.update(weights[name].contiguous().view(torch.int16).numpy().tobytes())
    return sha.hexdigest()


def write_parts(weights: Mapping[str, Tensor], folder: Path, max_part: int = MAX_PART) -> list[Path]:
    """Writes bf16 weights as folders `part-1`, `part-2`, … of at most `max_part` bytes, and a manifest in the first.

    Args:
        weights: Tensors in bf16, by name.
        folder: Where the parts go.
        max_part: Bytes of a part.
    """
    blob, entries = bytearray(), []
    for name, tensor in weights.items():
        planes = split_planes(tensor)
        entries.append({"name": name, "shape": list(tensor.shape), "sizes": [len(plane) for plane in planes]})
        blob += b"".join(planes)
    manifest = json.dumps({"tensors": entries, "sha256": digest(weights)}).encode()
    room = max_part - len(manifest)
    parts = []
    for number, start in enumerate(range(0, len(blob), room), 1):
        part = folder / f"part-{number}"
        part.mkdir(parents=True)
        (part / "planes").write_bytes(blob[start : start + room])
        parts.append(part)
    (parts[0] / MANIFEST).write_bytes(manifest)
    return parts


def join_parts(folder: Path) -> dict[str, Tensor]:
    """The weights in all parts of a folder.

    Raises:
        ValueError: If they are not, bit for bit, those that were written.
    """
    manifest = json.loads((folder / "part-1" / MANIFEST).read_text())
    parts = sorted(folder.glob("part-*"), key=lambda path: int(path.name.removeprefix("part-")))
    blob = b"".join((part / "planes").read_bytes() for part in parts)
    weights, position = {}, 0
    for entry in manifest["tensors"]:
        planes = []
        for size in entry["sizes"]:
            planes.append(blob[position : position + size])
            position += size
        if len(planes[-1]) < entry["sizes"][-1]:
            raise ValueError(f"{folder} must hold all parts, but ends within {entry['name']}. Transfer the others.")
        weights[entry["name"]] = join_planes(*planes, entry["shape"])
    if digest(weights) != manifest["sha256"]:
        raise ValueError(f"The weights in {folder} differ from those that were written. Transfer the parts again.")
    return weights
