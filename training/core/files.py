"""Atomic file writes: write under a temporary name, fsync, rename, fsync the folder."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:")  # control characters, Windows' paths
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


def check_name(name: Any) -> str:
    """`name` if it is the relative POSIX path of a file that stays below its folder.

    Raises ValueError for absolute paths, empty parts, `.` and `..`, backslashes, drive letters,
    control characters, text that is not UTF-8 and anything but text.
    """
    if not isinstance(name, str) or {"", ".", ".."} & set(name.split("/")) or _UNSAFE.search(name):
        raise ValueError(f"{name!r}: not the relative name of a file below its folder")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r}: not UTF-8") from error
    return name


def inside(folder: Path, name: Any) -> Path:
    """`folder / name`; ValueError for a name that leads out of the folder, also through links."""
    path = folder / check_name(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path}: a link leads out of {folder}")
    return path


def unusual(folder: Path) -> dict[str, str]:
    """Name -> kind of what is neither a regular file nor a folder with entries: links, for example.

    Links are not followed. Raises OSError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found = {}
    for parent, folders, files in os.walk(folder, onerror=refuse):
        for path in (Path(parent, name) for name in (*folders, *files)):
            mode, name = path.lstat().st_mode, path.relative_to(folder).as_posix()
            if stat.S_ISLNK(mode):
                found[name] = "a link"
            elif stat.S_ISDIR(mode) and not any(path.iterdir()):
                found[name] = "an empty folder"
            elif not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                found[name] = "a special file"
    return found


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
    """Write a file atomically; a reader sees either the old bytes or the new ones."""
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


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that atomically replaces `path` if the block does not raise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        with naming(path):
            yield temporary
            for entry in sorted(temporary.rglob("*")):
                fsync(entry)
            fsync(temporary)
        temporary.chmod(0o777 & ~_umask())  # not mkdtemp's 0700: other users may have to read it
        if path.exists():
            shutil.rmtree(path)
        rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
