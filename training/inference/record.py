"""What a translation of several pictures has done: a CSV beside the results, by which it resumes.

A row is appended in one write, before its result appears under its name: a process that is killed
leaves no result without a row and a readable file, of which a line that was cut is dropped.
"""

import csv
import fcntl
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from training.core.files import sha256_file, write_bytes

NAME = "translate.csv"
LOCK = ".translate.lock"
FIX = "move it away, or name another folder"


@dataclass(frozen=True)
class Row:
    """One input: its result, or why there is none (`skipped`). Hashes are hex SHA-256."""

    input: str
    sha256: str  # of the input; "" if it was not read
    output: str  # below the record's folder; "" if the input has none
    output_sha256: str  # if `skipped`, of an earlier result
    version: str
    edit: str  # labels and options
    box: str  # LEFT,TOP,RIGHT,BOTTOM of the edited square, px; "" for the center and for videos
    seconds: str
    note: str
    skipped: str
    settings: str  # hash of everything but the input on which the result depends

    @property
    def key(self) -> str:
        return self.output or self.input


HEAD = [field.name for field in fields(Row)]


def plain(path: object) -> str:
    """A path or message on one line and in UTF-8, other characters as escapes."""
    text = str(path)
    return text if text.isprintable() else repr(text)[1:-1]


class Record:
    """The rows of `folder`/translate.csv; a later row of an output replaces the earlier one.

    Raises ValueError for a file of that name that is no such record.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.rows: dict[str, Row] = {}
        self._appendable = False
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            head, *rows = csv.reader(io.StringIO(whole.decode(), newline=""), strict=True)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{self.path}: not a record of translate ({error}); {FIX}") from error
        if head != HEAD or any(len(row) != len(HEAD) for row in rows):
            raise ValueError(f"{self.path}: its columns are not those of a record; {FIX}")
        self.rows = {row.key: row for row in (Row(*values) for values in rows)}
        self._appendable = whole == data

    def knows(self, output: str) -> bool:
        """Whether the file `output`, a relative name, is a result of translate."""
        return bool(self.made(output))

    def made(self, output: str) -> str:
        """Hex SHA-256 of the last result `output`; "" if none was made yet."""
        row = self.rows.get(plain(output))
        return row.output_sha256 if row else ""

    def done(self, output: str, sha256: str, settings: str) -> bool:
        """Whether `output` was made of this input with these settings, and is still whole."""
        row, path = self.rows.get(plain(output)), self.path.parent / output
        return (
            row is not None
            and not row.skipped
            and (row.sha256, row.settings) == (sha256, settings)
            and path.is_file()
            and sha256_file(path) == row.output_sha256
        )

    def add(self, row: Row) -> None:
        """Append a row; it is on the disk when this returns."""
        self.rows[row.key] = row
        if not self._appendable:
            self.save()
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, _text([astuple(row)]))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def save(self) -> None:
        """Write the file anew, with one row for each output."""
        write_bytes(self.path, _text([HEAD, *map(astuple, self.rows.values())]))
        self._appendable = True


def _text(rows: Iterable[Sequence[str]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([[plain(v) for v in row] for row in rows])
    return out.getvalue().encode()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder and lock a file in it (flock), which stays.

    Raises ValueError if another process holds the lock, or if the file system has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK  # NFS locks no folder, and no file that is open to read only
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder}: another translate writes there; wait for it, or name another folder"
            ) from error
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be locked ({error.strerror}); mount that file system with locks, "
                "or name a folder on a local disk and copy the results"
            ) from error
        yield
    finally:
        os.close(descriptor)
