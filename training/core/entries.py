"""Names and entries of folders that others can write: which may become paths, which are files."""

import os
import re
import stat
from pathlib import Path
from typing import Any

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:")  # control characters, Windows' paths
LISTED = 3  # names in a message


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
                elif fault := _name_fault(name) or entry_fault(entry, root, outside):
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


def entry_fault(entry: os.DirEntry[str], root: Path, outside: bool) -> str:
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
