"""Provenance of registered versions, and verification that their files are unchanged.

Each version has one record, `release/lineage.json`, whose sha256 is a tag of the version, so that
changes of the record or of a file it lists are detected.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from training.core.entries import unusual
from training.core.files import (
    canonical_json,
    read_json,
    sha256_bytes,
    sha256_file,
    write_bytes,
)
from training.core.provenance import lock_bytes
from training.core.temporary import temporary_folder
from training.registry import signature
from training.registry import versions as registry
from training.storage.store import Manifest, Store, open_store

RECORD = "release/lineage.json"
MODEL, LOCK, DATASET = "artifacts/model", "release/requirements.lock", "release/dataset.json"
# names of the files under these paths in messages
PARTS = {
    f"{MODEL}/config.json": "config",
    f"{MODEL}/label_space.json": "label space",
    MODEL: "weights",
    LOCK: "lock",
    DATASET: "data",
    "code": "code",
}


class LineageError(ValueError):
    """A version does not match its lineage record."""


@dataclass(frozen=True)
class Lineage:
    """The inputs of a version. Hashes are hex sha256, except DVC's MD5 and the git commit."""

    data_md5: str  # DVC's MD5 of the raw data
    revision: str  # git revision from which data_md5 was read
    dataset: str  # digest of the dataset manifest used in training
    git_commit: str
    git_dirty: bool  # whether the working tree differed from the commit
    code_hash: str  # of the source code
    config_hash: str  # of the resolved configuration
    label_space_hash: str
    lock_hash: str  # of requirements.lock
    image: str  # reference of the training image
    seed: int | None  # None: unknown, of imported weights
    judge: str  # digest of the judge's manifest
    evaluation: str  # fingerprint of the evaluation
    pipeline_run: str
    training_run: str  # MLflow run id
    weights: Mapping[str, str] = field(default_factory=dict)  # file name -> sha256
    files: Mapping[str, str] = field(default_factory=dict)  # the version's other files -> sha256
    # of imported weights: published file -> "<sha256> <bytes>"; the data they are of is unknown
    imported: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """Content hash of weights, configuration, label space, data, code and packages."""
        names = ("data_md5", "dataset", "code_hash", "config_hash", "label_space_hash", "lock_hash")
        return sha256_bytes(
            canonical_json([dict(self.weights), *(getattr(self, n) for n in names)])
        )

    def tags(self) -> dict[str, str]:
        """The record as searchable tags of a version."""
        values = asdict(self)
        names = [k for k in values if k not in ("weights", "files", "imported")]
        tags = {k: str(values[k]) for k in names} | {"content": self.content}
        return tags | {"seed": "unknown", "imported": self.sources} if self.imported else tags

    @property
    def sources(self) -> str:
        """The published files of imported weights as text: name, sha256 and size."""
        parts = ((name, *value.split()) for name, value in self.imported.items())
        return ", ".join(f"{name} (sha256 {digest}, {size} bytes)" for name, digest, size in parts)


def differences(record: Lineage) -> list[str]:
    """Differences in lock and code between the record and this installation, as text."""
    from training.core.provenance import code_hash

    current = {
        "package lock": (record.lock_hash, sha256_bytes(lock_bytes())),
        "code": (record.code_hash, code_hash()),
    }
    return [
        f"{what} ({old[:12]}, here {new[:12]})"
        for what, (old, new) in current.items()
        if old != new
    ]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every regular file under a folder except the record itself, by relative name."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: sha256_file(path) for name, path in names.items() if name != RECORD}


def write(folder: Path, lineage: Lineage) -> str:
    """Write the record to the version's folder; returns its sha256."""
    values = asdict(lineage)
    if not lineage.imported:
        del values["imported"]
    write_bytes(folder / RECORD, json.dumps(values, indent=1, sort_keys=True).encode())
    return sha256_file(folder / RECORD)


def _part(name: str) -> str:
    for path, part in PARTS.items():
        if name == path or name.startswith(f"{path}/"):
            return part
    return "file"


def check(folder: Path, record: str, store: Store | None = None, *, data: bool = True) -> Lineage:
    """Verify the files of a version in `folder` and return its lineage record.

    `record` is the record's sha256 from the version's tags. With `data`, the training data in the
    store is verified, too. Raises LineageError, which names altered, missing or added files.
    """
    path = folder / RECORD
    if not path.is_file() or path.is_symlink():
        raise LineageError(f"{RECORD}: lineage record missing; restore it")
    if sha256_file(path) != record:
        raise LineageError(f"{RECORD}: lineage record altered since registration; restore it")
    try:
        lineage = Lineage(**read_json(path))
    except (TypeError, ValueError) as error:
        raise LineageError(
            f"{RECORD}: written by an incompatible version of this project"
        ) from error
    problems = _file_faults(folder, lineage.files)
    if data and not problems and not lineage.imported:
        problems += _data_faults(folder, lineage, store or open_store())
    if problems:
        rest = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise LineageError(
            f"{'; '.join(problems[:5])}{rest}: {len(problems)} differences from what was "
            "registered; restore them, or register and promote another version"
        )
    return lineage


def _file_faults(folder: Path, registered: Mapping[str, str]) -> list[str]:
    """What in `folder` was altered, removed, replaced or added since it was registered."""
    present, odd = digests(folder), unusual(folder)
    problems = [
        f"{_part(name)} replaced by {odd[name]}: {name}"
        if name in odd
        else f"{_part(name)} {'altered' if name in present else 'missing'}: {name}"
        for name, digest in registered.items()
        if present.get(name) != digest
    ]
    added = sorted(set(present) - set(registered))
    bytecode = [name for name in added if "__pycache__" in name.split("/")]
    if bytecode:
        problems.append(
            f"bytecode added: {len(bytecode)} files such as {bytecode[0]}, which Python would run "
            "instead of the code; if the version was loaded in place, delete the __pycache__ "
            "folders in it"
        )
    problems += [f"{_part(name)} added: {name}" for name in added if name not in bytecode]
    problems += [
        f"{_part(name)} added: {name} ({kind})"
        for name, kind in odd.items()
        if name not in registered
    ]
    return problems


def _data_faults(folder: Path, lineage: Lineage, store: Store) -> list[str]:
    dataset = Manifest.read(folder / DATASET, "dataset")
    if dataset.digest != lineage.dataset:
        return [f"data altered: the manifest is {dataset.digest}, training used {lineage.dataset}"]
    return [
        f"data altered or missing: {entry.name} ({entry.sha256}) in {store.uri}"
        for entry in dataset.entries
        if not store.exists(entry, read=True)
    ]


@contextmanager
def verified(
    reference: str, *, data: bool, key: Path | None = None, signed: bool = True
) -> Iterator[tuple[Path, Lineage]]:
    """A temporary folder with the verified files of a version, and its lineage record.

    With `key`, or SIGNING_PUBLIC_KEY, its signature is verified, too, unless `signed` is false.
    Raises ValueError for an unknown version, LineageError for an altered one and SignatureError
    for one that is not signed with that key.
    """
    version, required = registry.version(reference), key or signature.required_key()
    if signed and required:
        signature.require_tag(version)  # before its files are copied
    with temporary_folder() as temporary:
        folder = registry.download(version, Path(temporary) / signature.subject(version))
        try:
            record = check(folder, version.tags.get("lineage", ""), data=data)
        except LineageError as error:
            where = registry.place(version) or version.source
            what = f"{version.name} version {version.version}"
            raise LineageError(f"{what}: {error} (its files: {where})") from error
        if signed and required:
            signature.check(version, folder, required)
        yield folder, record


def verify(reference: str, *, data: bool = True, key: Path | None = None) -> Lineage:
    """Verify all files of NAME@ALIAS or NAME/VERSION and return its lineage record.

    `data=False` skips the training data. Raises as `verified` does.
    """
    with verified(reference, data=data, key=key) as (_, record):
        return record


@contextmanager
def verified_files(reference: str, *, data: bool = False) -> Iterator[dict[str, Path]]:
    """A verified version's weights, config.json and label_space.json, name -> temporary path.

    Raises as `verified` does.
    """
    with verified(reference, data=data) as (folder, record):
        names = [n.removeprefix(f"{MODEL}/") for n in record.files if n.startswith(f"{MODEL}/")]
        yield {name: folder / MODEL / name for name in names}


def store_files(reference: str, *, data: bool = False) -> dict[str, Path]:
    """`verified_files`, put into the store; name -> local path."""
    store = open_store()
    with verified_files(reference, data=data) as files:
        return {name: store.local(store.put(path, name)) for name, path in files.items()}
