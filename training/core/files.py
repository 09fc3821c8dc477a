"""Atomic file writes: write under a temporary name, fsync, rename, fsync the folder.

A temporary folder is locked (flock) by the process that writes it, so that the next one can delete
what a killed process left behind.
"""

import errno
import fcntl
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


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _locked(folder: Path, wait: bool = False) -> int | None:
    """A descriptor that holds the lock of a folder of this user.

    None: another process holds it, the folder is gone, or this file system has no such locks.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if folder.exists() and folder.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _clear(parent: Path, prefix: str, suffix: str) -> None:
    """Delete the folders of this name whose process has ended."""
    for left in parent.iterdir():
        named = left.name.startswith(prefix) and left.name.endswith(suffix)
        if named and (descriptor := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)


@contextmanager
def temporary_folder(
    parent: Path | None = None, prefix: str = "stargan-", suffix: str = ".tmp"
) -> Iterator[Path]:
    """An empty folder, deleted afterwards, in `parent` (default: the system's temporary folder).

    Folders of the same prefix and suffix that killed processes left in `parent` are deleted.
    """
    parent = parent or Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    _clear(parent, prefix, suffix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))
        descriptor = _locked(folder, wait=True)
        if folder.exists():  # else another process cleared it before it was locked
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def kept_folder(path: Path, key: str) -> Iterator[tuple[Path, Path]]:
    """Yield (new folder, folder for notes); the first atomically replaces `path` afterwards.

    If the block raises or the process is killed, both are kept and the next call with the same
    `key` gets them as they are. A second process at the same time gets empty ones.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.{key}.part")
    work.mkdir(mode=0o700, exist_ok=True)
    descriptor = _locked(work)
    if descriptor is None:
        with temporary_folder(path.parent, f".{path.name}.") as own:
            yield from _filled(own, path)
        return
    try:
        _clear(path.parent, f".{path.name}.", ".tmp")
        yield from _filled(work, path)
        shutil.rmtree(work, ignore_errors=True)
        _clear(path.parent, f".{path.name}.", ".part")
    finally:
        os.close(descriptor)


def _filled(work: Path, path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield two folders in `work`; the first replaces `path`, all on the disk before."""
    new, notes = work / "new", work / "notes"
    new.mkdir(exist_ok=True)
    notes.mkdir(exist_ok=True)
    yield new, notes
    _publish(new, path)


def _publish(new: Path, path: Path) -> None:
    for entry in sorted(new.rglob("*")):
        fsync(entry)
    fsync(new)
    new.chmod(0o777 & ~_umask())  # not mkdtemp's 0700: other users may have to read it
    if path.exists():
        shutil.rmtree(path)
    rename(new, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that atomically replaces `path` if the block does not raise."""
    with temporary_folder(path.parent, f".{path.name}.") as folder, naming(path):
        yield folder
        _publish(folder, path)
