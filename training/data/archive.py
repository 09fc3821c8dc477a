"""Raw files by relative name: in a folder, or in the tar shards of one data set.

Every name is a relative POSIX path below the root, so that names in a label file cannot reach other
files of the machine.
"""

import io
import os
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

from training.core.entries import plain_files
from training.core.files import canonical_json, fsync, read_json, rename, write_bytes
from training.core.temporary import temporary_folder, whole_folder
from training.storage.meta import RawMeta
from training.storage.store import Entry, Manifest, Store, StoreError, open_store

SHARD_BYTES = 256 * 2**20
BLOCK = 512  # of the tar format, bytes
VERSION = 1  # of the recorded indices; raised when what `_members` finds or refuses changes


class Tree(Protocol):
    """Files by relative POSIX name. Safe to share between threads."""

    def names(self) -> list[str]:
        """Every file, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes of one file. Raises ValueError for an unsafe or unknown name."""
        ...

    def size(self, name: str) -> int:
        """Size of one file in bytes."""
        ...


def check_name(name: str) -> str:
    """`name` if it is relative and stays below its root; otherwise ValueError."""
    parts = set(name.split("/"))
    if parts <= {"", "."} or name[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r}: a relative name that stays inside the data folder is needed")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r}: the name is not UTF-8; rename the file") from error
    return name


class Folder:
    """The files below `root`; `plain_files` says which entries are refused."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        if not self.root.is_dir():
            raise ValueError(f"{root}: no such folder")
        self._sizes: dict[str, int] | None = None

    def _index(self) -> dict[str, int]:
        if self._sizes is None:
            self._sizes = {check_name(n): size for n, size in plain_files(self.root).items()}
        return self._sizes

    def _inside(self, name: str) -> Path:
        path = Path(os.path.realpath(self.root / check_name(name)))
        if not path.is_relative_to(self.root):
            raise ValueError(
                f"{self.root}: {name} points outside the folder; copy the file into it"
            )
        return path

    def names(self) -> list[str]:
        return list(self._index())

    def read(self, name: str) -> bytes:
        path = self._inside(name)
        if not path.is_file():
            raise ValueError(f"{self.root}: no file {name}")
        return path.read_bytes()

    def size(self, name: str) -> int:
        if name not in self._index():
            raise ValueError(f"{self.root}: no file {name}")
        return self._index()[name]


class Tars:
    """The plain files inside uncompressed tar files, each read at its offset.

    Indexing reads the headers only. No file handle stays open, so threads can share an instance.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(Path(path) for path in paths)
        self._index = _joined([path.name for path in self.paths], map(_members, self.paths))

    def _path(self, shard: int) -> Path:
        return self.paths[shard]

    def _shard_names(self) -> list[str]:
        return [path.name for path in self.paths]

    def _find(self, name: str) -> tuple[int, int, int]:
        if name not in self._index:
            raise ValueError(f"{', '.join(self._shard_names()[:3])}: no file {name}")
        return self._index[name]

    def names(self) -> list[str]:
        return list(self._index)

    def read(self, name: str) -> bytes:
        shard, offset, size = self._find(name)
        path = self._path(shard)
        with path.open("rb", buffering=0) as stream:
            data = os.pread(stream.fileno(), size, offset)
        if len(data) != size:
            raise StoreError(f"{path}: truncated inside {name}; download the file again")
        return data

    def size(self, name: str) -> int:
        return self._find(name)[2]


class StoredTars(Tars):
    """The same inside tar files of a store: each is fetched and verified at its first read.

    What is inside a tar is recorded in the store by the first process that indexes it, so that a
    process which reads a part of the data does not fetch the rest.
    """

    def __init__(self, entries: Iterable[Entry], store: Store) -> None:
        self.entries, self.store = tuple(entries), store
        self._paths: dict[int, Path] = {}
        self._locks = [Lock() for _ in self.entries]  # one thread fetches a tar, others read on
        self._index = _joined(self._shard_names(), (self._members(e) for e in self.entries))

    def _shard_names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def _path(self, shard: int) -> Path:
        if (path := self._paths.get(shard)) is None:
            with self._locks[shard]:
                path = self._paths.get(shard) or self.store.local(self.entries[shard])
                self._paths[shard] = path
        return path

    def fetch(self, names: Iterable[str]) -> None:
        """Fetch and verify the tars of these files. Raises StoreError for one that is damaged."""
        for shard in self._holding(names):
            self._path(shard)

    def holding(self, names: Iterable[str]) -> list[Entry]:
        """The tars that hold these files."""
        return [self.entries[shard] for shard in self._holding(names)]

    def _holding(self, names: Iterable[str]) -> list[int]:
        return sorted({self._index[name][0] for name in names if name in self._index})

    def _members(self, entry: Entry) -> "list[tuple[str, int, int]]":
        record = index_of(entry.sha256, self.store)
        if record is not None and self.store.exists(record):
            rows = read_json(self.store.local(record))
            return [(check_name(file), offset, size) for file, offset, size in rows]
        found = _members(self.store.local(entry))
        with temporary_folder() as folder:
            path = Path(folder) / "index.json"
            write_bytes(path, canonical_json(found))
            self.store.refer(_reference(entry.sha256), self.store.put(path).reference)
        return found


def index_of(tar: str, store: Store) -> Entry | None:
    """The stored list of the files in a stored tar, by its SHA-256; None if nobody has made it."""
    name = _reference(tar)
    reference = store.reference(name)
    return Entry.parse(name, reference) if reference is not None else None


def _reference(tar: str) -> str:
    return f"tars/{VERSION}/{tar}"


def _joined(
    shards: Sequence[str], members: "Iterable[list[tuple[str, int, int]]]"
) -> dict[str, tuple[int, int, int]]:
    """Name -> shard, offset, size, sorted. Raises ValueError for a name in two places."""
    index: dict[str, tuple[int, int, int]] = {}
    for shard, found in enumerate(members):
        for name, offset, size in found:
            if name in index:
                raise ValueError(f"{shards[shard]}: {name} is stored twice; pack the data again")
            index[name] = (shard, offset, size)
    return dict(sorted(index.items()))


def _members(path: Path) -> list[tuple[str, int, int]]:
    """(name, offset, size) of every file in a tar.

    Raises ValueError with the tar's path for other members, unsafe names, files beyond its end.
    """
    found = []
    end = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                if not member.isreg() or member.issparse():
                    raise ValueError(f"{member.name!r} is not a plain file")
                if member.size < 0 or member.offset_data + member.size > end:
                    raise ValueError(f"cut inside {member.name!r}; download the file again")
                found.append((check_name(member.name), member.offset_data, member.size))
                _forget(tar)
    except (tarfile.TarError, OverflowError) as error:
        raise ValueError(f"{path}: not an uncompressed tar file ({error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return found


def pack(tree: Tree, out: Path, prefix: str, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write a tree as `<prefix>-00000.tar` … in the folder `out`; returns the paths.

    The bytes depend only on names and contents (sorted, no times, no owners). A shard holds at
    most `shard_bytes` of files, headers included, unless one file alone is larger. One file at a
    time is in memory. Shards of an earlier, longer run under the same prefix are removed.
    """
    names = tree.names()
    if not names:
        raise ValueError(f"{prefix}: no files to pack")
    out.mkdir(parents=True, exist_ok=True)
    with whole_folder(out / f".{prefix}.packed") as folder:
        count = _write_shards(tree, names, folder, prefix, shard_bytes)
    packed = out / f".{prefix}.packed"
    for old in out.glob(f"{prefix}-[0-9][0-9][0-9][0-9][0-9].tar"):
        old.unlink()
    paths = [out / _shard_name(prefix, number) for number in range(count)]
    for path in paths:
        rename(packed / path.name, path)
    packed.rmdir()
    fsync(out)
    return paths


def _shard_name(prefix: str, number: int) -> str:
    return f"{prefix}-{number:05d}.tar"


def _write_shards(tree: Tree, names: list[str], folder: Path, prefix: str, limit: int) -> int:
    """Write numbered shards; returns their number."""
    number, used = 0, 0
    tar = tarfile.open(folder / _shard_name(prefix, 0), "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
    try:
        for name in names:
            space = BLOCK + -(-tree.size(name) // BLOCK) * BLOCK
            if used and used + space > limit:
                tar.close()
                number, used = number + 1, 0
                tar = tarfile.open(  # noqa: SIM115
                    folder / _shard_name(prefix, number), "w", format=tarfile.PAX_FORMAT
                )
            _add(tar, name, tree.read(name))
            used += space
    finally:
        tar.close()
    return number + 1


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(check_name(name))  # its defaults: mode 0644, no time, no owner
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    _forget(tar)


def _forget(tar: tarfile.TarFile) -> None:
    """Drop the headers read or written so far, which would otherwise fill the memory."""
    tar.members.clear()  # type: ignore[attr-defined]


def open_raw(manifest: Manifest[RawMeta], store: Store | None = None) -> dict[str, StoredTars]:
    """The trees of a manifest of kind "raw" by data set name, in its order.

    A tar's bytes are verified when it is first read.
    """
    if manifest.kind != "raw":
        raise ValueError(f"a manifest of kind {manifest.kind!r}; 'raw' is needed")
    trees: dict[str, StoredTars] = {}
    for dataset in manifest.meta.datasets:
        name = dataset.name
        shards = [
            entry
            for entry in manifest.entries
            if entry.name.endswith(".tar") and entry.name[: -len("-00000.tar")] == name
        ]
        if not shards:
            raise ValueError(f"the raw manifest lists no shard of data set {name!r}")
        ordered = sorted(shards, key=lambda entry: entry.name)
        trees[name] = StoredTars(ordered, store or open_store())
    return trees
