"""Where a registered version comes from, and whether its bytes still are what was registered.

One record a version, `release/lineage.json` among its files; its sha256 is a tag of the version,
so that neither the record nor a file it lists can be changed without notice.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from training.core.files import canonical_json, read_json, sha256_bytes, sha256_file, write_bytes
from training.core.provenance import lock_bytes
from training.registry import versions as registry
from training.storage.store import Manifest, Store, open_store

RECORD = "release/lineage.json"
MODEL, LOCK, DATASET = "artifacts/model", "release/requirements.lock", "release/dataset.json"
# What a person calls the files under these paths.
PARTS = {
    f"{MODEL}/config.json": "config",
    f"{MODEL}/label_space.json": "label space",
    MODEL: "weights",
    LOCK: "lock",
    DATASET: "data",
    "code": "code",
}


class LineageError(ValueError):
    """A version is not, or no longer, what its record says."""


@dataclass(frozen=True)
class Lineage:
    """What a version was made of. Hashes are hex sha256 but for DVC's md5 and git's commit."""

    data_md5: str  # of the raw data, as DVC names it
    revision: str  # from which data_md5 was read
    dataset: str  # digest of the manifest that training read
    git_commit: str
    git_dirty: bool  # whether files differed from the commit
    code_hash: str  # of the package that made the model
    config_hash: str  # of the resolved configuration
    label_space_hash: str
    lock_hash: str  # of the package lock
    image: str  # reference of the training image
    seed: int
    judge: str  # digest of the judge's manifest
    evaluation: str  # identity of the evaluation
    pipeline_run: str
    training_run: str  # MLflow's
    weights: Mapping[str, str] = field(default_factory=dict)  # file name -> sha256
    files: Mapping[str, str] = field(default_factory=dict)  # every file of the version -> sha256

    @property
    def content(self) -> str:
        """What makes a version another version: weights, settings, data, code and packages."""
        names = ("data_md5", "dataset", "code_hash", "config_hash", "label_space_hash", "lock_hash")
        return sha256_bytes(
            canonical_json([dict(self.weights), *(getattr(self, n) for n in names)])
        )

    def tags(self) -> dict[str, str]:
        """The record as tags of a version, by which versions can be searched."""
        values = asdict(self)
        return {k: str(v) for k, v in values.items() if k not in ("weights", "files")} | {
            "content": self.content
        }


def differences(record: Lineage) -> list[str]:
    """Where this installation differs from the one that made the version; no error."""
    from training.core.provenance import code_hash

    here = {
        "package lock": (record.lock_hash, sha256_bytes(lock_bytes())),
        "code": (record.code_hash, code_hash()),
    }
    return [
        f"{what} ({old[:12]}, here {new[:12]})" for what, (old, new) in here.items() if old != new
    ]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file under a folder but the record itself, by relative name.

    Bytecode is left out: MLflow runs a model in a folder of this machine where it lies, and
    Python leaves its cache there.
    """
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.name != "__pycache__")
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: sha256_file(path) for name, path in names.items() if name != RECORD}


def write(folder: Path, lineage: Lineage) -> str:
    """Put the record among the version's files; returns its sha256."""
    write_bytes(folder / RECORD, json.dumps(asdict(lineage), indent=1, sort_keys=True).encode())
    return sha256_file(folder / RECORD)


def _part(name: str) -> str:
    for path, part in PARTS.items():
        if name == path or name.startswith(f"{path}/"):
            return part
    return "file"


def check(folder: Path, record: str, store: Store | None = None, *, data: bool = True) -> Lineage:
    """The record of the version whose files lie in `folder`, if every byte is as registered.

    `record` is the record's sha256 from the version's tags. With `data`, the training data must
    lie unaltered in the store too. Raises LineageError that names each altered, missing or added
    file and what it is.
    """
    path = folder / RECORD
    if not path.is_file() or sha256_file(path) != record:
        raise LineageError(f"{RECORD}: lineage record missing or altered since registration")
    try:
        lineage = Lineage(**read_json(path))
    except TypeError as error:
        raise LineageError(f"{RECORD}: written by another version of this project") from error
    present = digests(folder)
    faults = [
        f"{_part(name)} {'altered' if name in present else 'missing'}: {name}"
        for name, digest in lineage.files.items()
        if present.get(name) != digest
    ]
    faults += [f"{_part(name)} added: {name}" for name in sorted(set(present) - set(lineage.files))]
    if data and not faults:
        faults += _data_faults(folder, lineage, store or open_store())
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise LineageError(
            f"{'; '.join(faults[:5])}{more}: not what was registered; restore the bytes, or "
            "register and promote another version"
        )
    return lineage


def _data_faults(folder: Path, lineage: Lineage, store: Store) -> list[str]:
    dataset = Manifest.read(folder / DATASET, "dataset")
    if dataset.digest != lineage.dataset:
        return [f"data altered: the manifest is {dataset.digest}, trained on {lineage.dataset}"]
    return [
        f"data altered or gone: {entry.name} ({entry.sha256}) in {store.uri}"
        for entry in dataset.entries
        if not store.exists(entry, read=True)
    ]


@contextmanager
def verified(reference: str, *, data: bool) -> Iterator[tuple[Path, Lineage]]:
    """A folder with a version's files while the block runs, and its record, all checked.

    Raises ValueError for an unknown version and LineageError for one that was altered.
    """
    found = registry.version(reference)
    with tempfile.TemporaryDirectory() as temporary:
        folder = registry.download(found, Path(temporary) / "files")
        try:
            record = check(folder, found.tags.get("lineage", ""), data=data)
        except LineageError as error:
            raise LineageError(f"{found.name} version {found.version}: {error}") from error
        yield folder, record


def verify(reference: str, *, data: bool = True) -> Lineage:
    """The record of NAME@ALIAS or NAME/VERSION; weights, data, config and lock are checked.

    Raises LineageError that names what changed; `data=False` leaves the training data out.
    """
    with verified(reference, data=data) as (_, record):
        return record


def store_files(reference: str, *, data: bool = False) -> dict[str, Path]:
    """Verify a version and put its weights, config.json and label_space.json into the store.

    Returns name -> local path. Raises as `verified` does.
    """
    store = open_store()
    with verified(reference, data=data) as (folder, record):
        names = [n.removeprefix(f"{MODEL}/") for n in record.files if n.startswith(f"{MODEL}/")]
        return {n: store.local(store.put(folder / MODEL / n, n)) for n in names}
