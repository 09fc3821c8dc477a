"""Resolve references to models: manifest, checkpoint folder, NAME/VERSION or NAME@ALIAS."""

import json
from pathlib import Path
from typing import Any

from training.core.files import sha256_file
from training.core.references import split_digest, split_version, with_digest
from training.data.labels import LabelSpace
from training.inference.weights import CheckpointError, verify, weight_files
from training.registry import versions
from training.registry.lineage import MODEL, store_files
from training.storage.store import Manifest, Store
from training.tracking import client as tracking


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


def model_facts(reference: str) -> tuple[dict[str, Any], LabelSpace]:
    """config.json and the label space of a model, without its weights; not verified."""
    names = ("config.json", "label_space.json")
    path = Path(split_digest(reference)[0])
    if path.is_dir():
        texts = [(path / name).read_bytes() for name in names]
    elif path.is_file():
        manifest = Manifest.read(path, "model")
        texts = [manifest.local(name).read_bytes() for name in names]
    else:
        found = versions.version(reference)
        texts = [versions.read(found, f"{MODEL}/{name}") for name in names]
    config, space = (json.loads(text) for text in texts)
    return config, LabelSpace.from_json(space)


def pin(reference: str) -> str:
    """Pin a reference: NAME@ALIAS to NAME/VERSION, a path to its digest; empty text stays empty.

    Raises ValueError for a file or version that does not exist.
    """
    if not reference:
        return ""
    path, digest = split_digest(reference)
    if Path(path).exists():
        actual = model_digest(Path(path))
        if digest and actual != digest:
            raise ValueError(f"{path}: its digest is {actual}, not {digest}")
        return with_digest(path, actual)
    split = split_version(reference)
    if split is None:
        raise ValueError(f"{reference}: no such file; a manifest, NAME/VERSION or NAME@ALIAS")
    with tracking.answered():
        found = versions.version(reference)
    return f"{split.name}/{found.version}"
