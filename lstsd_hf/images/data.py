"""Loading pictures: CIFAR's own files, IDX files, scikit-learn's digits, the hub, and folders of one's own."""

import codecs
import gzip
import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset

from ..errors import InputError
from ..files import replacing
from .tasks import OWN, ROW, SOURCES, ImageTask

HUB = "hub"
FASHION_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
FASHION_NAMES += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
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
    first, rows = 0, {}
    for split, (pixels, labels) in (("train", train), ("validation", validation)):
        if len(pixels) != len(labels) or not len(pixels):
            raise InputError(
                f"{name}, {split}: there must be a label for each picture and at least one, got {len(pixels)} pictures "
                f"and {len(labels)} labels."
            )
        if labels.min() < 0 or labels.max() >= len(label_names):
            raise InputError(
                f"{name}, {split}: labels must be from 0 to {len(label_names) - 1}, got {labels.min()} to "
                f"{labels.max()}."
            )
        places = list(range(first, first + len(pixels)))
        rows[split] = Dataset.from_dict({ROW: places, "label": labels.tolist()})
        first += len(pixels)
    task = ImageTask(name=name, label_names=tuple(label_names), **options)
    return LoadedImages(task, DatasetDict(rows), np.concatenate([train[0], validation[0]]), source)


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
            f"{source.hub} could not be loaded: {str(error).strip().splitlines()[0]} Ways on: connect to the internet, "
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


# ---- Folders of one's own ----


def load_folders(train_dir: str, validation_dir: str, image_size: int, cache: Path) -> LoadedImages:
    """Pictures in one folder for each class, in RGB and of one size; they are decoded once and kept in `cache`.

    Args:
        train_dir: Folder whose subfolders are the classes.
        validation_dir: The same for validation; it must have no other classes.
        image_size: Height and width in pixels to which pictures are resized.
        cache: Folder for the pixels.

    Raises:
        InputError: If a folder does not have that form, or a picture cannot be read.
    """
    classes = _class_folders(train_dir, "train_dir")
    others = [name for name in _class_folders(validation_dir, "validation_dir") if name not in classes]
    if others:
        raise InputError(
            f"`validation_dir` must have the classes of `train_dir`, got {others[0]!r} too. Remove it, or add it there."
        )
    parts = []
    for folder in (train_dir, validation_dir):
        files = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((Path(folder) / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not files:
            raise InputError(f"{folder} must contain pictures ({', '.join(SUFFIXES)}), found none.")
        pixels = _decoded([path for path, _ in files], image_size, cache)
        parts.append((pixels, np.array([label for _, label in files])))
    options = {"crop_padding": max(1, image_size // 8), "flip": OWN.flip}
    return _loaded("custom", *parts, classes, f"{train_dir}, {validation_dir}", options)


def _class_folders(folder: str, option: str) -> list[str]:
    if not Path(folder).is_dir():
        raise InputError(f"`{option}` must be a folder with one folder for each class, got {folder!r}: no folder.")
    names = sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))
    if option == "train_dir" and len(names) < 2:
        raise InputError(f"`{option}` must have at least two folders, one for each class, got {names} in {folder}.")
    return names


def _decoded(paths: Sequence[Path], size: int, cache: Path) -> np.ndarray:
    digest = hashlib.sha256(f"{size}".encode())
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    kept = cache / f"images-{digest.hexdigest()[:20]}.npy"
    if not kept.exists():
        pixels = np.stack([_read_picture(path, size) for path in paths])
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary, temporary.open("wb") as file:
            np.save(file, pixels)
    return np.load(kept, mmap_mode="r")


def _read_picture(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB").resize((size, size))).transpose(2, 0, 1)
    except OSError as error:
        raise InputError(f"{path} must be a picture, but it cannot be read: {error}. Replace or remove it.") from error
