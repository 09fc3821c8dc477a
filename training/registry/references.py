"""References to a model: a manifest, a checkpoint's folder, NAME/VERSION or NAME@ALIAS."""

from pathlib import Path

from training.core.files import sha256_file
from training.core.references import split_digest, split_version, with_digest
from training.inference.weights import CheckpointError, verify, weight_files
from training.registry import versions
from training.registry.lineage import store_files
from training.storage.store import Manifest, Store


def registered_files(reference: str) -> dict[str, Path]:
    """A verified version's files by the names they have in a model's manifest."""
    return store_files(reference)


def model_digest(path: Path) -> str:
    """Hex sha256 that names a model manifest's or a checkpoint folder's content."""
    if path.is_dir():
        return sha256_file(path / "manifest.json")
    return Manifest.read(path, "model").digest


def model_files(source: str, store: Store | None = None) -> dict[str, Path]:
    """Name -> path of a model's files, checked by their digests.

    `source` is a model manifest, a checkpoint's folder, NAME/VERSION or NAME@ALIAS; a path may end
    in `@sha256:<digest>`, which must be the digest of what lies there (ValueError otherwise).
    """
    name, digest = split_digest(source)
    path = Path(name)
    if digest and model_digest(path) != digest:
        raise CheckpointError(f"{path}: changed since this run began; start the run again")
    if path.is_dir():
        verify(path)
        return weight_files(path)
    if path.is_file():
        manifest = Manifest.read(path, "model")
        return {e.name: manifest.local(e.name, store) for e in manifest.entries}
    return registered_files(source)


def pin(reference: str) -> str:
    """NAME@ALIAS as NAME/VERSION, since an alias moves; a path with its digest, since files do."""
    if Path(reference).exists() and reference:
        return with_digest(reference, model_digest(Path(reference)))
    found = split_version(reference)
    if found is None or not found.alias:
        return reference
    return f"{found.name}/{versions.version(reference).version}"
