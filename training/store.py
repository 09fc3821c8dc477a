"""A content-addressed store for bulky data, and the manifests that steps hand to each other.

Steps exchange a small JSON manifest; the bytes it lists lie once under one root URI, named by
their sha256, so that no step copies gigabytes and every pod of a job can read the same data.
The root comes from the environment variable STORE_URI (default: file://<working folder>/runs/store).
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from filelock import FileLock

from training.files import (
    canonical_json,
    fsync,
    read_json,
    rename,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)

SCHEMA = 1


class StoreError(ValueError):
    """Stored bytes are missing or are not the bytes that a manifest promises."""


@dataclass(frozen=True)
class Entry:
    """One stored file: `name` within its manifest, hex sha256, size in bytes, rows if it has any."""

    name: str
    sha256: str
    size: int
    rows: int = 0


class Store:
    """Bytes by sha256 under a `file://` root, and named references that are set once."""

    def __init__(self, uri: str = "") -> None:
        uri = uri or os.environ.get("STORE_URI") or f"file://{Path.cwd() / 'runs' / 'store'}"
        parts = urlparse(uri)
        if parts.scheme != "file":
            raise ValueError(f"STORE_URI={uri}: only file:// roots can be opened here")
        self.uri, self.root = uri, Path(parts.path)

    def path(self, sha256: str) -> Path:
        return self.root / "sha256" / sha256[:2] / sha256

    def put(self, source: Path, name: str = "", rows: int = 0) -> Entry:
        """Store a file's bytes; the same bytes are kept once. The source stays as it is."""
        entry = Entry(name or source.name, sha256_file(source), source.stat().st_size, rows)
        target = self.path(entry.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not self.has(entry):
                temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
                try:
                    shutil.copyfile(source, temporary)
                    fsync(temporary)
                    rename(temporary, target)
                finally:
                    temporary.unlink(missing_ok=True)
        return entry

    def has(self, entry: Entry) -> bool:
        """Whether the bytes are here and still are what their name says."""
        path = self.path(entry.sha256)
        return (
            path.is_file()
            and path.stat().st_size == entry.size
            and sha256_file(path) == entry.sha256
        )

    def local(self, entry: Entry) -> Path:
        """A local path to the verified bytes. Raises StoreError where they are gone or altered."""
        path = self.path(entry.sha256)
        if not path.is_file():
            raise StoreError(f"{self.uri}: {entry.name} ({entry.sha256}) is missing; run the step again")
        if not self.has(entry):
            raise StoreError(
                f"{path}: {entry.name} is not the {entry.size} bytes with sha256 {entry.sha256}; "
                "delete the file and run the step again"
            )
        return path

    def reference(self, name: str) -> str | None:
        """What a named reference points to, or None."""
        path = self.root / "refs" / name
        return path.read_text() if path.is_file() else None

    def refer(self, name: str, value: str) -> str:
        """Set a reference once: the first writer wins. Returns the value that stands."""
        path = self.root / "refs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            standing = self.reference(name)
            if standing is None:
                write_bytes(path, value.encode())
                standing = value
        return standing


@dataclass(frozen=True)
class Manifest:
    """What a step made: its kind, the stored files, and facts about them (JSON values only)."""

    kind: str
    entries: tuple[Entry, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        kind: str,
        files: Mapping[str, Path],
        meta: dict[str, Any],
        *,
        rows: Mapping[str, int] | None = None,
        keep: Iterable[Entry] = (),
        store: Store | None = None,
    ) -> "Manifest":
        """Store `files` (name within the manifest -> path) and list them after `keep`'s entries."""
        store, rows = store or Store(), rows or {}
        new = tuple(store.put(path, name, rows.get(name, 0)) for name, path in files.items())
        return cls(kind, (*keep, *new), meta)

    @property
    def digest(self) -> str:
        """Hex sha256 of kind, files and facts; independent of where the bytes lie."""
        return sha256_bytes(canonical_json(self._content()))

    def _content(self) -> dict[str, Any]:
        entries = [asdict(entry) for entry in self.entries]
        return {"schema": SCHEMA, "kind": self.kind, "entries": entries, "meta": self.meta}

    def write(self, path: Path, store: Store | None = None) -> None:
        """Write the manifest; beside each file's digest stands the URI it had when written."""
        content = self._content()
        store = store or Store()
        for entry in content["entries"]:
            entry["uri"] = f"{store.uri}/sha256/{entry['sha256'][:2]}/{entry['sha256']}"
        write_json(path, {**content, "digest": self.digest})

    @classmethod
    def read(cls, path: Path, kind: str = "") -> "Manifest":
        """Read a manifest, checking schema, digest and, if given, kind (ValueError otherwise)."""
        content = read_json(path)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{path}: not a manifest of schema {SCHEMA}")
        names = ("name", "sha256", "size", "rows")
        entries = tuple(Entry(**{n: e[n] for n in names}) for e in content["entries"])
        manifest = cls(content["kind"], entries, content["meta"])
        if manifest.digest != content["digest"]:
            raise ValueError(f"{path}: altered since it was written; run the step again")
        if kind and manifest.kind != kind:
            raise ValueError(f"{path}: a manifest of kind {manifest.kind!r}; {kind!r} is needed")
        return manifest

    def entry(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise ValueError(f"manifest of kind {self.kind!r} lists no {name!r}")

    def local(self, name: str, store: Store | None = None) -> Path:
        """A verified local path of one listed file."""
        return (store or Store()).local(self.entry(name))

    def intact(self, store: Store | None = None) -> bool:
        """Whether every listed file is in the store, unaltered."""
        store = store or Store()
        return all(store.has(entry) for entry in self.entries)
