"""A content-addressed store for bulky data, and the manifests that steps exchange.

Steps exchange a small JSON manifest; the files it lists are stored once under one root URI, named
by their SHA-256, so that no step copies gigabytes and every pod of a job can read the same data.
The root comes from the environment variable STORE_URI: file:///folder (the default is
<working folder>/runs/store) or s3://bucket/prefix. Files read from S3 are verified and cached in
the folder NODE_CACHE (default: <working folder>/runs/node-cache), so that a node downloads them
once.
"""

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

from filelock import FileLock

from training.core import environment
from training.core.entries import check_name
from training.core.files import (
    canonical_json,
    fsync,
    read_json,
    rename,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)
from training.core.shown import shown
from training.storage.meta import (
    DatasetMeta,
    EvaluationMeta,
    ImagesMeta,
    JudgeMeta,
    Meta,
    ModelMeta,
    RawMeta,
    ReplicatesMeta,
    meta_of,
)

SCHEMA = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
M = TypeVar("M", bound=Meta)


class StoreError(ValueError):
    """Stored bytes are missing or differ from the digest in the manifest."""


@dataclass(frozen=True)
class Entry:
    """One stored file: `name` in its manifest, hex SHA-256, size in bytes, number of rows or 0."""

    name: str
    sha256: str
    size: int
    rows: int = 0

    def named(self, name: str) -> "Entry":
        """The same bytes under another name."""
        return replace(self, name=name)

    @property
    def reference(self) -> str:
        """The value of a named reference to these bytes, as `parse` reads it."""
        return f"{self.sha256} {self.size}"

    @classmethod
    def parse(cls, name: str, reference: str) -> "Entry":
        """The entry of a reference's value, `<sha256> <size>` (ValueError otherwise)."""
        sha256, _, size = reference.partition(" ")
        if not size.isdecimal() or not _SHA256.fullmatch(sha256):
            raise ValueError(f"{name}: reference {reference!r} is not <sha256> <size>")
        return cls(name, sha256, int(size))

    def checked(self) -> "Entry":
        """This entry, read from a file; ValueError if it cannot be one, or leads out of a folder.

        The digest becomes a path in the store, the name one in a folder.
        """
        check_name(self.name)
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.name}: {self.sha256!r} is not a SHA-256")
        for value in (self.size, self.rows):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{self.name}: {value!r} is not a size or a number of rows")
        return self


def store_uri() -> str:
    """The root URI from the environment, or the default."""
    return environment.STORE_URI.get() or f"file://{environment.runs('store').absolute()}"


class Store(ABC):
    """Files by SHA-256 under one root, and named references that can be set once."""

    uri: str  # the root
    root: Path  # local folder from which files are read

    def path(self, sha256: str) -> Path:
        """Local path of the bytes, whether or not they are there."""
        return self.root / _key(sha256)

    @abstractmethod
    def put(self, source: Path, name: str = "", rows: int = 0) -> Entry:
        """Store a file's bytes once; the source is not changed. S3 raises RemoteError."""

    @abstractmethod
    def exists(self, entry: Entry, *, read: bool = False) -> bool:
        """Whether the bytes are stored and unaltered.

        S3 compares only the object's size and metadata unless `read`; a folder always reads.
        """

    @abstractmethod
    def local(self, entry: Entry) -> Path:
        """A local path to the verified bytes. Raises StoreError if they are missing or altered."""

    @abstractmethod
    def reference(self, name: str) -> str | None:
        """The value of a named reference, or None."""

    @abstractmethod
    def refer(self, name: str, value: str) -> str:
        """Set a reference once: the first writer wins, on any node. Returns the stored value."""

    @abstractmethod
    def listing(self, prefix: str) -> dict[str, tuple[int, float]]:
        """Key -> size in bytes and time of the last use, s, of what is stored under a prefix."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The bytes of a small stored object, unverified; raises OSError or RemoteError without."""

    @abstractmethod
    def remove(self, key: str, used: float) -> bool:
        """Remove a stored object unless it was used after `used`; whether it was removed."""

    def _missing(self, entry: Entry) -> StoreError:
        what = f"{entry.name} ({entry.sha256})"
        return StoreError(f"{self.uri}: {what} is missing; run the step again")


class FolderStore(Store):
    """A store in a local or mounted folder."""

    def __init__(self, root: Path) -> None:
        self.uri, self.root = f"file://{root}", root

    def put(self, source: Path, name: str = "", rows: int = 0) -> Entry:
        entry = Entry(name or source.name, sha256_file(source), source.stat().st_size, rows)
        target = self.path(entry.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if self.exists(entry):
                os.utime(target)  # in use again: see `remove`
            else:
                temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
                try:
                    shutil.copyfile(source, temporary)
                    fsync(temporary)
                    rename(temporary, target)
                finally:
                    temporary.unlink(missing_ok=True)
        return entry

    def exists(self, entry: Entry, *, read: bool = False) -> bool:
        path = self.path(entry.sha256)
        return (
            path.is_file()
            and path.stat().st_size == entry.size
            and sha256_file(path) == entry.sha256
        )

    def local(self, entry: Entry) -> Path:
        path = self.path(entry.sha256)
        if not path.is_file():
            raise self._missing(entry)
        if not self.exists(entry):
            raise StoreError(
                f"{path}: {entry.name} is not the {entry.size} bytes with sha256 {entry.sha256}; "
                "delete the file and run the step again"
            )
        return path

    def reference(self, name: str) -> str | None:
        path = self.root / "refs" / name
        return path.read_text() if path.is_file() else None

    def refer(self, name: str, value: str) -> str:
        path = self.root / "refs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            present = self.reference(name)
            if present is None:
                write_bytes(path, value.encode())
                present = value
        return present

    def listing(self, prefix: str) -> dict[str, tuple[int, float]]:
        found = {}
        for path in (self.root / prefix).rglob("*"):
            if path.is_file() and not path.name.endswith(".lock"):
                stat = path.stat()
                found[path.relative_to(self.root).as_posix()] = (stat.st_size, stat.st_mtime)
        return found

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def remove(self, key: str, used: float) -> bool:
        path = self.root / key
        with FileLock(f"{path}.lock"):
            if not path.is_file() or path.stat().st_mtime > used:
                return False
            path.unlink()
        return True


class S3Store(Store):
    """A store under `s3://bucket/prefix`, with a folder of this node as its cache."""

    def __init__(self, uri: str, cache: Path) -> None:
        from training.storage.s3 import Bucket

        self.uri, self.root = uri.rstrip("/"), cache
        self.bucket, self.cache = Bucket(self.uri), FolderStore(cache)

    def put(self, source: Path, name: str = "", rows: int = 0) -> Entry:
        entry = Entry(name or source.name, sha256_file(source), source.stat().st_size, rows)
        if not self.exists(entry):
            self.bucket.upload(_key(entry.sha256), source, entry.sha256)
        return entry

    def exists(self, entry: Entry, *, read: bool = False) -> bool:
        if read:
            return self._read_intact(entry)
        response = self.bucket.head(_key(entry.sha256))
        return (
            response is not None
            and response["ContentLength"] == entry.size
            and response["Metadata"].get("sha256") == entry.sha256
        )

    def _read_intact(self, entry: Entry) -> bool:
        path = self.root / f"check-{entry.sha256}"
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self._download(entry, path)
        except StoreError:
            return False
        finally:
            path.unlink(missing_ok=True)
        return True

    def local(self, entry: Entry) -> Path:
        path = self.path(entry.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not self.cache.exists(entry):
                self._download(entry, path)
        return path

    def _download(self, entry: Entry, path: Path) -> None:
        if self.bucket.size(_key(entry.sha256)) is None:
            raise self._missing(entry)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self.bucket.download(_key(entry.sha256), temporary)
            if sha256_file(temporary) != entry.sha256:
                raise StoreError(
                    f"{self.uri}/{_key(entry.sha256)}: {entry.name} arrived with "
                    f"{temporary.stat().st_size} bytes that are not the {entry.size} with its "
                    "sha256; delete that object and run the step again"
                )
            fsync(temporary)
            rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def reference(self, name: str) -> str | None:
        if self.bucket.head(f"refs/{name}") is None:
            return None
        return self.bucket.read(f"refs/{name}").decode()

    def refer(self, name: str, value: str) -> str:
        if self.bucket.create(f"refs/{name}", value.encode()):
            return value
        return self.bucket.read(f"refs/{name}").decode()

    def listing(self, prefix: str) -> dict[str, tuple[int, float]]:
        return {key: one[:2] for key, one in self.bucket.listing(prefix).items()}

    def read(self, key: str) -> bytes:
        return self.bucket.read(key)

    def remove(self, key: str, used: float) -> bool:
        found = self.bucket.head(key)
        if found is None or found["LastModified"].timestamp() > used:
            return False
        self.bucket.remove(key)
        return True


def open_store(uri: str = "") -> Store:
    """The store under `uri`, by default the one from the environment.

    Raises ValueError unless it is file:///folder or s3://bucket/prefix.
    """
    uri = uri or store_uri()
    if uri.startswith("s3://"):
        cache = environment.NODE_CACHE.get() or environment.runs("node-cache").absolute()
        return S3Store(uri, Path(cache))
    if not uri.startswith("file:///"):
        raise ValueError(f"STORE_URI={shown(uri)}: file:///folder or s3://bucket/prefix is needed")
    # Not with urlparse, which cuts a path at "#" and "?".
    return FolderStore(Path(uri.removeprefix("file://")))


def _key(sha256: str) -> str:
    """Key of the bytes under the root."""
    return f"sha256/{sha256[:2]}/{sha256}"


@dataclass(frozen=True)
class Manifest(Generic[M]):
    """The result of a step: its kind, the stored files, and the kind's metadata record.

    Raises ValueError if `meta` is neither the record of this kind nor its JSON values.
    """

    kind: str
    entries: tuple[Entry, ...]
    meta: M
    about: dict[str, Any] = field(default_factory=dict)  # written beside it, not in the digest

    def __post_init__(self) -> None:
        object.__setattr__(self, "meta", meta_of(self.kind, self.meta))

    @classmethod
    def build(
        cls,
        kind: str,
        files: Mapping[str, Path],
        meta: M,
        *,
        rows: Mapping[str, int] | None = None,
        keep: Iterable[Entry] = (),
        store: Store | None = None,
        about: dict[str, Any] | None = None,
    ) -> "Manifest[M]":
        """Store `files` (name within the manifest -> path) and list them after `keep`'s entries."""
        store, rows = store or open_store(), rows or {}
        new = tuple(store.put(path, name, rows.get(name, 0)) for name, path in files.items())
        return cls(kind, (*keep, *new), meta, about or {})

    @property
    def digest(self) -> str:
        """Hex SHA-256 of kind, files and metadata; independent of the store's location."""
        return sha256_bytes(canonical_json(self._content()))

    def _content(self) -> dict[str, Any]:
        entries = [asdict(entry) for entry in self.entries]
        meta = self.meta.to_json()
        return {"schema": SCHEMA, "kind": self.kind, "entries": entries, "meta": meta}

    def write(self, path: Path, store: Store | None = None) -> None:
        """Write the manifest, with the current URI of each file."""
        content = self._content()
        store = store or open_store()
        for entry in content["entries"]:
            entry["uri"] = f"{store.uri}/{_key(entry['sha256'])}"
        write_json(path, {**content, "about": self.about, "digest": self.digest})

    @overload
    @classmethod
    def read(cls, path: Path, kind: Literal["raw"]) -> "Manifest[RawMeta]": ...

    @overload
    @classmethod
    def read(cls, path: Path, kind: Literal["images"]) -> "Manifest[ImagesMeta]": ...

    @overload
    @classmethod
    def read(cls, path: Path, kind: Literal["dataset"]) -> "Manifest[DatasetMeta]": ...

    @overload
    @classmethod
    def read(cls, path: Path, kind: Literal["judge"]) -> "Manifest[JudgeMeta]": ...

    @overload
    @classmethod
    def read(cls, path: Path, kind: Literal["model"]) -> "Manifest[ModelMeta]": ...

    @overload
    @classmethod
    def read(cls, path: Path, kind: Literal["evaluation"]) -> "Manifest[EvaluationMeta]": ...

    @overload
    @classmethod
    def read(cls, path: Path, kind: Literal["replicates"]) -> "Manifest[ReplicatesMeta]": ...

    @overload
    @classmethod
    def read(cls, path: Path) -> "Manifest[Any]": ...

    @classmethod
    def read(cls, path: Path, kind: str = "") -> "Manifest[Any]":
        """Read a manifest; ValueError for a wrong schema, metadata, digest or, if given, kind."""
        content = read_json(path)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{path}: not a manifest of schema {SCHEMA}")
        try:
            manifest = cls._parse(content)
            altered = manifest.digest != content["digest"]
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}: damaged manifest ({type(error).__name__}: {error}); run the step again"
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if altered:
            raise ValueError(f"{path}: altered since it was written; run the step again")
        if kind and manifest.kind != kind:
            raise ValueError(f"{path}: a manifest of kind {manifest.kind!r}; {kind!r} is needed")
        return manifest

    @classmethod
    def _parse(cls, content: dict[str, Any]) -> "Manifest[Any]":
        """From JSON values. Raises KeyError, TypeError or ValueError for fields that are wrong."""
        names = ("name", "sha256", "size", "rows")
        entries = tuple(Entry(**{n: e[n] for n in names}).checked() for e in content["entries"])
        about = content.get("about", {})
        if not isinstance(about, dict):
            raise TypeError(f"about: {about!r} is not an object")
        return cls(content["kind"], entries, content["meta"], about)

    @cached_property
    def _by_name(self) -> dict[str, Entry]:
        """The first entry of each name."""
        return {entry.name: entry for entry in reversed(self.entries)}

    def entry(self, name: str) -> Entry:
        if name not in self._by_name:
            raise ValueError(f"manifest of kind {self.kind!r} lists no {name!r}")
        return self._by_name[name]

    def local(self, name: str, store: Store | None = None) -> Path:
        """A verified local path of one listed file."""
        return (store or open_store()).local(self.entry(name))

    def intact(self, store: Store | None = None) -> bool:
        """Whether every listed file is in the store, unaltered."""
        store = store or open_store()
        return all(store.exists(entry) for entry in self.entries)
