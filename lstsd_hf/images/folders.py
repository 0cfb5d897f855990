"""Pictures of one's own, in folders."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import replacing
from .data import LoadedImages, with_rows
from .tasks import OWN

# Modes with more than 8 bits a channel; those with 16 bits begin with "I;16".
DEEP_MODES = ("I", "F")
# How a picture is turned upright, by the Exif tag that says how the camera was held.
ORIENTATION = 0x0112
TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM"}
TURNS |= {5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


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
    paths, labels_of = [], {}
    for split, folder in (("train", train_dir), ("validation", validation_dir)):
        found = [_pictures_in(Path(folder) / name) for name in classes]
        if not any(found):
            raise InputError(f"{folder} must contain pictures ({', '.join(SUFFIXES)}), found none.")
        empty = [name for name, files in zip(classes, found, strict=True) if not files]
        if empty and split == "train":
            raise InputError(
                f"Each class of `train_dir` must have pictures ({', '.join(SUFFIXES)}), found none of {empty[0]!r} in "
                f"{folder}. Add some, or remove the folder."
            )
        paths += [path for files in found for path in files]
        labels_of[split] = np.repeat(np.arange(len(classes)), [len(files) for files in found])
    options = {"crop_padding": max(1, image_size // 8), "flip": OWN.flip, "image_size": image_size}
    pixels = _decoded(paths, image_size, cache)
    return with_rows("custom", pixels, labels_of, classes, f"{train_dir}, {validation_dir}", options)


def _pictures_in(folder: Path) -> list[Path]:
    """Hidden files and folders, such as a notebook's checkpoints, are none of the user's pictures."""
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # by a link
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(root, name) for name in names if not name.startswith(".")]
        pictures = [path for path in paths if path.suffix.lower() in SUFFIXES]
        found += [path for path in pictures if path.is_file() or not path.exists()]
    found.sort()
    for path in found:
        if not path.exists():
            raise InputError(
                f"{path} must be a picture, but it is a link to {path.readlink()}, which does not exist. Replace or "
                "remove it."
            )
    return found


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
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary:
            pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(paths), 3, size, size))
            for row, path in enumerate(paths):
                pixels[row] = _read_picture(path, size)
            pixels.flush()
    return np.load(kept, mmap_mode="r")


def _read_picture(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.mode in DEEP_MODES or picture.mode.startswith("I;16"):
                raise InputError(
                    f"{path} must be a picture of 8 bits a channel, got one of more (mode {picture.mode}), which would "
                    "be cut off. Convert it to 8 bits."
                )
            # Turned as cameras and pipelines do, by this one tag: Pillow's `exif_transpose` writes all of them anew,
            # which fails where another is odd. Resized as `image_processor` says.
            turn = TURNS.get(picture.getexif().get(ORIENTATION))
            upright = (picture if turn is None else picture.transpose(Image.Transpose[turn])).convert("RGB")
            return np.asarray(upright.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} must be a picture, but it cannot be read: {error}. Replace or remove it.") from error
