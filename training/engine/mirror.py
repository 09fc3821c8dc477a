"""A run's checkpoints in the object store, so that any machine can go on, and one writer a run.

s3://…/checkpoints/<run>/log/00000007                  JSON: who writes now, the newest checkpoint
s3://…/checkpoints/<run>/<images>-<generation>/<file>  that checkpoint's files, and the run's log

The log's entries are written once each (conditional put): who finds the next one taken is no longer
the run's writer. A trainer that starts takes over by writing an entry of a higher generation, so
that one that was cut off, and comes back, cannot write over its successor's work.

LAUNCH_ID names the launch that a trainer belongs to (the launchers set it): its processes, however
often they start again, may follow each other. A launch that another has overtaken writes no more,
so that the two do not take turns; only a new launch may take over.
"""

import json
import logging
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from training.core import environment
from training.core.files import sha256_file, whole_folder
from training.storage.s3 import Bucket, RemoteError
from training.storage.store import store_uri

log = logging.getLogger(__name__)
LOG = "log.jsonl"  # of the run, beside its checkpoints' folder


class FencedError(RuntimeError):
    """Another process has taken this run over; this one must not write any more."""


@dataclass(frozen=True)
class LogEntry:
    """One entry of the run's log: the writer, and the newest checkpoint's files by sha256."""

    generation: int
    owner: str  # one a claim, so that no two claims are alike
    images: int = -1  # of the newest checkpoint; -1: none yet
    folder: str = ""
    files: dict[str, str] = field(default_factory=dict)
    launch: str = ""  # the writer's
    overtaken: list[str] = field(default_factory=list)  # launches before it
    mlflow_run: str = ""  # its id, for whoever goes on


class Mirror:
    """The copy of one run's checkpoints. Only `claim` makes its holder the writer."""

    def __init__(self, run: str, keep: int = 2, bucket: Bucket | None = None) -> None:
        self.bucket = bucket or Bucket(store_uri())
        self.run, self.keep = f"checkpoints/{run}", keep
        self.number, self.entry = -1, LogEntry(0, "")  # of the log, as last read
        self.owner = ""  # what this one's own entries say, once it is the writer
        self.launch = environment.LAUNCH_ID.get() or environment.new_launch()

    def newest(self) -> LogEntry | None:
        """The last entry of the log, or None where the run has none; it is read anew."""
        low, high = -1, 0  # entry `low` exists, `high` does not: there are no gaps
        while self._exists(high):
            low, high = high, 2 * high + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._exists(middle) else (low, middle)
        self.number = low
        if low < 0:
            return None
        self.entry = self._read(low)
        return self.entry

    def claim(self) -> LogEntry:
        """Become the run's writer; returns the entry that says so, with the newest checkpoint.

        Raises FencedError where another launch has overtaken this one's.
        """
        owner = uuid.uuid4().hex
        while True:
            before = self.newest() or LogEntry(0, "")
            if self.launch in before.overtaken:
                raise self._fenced(before)
            passed = [before.launch] if before.launch not in ("", self.launch) else []
            mine = replace(
                before, generation=before.generation + 1, owner=owner, launch=self.launch,
                overtaken=[*before.overtaken, *passed],
            )  # fmt: skip
            if self._write(mine):
                self.owner = owner
                return mine

    def push(self, checkpoint: Path, mlflow_run: str = "") -> None:
        """Copy a checkpoint's folder, and the run's log with it.

        Raises FencedError where another process is the writer.
        """
        if not self.owner or self.entry.owner != self.owner:
            raise self._fenced(self.entry)
        if self._exists(self.number + 1):
            raise self._fenced(self._read(self.number + 1))
        paths = {
            path.relative_to(checkpoint).as_posix(): path
            for path in sorted(checkpoint.rglob("*"))
            if path.is_file()
        }
        if (log_file := checkpoint.parents[1] / LOG).is_file():
            paths[LOG] = log_file
        files = {name: sha256_file(path) for name, path in paths.items()}
        folder = f"{checkpoint.name}-{self.entry.generation}"
        for name, digest in files.items():
            self.bucket.upload(f"{self.run}/{folder}/{name}", paths[name], digest)
        made = replace(
            self.entry, images=int(checkpoint.name), folder=folder, files=files,
            mlflow_run=mlflow_run or self.entry.mlflow_run,
        )  # fmt: skip
        if not self._write(made):
            raise self._fenced(self._read(self.number + 1))
        others = sorted(set(self.bucket.folders(f"{self.run}/")) - {folder, "log"})
        for old in others[: len(others) - self.keep + 1]:
            self.bucket.delete(f"{self.run}/{old}/")

    def fetch(self, entry: LogEntry, folder: Path) -> Path:
        """Bring the entry's checkpoint into `folder`, whole, and the log beside it.

        Raises RemoteError.
        """
        target = folder / f"{entry.images:012d}"
        with whole_folder(target) as new:
            for name, digest in entry.files.items():
                path = new / name
                path.parent.mkdir(parents=True, exist_ok=True)
                key = f"{self.run}/{entry.folder}/{name}"
                self.bucket.download(key, path)
                if sha256_file(path) != digest:
                    message = (
                        f"{self.bucket.url}/{key}: altered since it was saved; delete {folder}"
                    )
                    raise RemoteError("corrupted", message)
            if (new / LOG).is_file():
                (new / LOG).replace(folder.parent / LOG)
        log.info("checkpoint %s brought from %s", target.name, self.bucket.url)
        return target

    def _log(self, number: int) -> str:
        return f"{self.run}/log/{number:08d}"

    def _read(self, number: int) -> LogEntry:
        return LogEntry(**json.loads(self.bucket.read(self._log(number))))

    def _exists(self, number: int) -> bool:
        return self.bucket.size(self._log(number)) is not None

    def _write(self, entry: LogEntry) -> bool:
        """Add `entry` to the log, unless another has the place."""
        text = json.dumps(asdict(entry), sort_keys=True).encode()
        place = self._log(self.number + 1)
        # The present one may be our own: the answer was lost on the way and we asked again.
        if not self.bucket.create(place, text) and self.bucket.read(place) != text:
            return False
        self.number, self.entry = self.number + 1, entry
        return True

    def _fenced(self, writer: LogEntry) -> FencedError:
        return FencedError(
            f"{self.bucket.url}/{self.run}: launch {writer.launch} has taken this run over "
            f"(generation {writer.generation}); launch {self.launch} ends without writing"
        )


def mirror(run: str, keep: int) -> Mirror | None:
    """The run's mirror, where the store is an object store; a folder's checkpoints need none."""
    return Mirror(run, keep) if store_uri().startswith("s3://") else None
