"""Pictures from files in the official formats, from folders, and as the hub has them."""

import gzip
import os
import pickle
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from lstsd_hf.errors import InputError
from lstsd_hf.images.data import from_hub_splits, load_task
from lstsd_hf.images.folders import load_folders
from tests.images.helpers import make_pixels

NAMES_100 = [f"class {index}" for index in range(100)]


def write_cifar_python(folder, is_100):
    """CIFAR's Python form: pickled dictionaries with keys of bytes."""
    folder.mkdir()
    batches = ["train"] if is_100 else [f"data_batch_{number}" for number in range(1, 6)]
    parts = {}
    for seed, name in enumerate([*batches, "test" if is_100 else "test_batch"]):
        pixels, labels = make_pixels(4, size=32, seed=seed), [seed, 3, 2, 1]
        parts[name] = pixels, labels
        key = b"fine_labels" if is_100 else b"labels"
        content = {b"batch_label": b"", key: labels, b"data": pixels.reshape(4, 3072), b"filenames": [b"a"] * 4}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = [name.encode() for name in NAMES_100[: 100 if is_100 else 10]]
    meta = {b"fine_label_names" if is_100 else b"label_names": names}
    (folder / ("meta" if is_100 else "batches.meta")).write_bytes(pickle.dumps(meta, protocol=2))
    return parts


def write_cifar_binary(folder, is_100):
    folder.mkdir()
    batches = ["train"] if is_100 else [f"data_batch_{number}" for number in range(1, 6)]
    parts = {}
    for seed, name in enumerate([*batches, "test" if is_100 else "test_batch"]):
        pixels, labels = make_pixels(4, size=32, seed=seed), [seed, 3, 2, 1]
        parts[name] = pixels, labels
        records = b"".join(
            bytes([19, label] if is_100 else [label]) + picture.tobytes()
            for picture, label in zip(pixels, labels, strict=True)
        )
        (folder / f"{name}.bin").write_bytes(records)
    names = NAMES_100[: 100 if is_100 else 10]
    names_file = folder / ("fine_label_names.txt" if is_100 else "batches.meta.txt")
    names_file.write_text("\n".join(name.replace(" ", "_") for name in names) + "\n\n")
    return parts


@pytest.mark.parametrize("write", [write_cifar_python, write_cifar_binary])
@pytest.mark.parametrize("is_100", [True, False])
@pytest.mark.parametrize("is_inside", [True, False])
def test_cifar_in_its_official_forms(tmp_path, write, is_100, is_inside):
    folder = tmp_path / ("cifar-100-python" if is_100 else "cifar-10-batches-bin")
    parts = write(folder, is_100)
    loaded = load_task("cifar100" if is_100 else "cifar10", str(folder if is_inside else tmp_path))
    *training, test = parts.values()
    assert np.array_equal(loaded.pixels, np.concatenate([pixels for pixels, _ in [*training, test]]))
    assert loaded.splits["train"]["label"][:] == [label for _, labels in training for label in labels]
    assert loaded.splits["validation"]["label"][:] == test[1]
    assert loaded.splits["validation"]["row"][0] == len(loaded.pixels) - 4
    assert len(loaded.task.label_names) == (100 if is_100 else 10)
    assert loaded.task.label_names[3].replace("_", " ") == "class 3"
    assert (loaded.task.crop_padding, loaded.task.flip) == (4, True)


def write_idx(folder, suffix=""):
    folder.mkdir(exist_ok=True)
    parts = []
    for name, count in (("train", 6), ("t10k", 3)):
        pixels, labels = make_pixels(count, size=28, channels=1, seed=count)[:, 0], np.arange(count, dtype=np.uint8)
        images = struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes()
        for kind, content in (
            ("images-idx3", images),
            ("labels-idx1", struct.pack(">II", 0x801, count) + bytes(labels)),
        ):
            path = folder / f"{name}-{kind}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if suffix else content)
        parts.append(pixels)
    return parts


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_from_idx_files(tmp_path, suffix):
    parts = write_idx(tmp_path, suffix)
    loaded = load_task("fashion_mnist", str(tmp_path))
    assert np.array_equal(loaded.pixels[:, 0], np.concatenate(parts))
    assert loaded.splits["train"]["label"][:] == [0, 1, 2, 3, 4, 5]
    assert loaded.task.label_names[9] == "Ankle boot"


def test_digits_come_with_scikit_learn():
    loaded = load_task("digits", None)
    assert loaded.pixels.shape == (1797, 1, 8, 8)
    assert loaded.pixels.max() == 255
    assert len(loaded.splits["validation"]) == 360
    assert not {*loaded.splits["train"]["row"]} & {*loaded.splits["validation"]["row"]}
    assert len({*loaded.splits["train"]["label"]}) == 10


def test_a_data_set_of_the_hub():
    pixels = make_pixels(5, size=32)
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["a", "b"])})
    split = datasets.Dataset.from_dict(
        {"img": [Image.fromarray(picture.transpose(1, 2, 0)) for picture in pixels], "fine_label": [0, 1, 1, 0, 1]},
        features=features,
    )
    train, test, names = from_hub_splits({"train": split, "test": split.select([2])}, "img", "fine_label")
    assert np.array_equal(train[0], pixels)
    assert (test[0].shape, test[1].tolist(), names) == ((1, 3, 32, 32), [1], ["a", "b"])
    gray = datasets.Dataset.from_dict({"img": [Image.fromarray(pixels[0, 0])], "fine_label": [1]}, features=features)
    assert from_hub_splits({"train": gray, "test": gray}, "img", "fine_label")[0][0].shape == (1, 1, 32, 32)


def write_folders(root, classes=("ants", "bees"), count=3, seed=0):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture = make_pixels(1, size=10 + number, seed=seed + 10 * label + number)[0].transpose(1, 2, 0)
            Image.fromarray(picture).save(root / name / f"{number}.png")
    return str(root)


def test_folders_of_ones_own(tmp_path, monkeypatch):
    train, validation = write_folders(tmp_path / "train"), write_folders(tmp_path / "validation", count=1, seed=50)
    (tmp_path / "train" / "ants" / "notes.txt").write_text("no picture")
    loaded = load_folders(train, validation, 16, tmp_path / "cache")
    assert loaded.pixels.shape == (8, 3, 16, 16)
    assert isinstance(loaded.pixels, np.memmap)
    assert loaded.task.label_names == ("ants", "bees")
    assert loaded.splits["train"]["label"][:] == [0, 0, 0, 1, 1, 1]
    expected = Image.open(tmp_path / "train" / "bees" / "1.png").resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(loaded.pixels[4].transpose(1, 2, 0), np.asarray(expected))
    # The second time they are read from the cache.
    monkeypatch.setattr("lstsd_hf.images.folders._read_picture", None)
    assert np.array_equal(load_folders(train, validation, 16, tmp_path / "cache").pixels, loaded.pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation):
    """Also where another tag is odd: a width that is a text."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    write_folders(tmp_path / "train")
    validation = write_folders(tmp_path / "validation", count=1, seed=50)
    # Entries of a tag, a type (3: short, 2: text), a count and a value.
    upright = struct.pack("<HHIHxx", 0x0112, 3, 1, orientation)
    odd = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc")
    for number, entries in enumerate([[upright], [odd, upright]]):
        exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
        Image.fromarray(pixels).save(tmp_path / f"train/ants/{number}.png", exif=exif)
    loaded = load_folders(str(tmp_path / "train"), validation, 16, tmp_path / "cache")
    with Image.open(tmp_path / "train/ants/0.png") as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture)).transpose(2, 0, 1)
    assert np.array_equal(expected, pixels.transpose(2, 0, 1)) == (orientation == 1)
    assert np.array_equal(loaded.pixels[0], expected)
    assert np.array_equal(loaded.pixels[1], expected)


def test_linked_folders_are_looked_into(tmp_path):
    train, validation = write_folders(tmp_path / "train"), write_folders(tmp_path / "validation", count=1, seed=50)
    write_folders(tmp_path / "more", ["of them"], count=2, seed=90)
    (tmp_path / "train/ants/more").symlink_to(tmp_path / "more")
    (tmp_path / "train/ants/loop").symlink_to(tmp_path / "train/ants")
    assert len(load_folders(train, validation, 16, tmp_path / "cache").splits["train"]) == 8


def test_hidden_pictures_are_not_the_users(tmp_path):
    train, validation = write_folders(tmp_path / "train"), write_folders(tmp_path / "validation", count=1, seed=50)
    (tmp_path / "train" / "ants" / ".ipynb_checkpoints").mkdir()
    shutil.copy(tmp_path / "train" / "ants" / "1.png", tmp_path / "train" / "ants" / ".ipynb_checkpoints" / "1.png")
    (tmp_path / "train" / "ants" / "shots.png").mkdir()
    os.mkfifo(tmp_path / "train" / "ants" / "pipe.png")
    assert len(load_folders(train, validation, 16, tmp_path / "cache").splits["train"]) == 6


@pytest.mark.parametrize(("dtype", "name"), [(np.uint16, "deep.png"), (np.float32, "deep.tif"), (np.int32, "deep.tif")])
def test_pictures_of_more_than_8_bits_are_refused(tmp_path, dtype, name):
    train, validation = write_folders(tmp_path / "train"), write_folders(tmp_path / "validation", count=1, seed=50)
    path = tmp_path / "train" / "ants" / name
    Image.fromarray(np.full((10, 10), 300, dtype)).save(path)
    with pytest.raises(InputError) as error:
        load_folders(train, validation, 16, tmp_path / "cache")
    assert str(error.value).startswith(f"{path} must be a picture of 8 bits a channel, got one of more (mode ")


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("was-here"),)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "test").unlink(), "test must be there, found no such file"),
        (lambda folder: (folder / "train").write_bytes(b"\x80\x02}q"), "must be a file of the official archive"),
        (
            lambda folder: (folder / "train").write_bytes(pickle.dumps(Malicious())),
            "must be a file of the official archive: it asks for",
        ),
        (
            lambda folder: (folder / "test").write_bytes(pickle.dumps({b"fine_labels": [1]}, protocol=2)),
            "must have the entry 'data', found none",
        ),
        (
            lambda folder: (folder / "test").write_bytes(
                pickle.dumps({b"fine_labels": [100], b"data": np.zeros((1, 3072), np.uint8)}, protocol=2)
            ),
            "labels must be from 0 to 99, got 100 to 100",
        ),
        (
            lambda folder: (folder / "test").write_bytes(
                pickle.dumps({b"fine_labels": [1, 2], b"data": np.zeros((1, 3072), np.uint8)}, protocol=2)
            ),
            "got 1 pictures and 2 labels",
        ),
        (
            lambda folder: (folder / "test").write_bytes(
                pickle.dumps({b"fine_labels": [1], b"data": np.zeros((1, 3071), np.uint8)}, protocol=2)
            ),
            "`data` must be rows of 3072 bytes",
        ),
        (lambda folder: (folder / "meta").unlink(), "must contain meta or fine_label_names.txt"),
    ],
)
def test_what_is_wrong_with_cifars_files_is_said(tmp_path, monkeypatch, spoil, message):
    monkeypatch.chdir(tmp_path)
    write_cifar_python(tmp_path / "cifar", is_100=True)
    spoil(tmp_path / "cifar")
    with pytest.raises(InputError, match=message):
        load_task("cifar100", str(tmp_path / "cifar"))
    assert not Path("was-here").exists()


def test_a_cut_binary_or_idx_file_is_refused(tmp_path):
    write_cifar_binary(tmp_path / "cifar", is_100=False)
    whole = (tmp_path / "cifar" / "test_batch.bin").read_bytes()
    (tmp_path / "cifar" / "test_batch.bin").write_bytes(whole[:-1])
    with pytest.raises(InputError, match=f"must be records of 3073 bytes, got {len(whole) - 1} bytes"):
        load_task("cifar10", str(tmp_path / "cifar"))
    write_idx(tmp_path / "idx")
    path = tmp_path / "idx" / "t10k-images-idx3-ubyte"
    for content in (path.read_bytes()[:-1], b"", b"\x00\x00\x08\x01" + bytes(20)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="must be a whole IDX file of bytes with 3 dimensions"):
            load_task("fashion_mnist", str(tmp_path / "idx"))
    path.unlink()
    (tmp_path / "idx" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"much" * 99)[:-9])
    with pytest.raises(InputError, match="must be a whole gzip file"):
        load_task("fashion_mnist", str(tmp_path / "idx"))


def save_with_a_long_comment(path):
    comment = PngInfo()
    comment.add_text("comment", "x" * 3_000_000, zip=True)
    Image.new("RGB", (4, 4)).save(path, pnginfo=comment)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "`train_dir` must be a folder with one folder for each class"),
        (lambda root: write_folders(root / "train", ["ants"]), "`train_dir` must have at least two folders"),
        (
            lambda root: (write_folders(root / "train"), write_folders(root / "validation", ["ants", "wasps"])),
            "got 'wasps' too",
        ),
        (lambda root: (write_folders(root / "train"), (root / "validation").mkdir()), "must contain pictures"),
        (
            lambda root: (
                write_folders(root / "train"),
                write_folders(root / "validation"),
                (root / "train/c").mkdir(),
            ),
            r"Each class of `train_dir` must have pictures .* found none of 'c'",
        ),
        (
            lambda root: (
                write_folders(root / "train"),
                write_folders(root / "validation"),
                (root / "train" / "bees" / "2.png").write_bytes(b"not a picture"),
            ),
            "2.png must be a picture, but it cannot be read",
        ),
        (
            lambda root: (
                write_folders(root / "train"),
                write_folders(root / "validation"),
                (root / "train" / "bees" / "3.png").symlink_to("elsewhere.png"),
            ),
            r"3\.png must be a picture, but it is a link to elsewhere\.png, which does not exist",
        ),
        (
            lambda root: (
                write_folders(root / "train"),
                write_folders(root / "validation"),
                save_with_a_long_comment(root / "train" / "bees" / "2.png"),
            ),
            r"2\.png must be a picture, but it cannot be read: Decompressed data too large",
        ),
    ],
)
def test_what_is_wrong_with_folders_is_said(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(InputError, match=message):
        load_folders(str(tmp_path / "train"), str(tmp_path / "validation"), 16, tmp_path / "cache")


def test_an_unknown_task_or_place_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"`task` must be one of cifar100, .* got 'cifar'. Own data: `--train_dir`"):
        load_task("cifar", None)
    with pytest.raises(InputError, match="`data` must be hub or a folder"):
        load_task("cifar10", str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="must contain train-images-idx3-ubyte"):
        load_task("fashion_mnist", str(tmp_path / "empty"))
    # Offline, the hub is out of reach.
    with pytest.raises(InputError, match="uoft-cs/cifar100 could not be loaded"):
        load_task("cifar100", "hub")


def test_an_archive_is_unpacked_by_the_user(tmp_path):
    """As `tar xf` leaves it."""
    write_cifar_python(tmp_path / "cifar-100-python", is_100=True)
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-100-python", "cifar-100-python")
    (tmp_path / "unpacked").mkdir()
    # The first releases of Python 3.11 have no safe `extractall`, and later ones warn of the other.
    subprocess.run(["tar", "xf", tmp_path / "cifar-100-python.tar.gz", "-C", tmp_path / "unpacked"], check=True)
    assert len(load_task("cifar100", str(tmp_path / "unpacked")).splits["train"]) == 4
