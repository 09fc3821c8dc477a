"""Resolve references to models: manifest, checkpoint folder, NAME/VERSION or NAME@ALIAS."""

from pathlib import Path

from training.core.files import sha256_file
from training.core.references import split_digest, split_version, with_digest
from training.inference.weights import CheckpointError, verify, weight_files
from training.registry import versions
from training.registry.lineage import store_files
from training.storage.store import Manifest, Store


def registered_files(reference: str) -> dict[str, Path]:
    """Files of a registered version, verified, by their names in the model manifest."""
    return store_files(reference)


def model_digest(path: Path) -> str:
    """Hex sha256 of the content of a model manifest or checkpoint folder."""
    if path.is_dir():
        return sha256_file(path / "manifest.json")
    return Manifest.read(path, "model").digest


def model_files(source: str, store: Store | None = None) -> dict[str, Path]:
    """Name -> path of a model's files, verified by their digests.

    `source` is a model manifest, a checkpoint folder, NAME/VERSION or NAME@ALIAS. A path may end in
    `@sha256:<digest>`; CheckpointError if its content has another digest.
    """
    name, digest = split_digest(source)
    path = Path(name)
    if digest and model_digest(path) != digest:
        raise CheckpointError(f"{path}: changed since this run started; start the run again")
    if path.is_dir():
        verify(path)
        return weight_files(path)
    if path.is_file():
        manifest = Manifest.read(path, "model")
        return {e.name: manifest.local(e.name, store) for e in manifest.entries}
    return registered_files(source)


def pin(reference: str) -> str:
    """Pin a reference: NAME@ALIAS to NAME/VERSION, a path to its digest."""
    if Path(reference).exists() and reference:
        return with_digest(reference, model_digest(Path(reference)))
    split = split_version(reference)
    if split is None or not split.alias:
        return reference
    return f"{split.name}/{versions.version(reference).version}"
