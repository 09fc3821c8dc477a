"""Copies a run's checkpoints to the object store, so that any machine can resume, with one writer.

s3://…/checkpoints/<run>/log/00000007                  JSON: current writer, newest checkpoint
s3://…/checkpoints/<run>/<images>-<generation>/<file>  that checkpoint's files, and the run's log

Log entries are written once, with a conditional put: a writer whose next entry already exists has
been fenced. A starting trainer claims the run by writing an entry with a higher generation, so that
a partitioned predecessor cannot overwrite its successor's work.

LAUNCH_ID, set by the launchers, identifies the launch of a trainer. Restarted processes of one
launch may claim the run from each other. A launch that was replaced by another one is fenced for
good, so that the two do not alternate; only a new launch may claim the run.
"""

import json
import logging
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from training.core import environment
from training.core.entries import check_name, inside
from training.core.files import sha256_file
from training.core.records import parse_record
from training.core.temporary import whole_folder
from training.storage.s3 import Bucket, RemoteError
from training.storage.store import store_uri

log = logging.getLogger(__name__)
LOG = "log.jsonl"  # in the run folder


class FencedError(RuntimeError):
    """Another process has claimed this run; this process must not write any more."""


@dataclass(frozen=True)
class LogEntry:
    """One entry of the run's log: the writer, and the newest checkpoint's files with SHA-256."""

    generation: int
    owner: str  # unique for each claim
    images: int = -1  # of the newest checkpoint; -1: none yet
    folder: str = ""
    files: dict[str, str] = field(default_factory=dict)
    launch: str = ""  # of the writer
    overtaken: list[str] = field(default_factory=list)  # earlier launches, which are fenced
    mlflow_run: str = ""  # its id, for a process that resumes


class Mirror:
    """The copy of one run's checkpoints in the store. Call `claim` to become the writer."""

    def __init__(self, run: str, keep: int = 2, bucket: Bucket | None = None) -> None:
        self.bucket = bucket or Bucket(store_uri())
        self.run, self.keep = f"checkpoints/{run}", keep
        self.number, self.entry = -1, LogEntry(0, "")  # the last log entry read
        self.owner = ""  # of our own entries, after `claim`
        self.launch = environment.LAUNCH_ID.get() or environment.new_launch()

    def newest(self) -> LogEntry | None:
        """Read the last entry of the log; None if the run has none."""
        low, high = -1, 0  # entry `low` exists, `high` does not: the numbers have no gaps
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
        """Become the run's writer; returns the new entry, which lists the newest checkpoint.

        Raises FencedError if another launch has replaced this one.
        """
        owner = uuid.uuid4().hex
        while True:
            before = self.newest() or LogEntry(0, "")
            if self.launch in before.overtaken:
                raise self._fenced(before)
            replaced = [before.launch] if before.launch not in ("", self.launch) else []
            claimed = replace(
                before, generation=before.generation + 1, owner=owner, launch=self.launch,
                overtaken=[*before.overtaken, *replaced],
            )  # fmt: skip
            if self._write(claimed):
                self.owner = owner
                return claimed

    def push(self, checkpoint: Path, mlflow_run: str = "") -> None:
        """Upload a checkpoint folder and the run's log, then delete all but the newest `keep`.

        Raises FencedError if another process is the writer.
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
        pushed = replace(
            self.entry, images=int(checkpoint.name), folder=folder, files=files,
            mlflow_run=mlflow_run or self.entry.mlflow_run,
        )  # fmt: skip
        if not self._write(pushed):
            raise self._fenced(self._read(self.number + 1))
        self._delete_all_but(folder)

    def _delete_all_but(self, newest: str) -> None:
        """Delete all but `keep` copies; a server that refuses only causes a warning."""
        others = sorted(set(self.bucket.folders(f"{self.run}/")) - {newest, "log"})
        for old in others[: max(0, len(others) + 1 - self.keep)]:
            try:
                self.bucket.delete(f"{self.run}/{old}/")
            except RemoteError as error:  # the new copy is there, and training can go on
                log.warning("an older copy of a checkpoint stays in the store: %s", error)

    def fetch(self, entry: LogEntry, folder: Path) -> Path:
        """Download the entry's checkpoint into `folder` atomically, and the log next to `folder`.

        Raises RemoteError if the store cannot be read or a file's SHA-256 differs.
        """
        target = folder / f"{entry.images:012d}"
        with whole_folder(target) as new:
            for name, digest in entry.files.items():
                path = inside(new, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                key = f"{self.run}/{entry.folder}/{name}"
                self.bucket.download(key, path)
                if sha256_file(path) != digest:
                    message = (
                        f"{self.bucket.url}/{key}: altered since it was saved; to start over, "
                        f"delete {self.bucket.url}/{self.run}"
                    )
                    raise RemoteError("corrupted", message)
            if (new / LOG).is_file():
                (new / LOG).replace(folder.parent / LOG)
        log.info("checkpoint %s downloaded from %s", target.name, self.bucket.url)
        return target

    def _log(self, number: int) -> str:
        return f"{self.run}/log/{number:08d}"

    def _read(self, number: int) -> LogEntry:
        text = self.bucket.read(self._log(number))
        try:
            entry = parse_record(LogEntry, text, "damaged")
            for name in entry.files:
                check_name(name)
        except ValueError as error:
            run = f"{self.bucket.url}/{self.run}"
            message = f"{run}/log/{number:08d}: {error}; to start over, delete {run}"
            raise RemoteError("corrupted", message) from error
        return entry

    def _exists(self, number: int) -> bool:
        return self.bucket.size(self._log(number)) is not None

    def _write(self, entry: LogEntry) -> bool:
        """Append `entry` to the log; False if another process wrote the next entry first."""
        text = json.dumps(asdict(entry), sort_keys=True).encode()
        key = self._log(self.number + 1)
        # An existing entry may be ours, if the response was lost and the request was retried.
        if not self.bucket.create(key, text) and self.bucket.read(key) != text:
            return False
        self.number, self.entry = self.number + 1, entry
        return True

    def _fenced(self, writer: LogEntry) -> FencedError:
        return FencedError(
            f"{self.bucket.url}/{self.run}: launch {writer.launch} has claimed this run "
            f"(generation {writer.generation}); launch {self.launch} ends without writing"
        )


def mirror(run: str, keep: int) -> Mirror | None:
    """The run's mirror if the store is an object store, else None."""
    return Mirror(run, keep) if store_uri().startswith("s3://") else None
