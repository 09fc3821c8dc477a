"""A write-ahead log: records wait on disk, in order, until delivered; one line of JSON each."""

import json
import threading
import uuid
from pathlib import Path
from typing import Any

from training.core.files import write_bytes


class Journal:
    """`journal.jsonl` in a folder, with the number of bytes delivered in a file beside it.

    Memory stays bounded during an outage of any length, and a killed process loses at most the
    line that it was writing. One process writes, from any of its threads.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path, self._mark = folder / "journal.jsonl", folder / "delivered"
        self._lock = threading.Lock()
        self._drop_torn_line()
        self.done = int(self._mark.read_text()) if self._mark.is_file() else 0
        self._end = self.path.stat().st_size

    def _drop_torn_line(self) -> None:
        self.path.touch()
        with self.path.open("r+b") as stream:
            content = stream.read()
            stream.truncate(content.rfind(b"\n") + 1)

    def add(self, record: dict[str, Any]) -> None:
        """Append one record of JSON values."""
        line = (json.dumps(record) + "\n").encode()
        with self._lock:
            with self.path.open("ab") as stream:
                stream.write(line)
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
                records.append((stream.tell(), json.loads(line)))
        return records

    def delivered(self, offset: int, names: list[str]) -> None:
        """Mark everything before `offset` as delivered and delete the files `names`."""
        write_bytes(self._mark, str(offset).encode())
        self.done = offset
        for name in names:
            self.file(name).unlink(missing_ok=True)

    def last_steps(self) -> dict[str, int]:
        """The highest step recorded for each metric and each `image KEY`, delivered or not."""
        steps: dict[str, int] = {}
        with self.path.open("rb") as stream:
            for line in stream:
                record = json.loads(line)
                keys = [f"image {record['key']}"] if "key" in record else record.get("values", ())
                for key in keys:
                    steps[key] = max(steps.get(key, -1), record["step"])
        return steps
