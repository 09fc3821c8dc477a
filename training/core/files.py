"""Digests, JSON and atomic writes: write a temporary name, fsync, rename, fsync the folder."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def canonical_json(value: Any) -> bytes:
    """Canonical JSON bytes of `value`, for digests: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of the file's bytes, read once, in bounded memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Push a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Replace `target` by `source` atomically and durably."""
    source.replace(target)
    fsync(target.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; a reader sees either the old bytes or the new ones.

    An OSError names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            temporary.write_bytes(data)
            fsync(temporary)
            rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in a disk's error, such as a full one's, of a block that names no file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; ValueError for NaN and infinities."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises ValueError with the path where it is not valid JSON."""
    return parse_json(path.read_bytes(), path)


def parse_json(text: bytes | str, where: object) -> Any:
    """Parse JSON. Raises ValueError with `where`, the text's place, if it is not valid JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deeply; delete it and run again") from error
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({error}); delete it and run again") from error
