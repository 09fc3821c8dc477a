"""A write-ahead log: records wait on disk, in order, until delivered; one line of JSON each."""

import json
import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from training.core.files import write_bytes

# Keys of a record by its kind, with their types; all have a time.
KINDS: dict[str, dict[str, type]] = {
    "metrics": {"step": int, "values": dict},
    "image": {"step": int, "key": str, "file": str},
    "artifact": {"name": str, "folder": str, "file": str},
    "status": {"status": str},
}


class Journal:
    """`journal.jsonl` in a folder, with the number of bytes delivered in a file beside it.

    Memory stays bounded during an outage of any length, and a killed process loses at most the
    line that it was writing. One process writes and sends, from any of its threads: it holds the
    folder's lock until `close`. What cannot be read is set aside in the folder when the journal is
    opened; `damage` says what and where.
    """

    def __init__(self, folder: Path, wait: float = 0.0) -> None:
        """Raises TimeoutError if another process holds the journal for `wait` seconds."""
        folder.mkdir(parents=True, exist_ok=True)
        self._owner = FileLock(folder / ".lock", timeout=wait, thread_local=False)
        try:
            self._owner.acquire()
        except Timeout as error:
            raise TimeoutError(f"{folder}: another process sends its records") from error
        self.folder = folder
        self.path, self._mark = folder / "journal.jsonl", folder / "delivered"
        self._lock = threading.Lock()
        self.damage: list[str] = []
        self._steps: dict[str, int] = {}
        content = self._without_torn_line()
        self._set_spoiled_aside(content)
        self.done = self._delivered(content)
        self._end = len(content)

    def close(self) -> None:
        """Leave the journal to the next process."""
        self._owner.release()

    def _without_torn_line(self) -> bytes:
        """The whole lines; a last one that a kill cut short is dropped."""
        self.path.touch()
        with self.path.open("r+b") as stream:
            content = stream.read()
            whole = content[: content.rfind(b"\n") + 1]
            stream.truncate(len(whole))
        return whole

    def _set_spoiled_aside(self, content: bytes) -> None:
        """Replace spoiled lines by blank ones of their length, so that all offsets stay right."""
        lines, spoiled = [line + b"\n" for line in content.split(b"\n")[:-1]], []
        for number, line in enumerate(lines):
            record = _record(line)
            if record is not None:
                self._count(record)
            elif line.strip():
                spoiled.append(line)
                lines[number] = b" " * (len(line) - 1) + b"\n"
        if spoiled:
            aside = self.folder / f"spoiled-{uuid.uuid4().hex[:8]}.jsonl"
            write_bytes(aside, b"".join(spoiled))
            write_bytes(self.path, b"".join(lines))
            self.damage.append(f"{len(spoiled)} unreadable lines were set aside in {aside}")

    def _delivered(self, content: bytes) -> int:
        """The bytes that were delivered; 0 if the mark is damaged, so that all are sent again."""
        if not self._mark.is_file():
            return 0
        try:
            done = int(self._mark.read_text())
        except ValueError:
            done = -1
        if done == 0 or (0 < done <= len(content) and content[done - 1 : done] == b"\n"):
            return done
        self.damage.append(f"{self._mark} is damaged: all records are sent again")
        return 0

    def _count(self, record: dict[str, Any]) -> None:
        keys = [f"image {record['key']}"] if "key" in record else record.get("values", ())
        for key in keys:
            self._steps[key] = max(self._steps.get(key, -1), record["step"])

    def add(self, record: dict[str, Any]) -> None:
        """Append one record of JSON values."""
        line = (json.dumps(record) + "\n").encode()
        with self._lock:
            try:
                with self.path.open("ab") as stream:
                    stream.write(line)
            except OSError:  # a part of the line may be there
                with suppress(OSError):
                    os.truncate(self.path, self._end)
                raise
            self._end += len(line)

    def keep(self, data: bytes, suffix: str) -> str:
        """Store bytes beside the journal; returns the name for a record to refer to."""
        name = f"{uuid.uuid4().hex}{suffix}"
        write_bytes(self.file(name), data)
        return name

    def file(self, name: str) -> Path:
        """Path of the bytes stored under `name`."""
        return self.folder / "files" / name

    @property
    def empty(self) -> bool:
        """Whether all records were delivered."""
        return self.done >= self._end

    def pending(self, limit: int = 100) -> list[tuple[int, dict[str, Any]]]:
        """The next `limit` records, each with the offset at which its line ends."""
        records: list[tuple[int, dict[str, Any]]] = []
        with self.path.open("rb") as stream:
            stream.seek(self.done)
            while len(records) < limit and (line := stream.readline()).endswith(b"\n"):
                record = _record(line)
                if record is not None:
                    records.append((stream.tell(), record))
                elif not records:
                    self.done = stream.tell()
        return records

    def delivered(self, offset: int, names: list[str]) -> None:
        """Mark everything before `offset` as delivered and delete the files `names`."""
        write_bytes(self._mark, str(offset).encode())
        self.done = offset
        for name in names:
            self.file(name).unlink(missing_ok=True)

    def last_steps(self) -> dict[str, int]:
        """The highest step, when the journal was opened, of each metric and each `image KEY`."""
        return dict(self._steps)


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None for anything that is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    fields = KINDS.get(record.get("kind", "")) if isinstance(record, dict) else None
    if fields is None or not _typed(record, {**fields, "time": int}):
        return None
    numbers = [record["time"], record.get("step", 0), *record.get("values", {}).values()]
    plain = all(type(one) is float or (type(one) is int and abs(one) < 2**63) for one in numbers)
    return record if plain and "/" not in record.get("file", "") else None


def _typed(record: dict[str, Any], fields: dict[str, type]) -> bool:
    return all(type(record.get(name)) is kind for name, kind in fields.items())
