"""Files that are written whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

# Files of a saved model: weights, config, tokenizer.
_OF_A_MODEL = ("*.safetensors", "*.bin", "config.json", "tokenizer*", "vocab*", "merges.txt", "*.model")
_OF_A_MODEL += ("preprocessor_config.json",)
_OF_A_RUN = ("training_args.bin",)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed to `path` if the block succeeds, else removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether it is a temporary path of `replacing`, which a killed process leaves behind."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new temporary folder beside `path` to fill; renamed to `path` if the block succeeds, else removed.

    Where another process has made `path` in the meantime, its folder stays.

    Raises:
        OSError: If the folder could not be renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        with suppress(OSError):
            temporary.rename(path)
        if not path.exists():
            raise OSError(f"{temporary} could not be renamed to {path}.")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def file_checksum(path: Path) -> str:
    """A checksum of a file's content, several times as fast as a digest: it tells damage, not forgery."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def saved_model_digest(path: Path) -> str | None:
    """A short digest of a file, or of what a model is loaded from in a folder; notes and submissions may come and go.

    Args:
        path: A file or folder; `None` is the digest of anything else, such as a name on the hub.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for pattern in _OF_A_MODEL for file in path.glob(pattern) if file.name not in _OF_A_RUN)
    digests = [file_digest(file) for file in files if file.is_file()]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:10] if digests else None
