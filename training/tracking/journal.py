"""Records that wait on the disk, in order, until they are delivered: a line of JSON each."""

import json
import threading
import uuid
from pathlib import Path
from typing import Any

from training.core.files import write_bytes


class Journal:
    """`journal.jsonl` in a folder, and beside it how many of its bytes are done with.

    Memory stays bounded however long delivery is impossible, and a killed process loses nothing
    but the line it was writing. One process writes; any thread of it may.
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
        """Put bytes beside the journal; returns the name to write into a record."""
        name = f"{uuid.uuid4().hex}{suffix}"
        write_bytes(self.file(name), data)
        return name

    def file(self, name: str) -> Path:
        """Where the bytes kept under `name` are."""
        return self.folder / "files" / name

    @property
    def empty(self) -> bool:
        """Whether everything was delivered."""
        return self.done >= self._end

    def pending(self, limit: int = 100) -> list[tuple[int, dict[str, Any]]]:
        """The next `limit` records, each with the offset at which its line ends."""
        found: list[tuple[int, dict[str, Any]]] = []
        with self.path.open("rb") as stream:
            stream.seek(self.done)
            while len(found) < limit and (line := stream.readline()).endswith(b"\n"):
                found.append((stream.tell(), json.loads(line)))
        return found

    def delivered(self, offset: int, names: list[str]) -> None:
        """Everything before `offset` has arrived; the files `names` are no longer needed."""
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
