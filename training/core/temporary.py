"""Folders under a temporary name, and folders that appear whole or not at all.

A temporary folder is locked (flock) by the process that writes it, so that the next one can delete
what a killed process left behind. A folder that is replaced is set aside until the new one is
there; if a kill comes in between, the next process puts it back.
"""

import fcntl
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.core.files import fsync, naming, rename


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
    """Yield (new folder, folder for notes); the first replaces `path` afterwards, as a whole.

    If the block raises or the process is killed, both are kept and the next call with the same
    `key` gets them as they are. A second process at the same time gets empty ones.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _put_back(path)
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
        _replace(path, new)
    else:
        rename(new, path)


def _replace(path: Path, new: Path) -> None:
    """Set the folder `path` aside, put `new` in its place, then delete the old one."""
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex}.old")
    descriptor = _locked(path)  # until the end, so that no other process puts the old one back
    try:
        rename(path, old)
        try:
            rename(new, path)
        except OSError:
            rename(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _put_back(path: Path) -> None:
    """Finish what a killed process began: the old folder returns, unless the new one is there."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}\.old")
    for old in path.parent.iterdir() if path.parent.is_dir() else ():
        if name.fullmatch(old.name) and (descriptor := _locked(old)) is not None:
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                rename(old, path)
            os.close(descriptor)


def check_free(path: Path) -> None:
    """Raise ValueError unless `path` can become a folder without replacing anything."""
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise ValueError(f"{path} exists and would be replaced; name a new folder, or delete it")
    if path.resolve() == Path.cwd():
        raise ValueError(f"{path} is the working folder; name a new folder in it")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path`, as a whole, if the block does not raise."""
    _put_back(path)
    with temporary_folder(path.parent, f".{path.name}.") as folder, naming(path):
        yield folder
        _publish(folder, path)
