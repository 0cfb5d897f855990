"""Loading data sets of pictures by name: CIFAR's own files, IDX files, scikit-learn's digits, and the hub."""

import codecs
import gzip
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset

from ..errors import InputError, first_line
from .tasks import ROW, SOURCES, ImageTask

HUB = "hub"
FASHION_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
FASHION_NAMES += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR_SHAPE = (3, 32, 32)
DIGITS_HELD_OUT = 360


@dataclass(frozen=True)
class LoadedImages:
    """A task with its pictures.

    Attributes:
        task: The task.
        splits: `train` and `validation`, with the columns `row` and `label`.
        pixels: All pictures, uint8 `(num_pictures, num_channels, height, width)`; `row` is a place in it.
        source: What kind of place they came from.
    """

    task: ImageTask
    splits: DatasetDict
    pixels: np.ndarray
    source: str


# Pictures uint8 `(num_pictures, num_channels, height, width)` and their class indices.
Part = tuple[np.ndarray, np.ndarray]


def load_task(name: str, data: str | None) -> LoadedImages:
    """A data set of pictures by name; its test split is the split `validation`.

    Args:
        name: One of `SOURCES`.
        data: "hub", or a folder with the data set's own files; by default the files that a package of the system has
            installed, or else the hub.

    Raises:
        InputError: If there is no such task, or its data cannot be had or are malformed.
    """
    if name not in SOURCES:
        raise InputError(f"`task` must be one of {', '.join(SOURCES)}, got {name!r}. Own data: `--train_dir`.")
    source = SOURCES[name]
    options = {"crop_padding": source.crop_padding, "flip": source.flip}
    if name == "digits":
        return _loaded(name, *_digits(), "scikit-learn", options)
    if data is None:
        data = source.folder if source.folder and Path(source.folder).is_dir() else HUB
    if data == HUB:
        return _loaded(name, *_from_hub(name), HUB, options)
    folder = Path(data)
    if not folder.is_dir():
        raise InputError(f"`data` must be {HUB} or a folder, got {data!r}, which is no folder.")
    parts = _idx(folder) if name == "fashion_mnist" else _cifar(folder, name)
    return _loaded(name, *parts, "files", options)


def _loaded(
    name: str, train: Part, validation: Part, label_names: Sequence[str], source: str, options: dict[str, Any]
) -> LoadedImages:
    parts = {"train": train, "validation": validation}
    for split, (pixels, labels) in parts.items():
        if len(pixels) != len(labels) or not len(pixels):
            raise InputError(
                f"{name}, {split}: there must be a label for each picture and at least one, got {len(pixels)} pictures "
                f"and {len(labels)} labels."
            )
    if train[0].shape[1:] != validation[0].shape[1:]:
        raise InputError(
            f"{name}: pictures of both splits must have one shape, got {train[0].shape[1:]} and "
            f"{validation[0].shape[1:]} (channels, height, width)."
        )
    labels_of = {split: part[1] for split, part in parts.items()}
    return with_rows(name, np.concatenate([train[0], validation[0]]), labels_of, label_names, source, options)


def with_rows(
    name: str,
    pixels: np.ndarray,
    labels_of: dict[str, np.ndarray],
    label_names: Sequence[str],
    source: str,
    options: dict[str, Any],
) -> LoadedImages:
    """A task whose pictures lie one split after the other.

    Args:
        name: Its name.
        pixels: All pictures.
        labels_of: The class indices of each split, in the order of the pictures.
        label_names: Names of the classes.
        source: What kind of place they came from.
        options: Of `ImageTask`.

    Raises:
        InputError: If a label is no class.
    """
    first, rows = 0, {}
    for split, labels in labels_of.items():
        if labels.min() < 0 or labels.max() >= len(label_names):
            raise InputError(
                f"{name}, {split}: labels must be from 0 to {len(label_names) - 1}, got {labels.min()} to "
                f"{labels.max()}."
            )
        places = list(range(first, first + len(labels)))
        rows[split] = Dataset.from_dict({ROW: places, "label": labels.tolist()})
        first += len(labels)
    task = ImageTask(name=name, label_names=tuple(label_names), **options)
    return LoadedImages(task, DatasetDict(rows), pixels, source)


def _digits() -> tuple[Part, Part, Sequence[str]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(pixels))
    parts = order[DIGITS_HELD_OUT:], order[:DIGITS_HELD_OUT]
    train, validation = ((pixels[part], digits.target[part]) for part in parts)
    return train, validation, [str(name) for name in digits.target_names]


# ---- The hub ----


def _from_hub(name: str) -> tuple[Part, Part, Sequence[str]]:
    source = SOURCES[name]
    try:
        splits = load_dataset(source.hub)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source.hub} could not be loaded: {first_line(error)} Ways on: connect to the internet, "
            f"or give a folder with the files of {name} as --data."
        ) from error
    return from_hub_splits(splits, *source.hub_columns)


def from_hub_splits(splits: Any, image: str, label: str) -> tuple[Part, Part, Sequence[str]]:
    """The splits `train` and `test` of a data set on the hub whose pictures are of one size.

    Args:
        splits: The data set.
        image: Column of the pictures.
        label: Column of the labels.
    """
    names = splits["train"].features[label].names
    train, test = ((_stacked(splits[part][image]), np.array(splits[part][label])) for part in ("train", "test"))
    return train, test, names


def _stacked(pictures: Any) -> np.ndarray:
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    return np.ascontiguousarray(arrays[:, None] if arrays.ndim == 3 else arrays.transpose(0, 3, 1, 2))


# ---- Files ----


def _idx(folder: Path) -> tuple[Part, Part, Sequence[str]]:
    parts = []
    for prefix in ("train", "t10k"):
        pixels = _idx_array(_idx_file(folder, f"{prefix}-images-idx3-ubyte"), dimensions=3)
        parts.append((pixels[:, None], _idx_array(_idx_file(folder, f"{prefix}-labels-idx1-ubyte"), dimensions=1)))
    return parts[0], parts[1], FASHION_NAMES


def _idx_file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{folder} must contain {name} or {name}.gz, found neither. Give the folder with IDX files.")


def _idx_array(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an IDX file: a magic number, the sizes as big-endian integers, then the values."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise InputError(f"{path} must be a whole gzip file: {error}. Download it again.") from error
    start = 4 * (dimensions + 1)
    sizes = np.frombuffer(content, ">u4", offset=4, count=dimensions) if len(content) >= start else np.zeros(1, int)
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != start + int(np.prod(sizes)):
        raise InputError(
            f"{path} must be a whole IDX file of bytes with {dimensions} dimensions, got {len(content)} bytes that "
            f"begin with {content[:4].hex()}. Download it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _cifar(folder: Path, name: str) -> tuple[Part, Part, Sequence[str]]:
    """CIFAR in its official form, the Python or the binary one, in a folder or one level below."""
    is_100 = name == "cifar100"
    files = {
        True: {"train": ["train"], "test": ["test"], "meta": "meta"},
        False: {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"], "meta": "batches.meta"},
    }[is_100]
    names_file = "fine_label_names.txt" if is_100 else "batches.meta.txt"
    below = "cifar-100" if is_100 else "cifar-10-batches"
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and path.name.startswith(below))]
    for place in places:
        if (place / files["meta"]).is_file():
            meta = _unpickled(place / files["meta"])
            names = [text.decode() for text in _entry(meta, b"fine_label_names" if is_100 else b"label_names", place)]
            parts = [
                _joined([_python_part(place / file, is_100) for file in files[part]]) for part in ("train", "test")
            ]
            return parts[0], parts[1], names
        if (place / names_file).is_file():
            names = (place / names_file).read_text().split()
            parts = [
                _joined([_binary_part(place / f"{file}.bin", is_100) for file in files[part]])
                for part in ("train", "test")
            ]
            return parts[0], parts[1], names
    raise InputError(
        f"{folder} must contain {files['meta']} or {names_file}, as the official {name} archives do when unpacked, "
        "found neither. Give that folder, or the one that it lies in."
    )


def _joined(parts: Sequence[Part]) -> Part:
    return np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])


def _python_part(path: Path, is_100: bool) -> Part:
    content = _unpickled(path)
    pixels = np.asarray(_entry(content, b"data", path))
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != np.prod(CIFAR_SHAPE):
        raise InputError(f"{path}: `data` must be rows of 3072 bytes, got {pixels.dtype} of shape {pixels.shape}.")
    return pixels.reshape(-1, *CIFAR_SHAPE), np.array(_entry(content, b"fine_labels" if is_100 else b"labels", path))


def _entry(content: Any, key: bytes, path: Path) -> Any:
    if not isinstance(content, dict) or key not in content:
        raise InputError(f"{path} must have the entry {key.decode()!r}, found none. Download it again.")
    return content[key]


def _binary_part(path: Path, is_100: bool) -> Part:
    if not path.is_file():
        raise InputError(f"{path} must be there, found no such file. Unpack the archive again.")
    labels = 2 if is_100 else 1  # the coarse one first
    length = labels + int(np.prod(CIFAR_SHAPE))
    content = np.fromfile(path, np.uint8)
    if len(content) % length:
        raise InputError(f"{path} must be records of {length} bytes, got {len(content)} bytes. Download it again.")
    records = content.reshape(-1, length)
    return records[:, labels:].reshape(-1, *CIFAR_SHAPE), records[:, labels - 1].astype(np.int64)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays and plain values, and runs nothing else that a file may ask for."""

    def find_class(self, module: str, name: str) -> Callable:
        # By name alone: numpy's modules have moved since the files were written.
        known = {"_reconstruct": np._core.multiarray._reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module.partition(".")[0] == "numpy" and name in known:
            return known[name]
        # Bytes, as Python 3 writes them for Python 2.
        if (module, name) in (("_codecs", "encode"), ("__builtin__", "bytes")):
            return codecs.encode if name == "encode" else bytes
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _unpickled(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} must be there, found no such file. Unpack the archive again.")
    try:
        return _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{path} must be a file of the official archive: {error}. Download it again.") from error
