"""The model that a training started from (`init`), as a model's own settings name it."""

from pathlib import Path, PurePosixPath
from typing import Any

from training.core.files import read_json
from training.core.references import split_digest, split_start
from training.storage.store import Manifest, Store

CONFIG = "config.json"  # in a run folder, a checkpoint and a model's files


def settings(manifest: Manifest[Any], store: Store) -> dict[str, Any]:
    """A model's config.json, of several seeds' models the first; empty for what is no model.

    Raises StoreError if it is lost.
    """
    for entry in manifest.entries:
        if PurePosixPath(entry.name).name == CONFIG:
            return dict(read_json(store.local(entry)))
    return {}


def place(init: str) -> Path | None:
    """The path in a value of `init`, absolute; None for a registered version and for no start."""
    path = Path(split_digest(split_start(init).reference)[0])
    return path.resolve() if init and path.exists() else None
