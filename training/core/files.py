"""Atomic file writes: write under a temporary name, fsync, rename, fsync the folder."""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LISTED = 3  # names in a message


def canonical_json(value: Any) -> bytes:
    """Canonical JSON bytes of `value`, for digests: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of the file's bytes, read once, in bounded memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def plain_files(root: Path, outside: bool = False) -> dict[str, int]:
    """Sizes of all files below `root` by relative POSIX name, sorted; no file is opened.

    Links to files are followed, those out of `root` only with `outside`. Raises ValueError with the
    names and the number of all other entries: FIFOs, devices, sockets, links to folders or nothing,
    names that are not UTF-8 or have a backslash.
    """
    root = Path(os.path.realpath(root))  # Path.resolve raises RuntimeError for a loop of links
    sizes: dict[str, int] = {}
    refused: list[str] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")
                elif fault := _name_fault(name) or _fault(entry, root, outside):
                    shown = name if name.isprintable() else repr(name)
                    refused.append(f"{shown} {fault}")
                else:
                    sizes[name] = entry.stat().st_size
    if refused:
        more = f"; and {len(refused) - LISTED} more" if len(refused) > LISTED else ""
        raise ValueError(
            f"{root}: {len(refused)} of its entries cannot be used: "
            f"{'; '.join(sorted(refused)[:LISTED])}{more}; "
            "put the files themselves there, or remove these entries"
        )
    return dict(sorted(sizes.items()))


def _name_fault(name: str) -> str:
    if "\\" in name:
        return "has a backslash in its name; rename it"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8; rename it"
    return ""


def _fault(entry: os.DirEntry[str], root: Path, outside: bool) -> str:
    """Why an entry that is no folder is not used, "" for a file."""
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        return f"is a link to nothing ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "is a link to a folder"
    if stat.S_ISFIFO(mode):
        return "is a FIFO"
    if not stat.S_ISREG(mode):
        return "is a socket" if stat.S_ISSOCK(mode) else "is a device"
    if outside or not entry.is_symlink():
        return ""
    inside = Path(os.path.realpath(entry.path)).is_relative_to(root)
    return "" if inside else "points outside the folder"


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
        temporary.write_bytes(data)
        fsync(temporary)
        rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; ValueError for NaN and infinities."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises ValueError with the path where it is not valid JSON."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete it and run again") from error


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
