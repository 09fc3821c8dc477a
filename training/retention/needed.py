"""What `release gc` keeps: SHA-256 of stored files, and paths in `runs`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.core.files import read_json
from training.core.shown import shown
from training.registry import versions as registry
from training.registry.lineage import DATASET, MODEL, RECORD
from training.retention.seen import pages
from training.retention.starts import CONFIG, place, settings
from training.storage.store import Entry, Manifest, Store, StoreError
from training.tracking import client as tracking

LARGEST = 64 << 20  # bytes of a manifest
# References that stay however old: scores are comparable with the same judge only, and whom people
# asked to be forgotten must not come back.
LASTING = ("judges/", "forgotten/")
RELEASED = (DATASET, "release/model.json", "release/evaluation.json")
STAGED = ("dataset", "judge")  # manifests that a stage of a search names


@dataclass
class Needed:
    """What must stay; whatever is added brings the models that it started from, and theirs."""

    store: Store
    stored: set[str] = field(default_factory=set)
    paths: set[Path] = field(default_factory=set)

    def add(self, path: Path) -> None:
        """A manifest with the files that it lists, a folder, or any other file."""
        waiting = [path]
        while waiting:
            one = waiting.pop().resolve()
            if one.exists() and one not in self.paths:
                self.paths.add(one)
                if start := place(self._read(one)):
                    waiting.append(start)

    def start(self, init: str) -> None:
        """The folder or manifest that a training started from."""
        if path := place(init):
            self.add(path)

    def folder(self, folder: Path) -> None:
        """A folder and all manifests in it."""
        self.add(folder)
        for path in folder.rglob("*"):
            if path.suffix in ("", ".json") and path.is_file():
                self.add(path)

    def search(self, folder: Path) -> None:
        """The folder of a search, and the manifests that the stages of its trials read."""
        self.folder(folder)
        for path in folder.rglob("*.json"):
            try:
                stage = read_json(path)
            except ValueError:  # not of this project
                continue
            if isinstance(stage, dict) and all(isinstance(stage.get(n), str) for n in STAGED):
                for name in STAGED:
                    self.add(Path(stage[name]))
                self.start(str(stage.get("init", "")))

    def within(self, folder: Path) -> bool:
        """Whether something needed is in a folder."""
        inside = folder.resolve()
        return any(path.is_relative_to(inside) for path in self.paths)

    def text(self, text: bytes) -> None:
        """A file of a registered version."""
        content = json.loads(text)
        self.stored |= {str(entry["sha256"]) for entry in content.get("entries", ())}
        self.start(str(content.get("init", "")))

    def _read(self, path: Path) -> str:
        """Keep the files that a manifest lists; the `init` of the model in it, or in a folder."""
        if path.is_dir():
            config = path / CONFIG
            return str(read_json(config).get("init", "")) if config.is_file() else ""
        manifest = _manifest(path)
        if manifest is None:
            return ""
        self.stored |= {entry.sha256 for entry in manifest.entries}
        try:
            return str(settings(manifest, self.store).get("init", ""))
        except StoreError:  # lost already
            return ""


def _manifest(path: Path) -> Manifest[Any] | None:
    """The manifest in a file; None for another file."""
    if path.stat().st_size > LARGEST:
        return None
    try:
        return Manifest.read(path)
    except ValueError:
        return None


def always(store: Store) -> Needed:
    """What the registered versions list, the models that they started from, and `LASTING`.

    Raises ValueError if MLflow is off or a version cannot be read, TrackingError if MLflow does
    not answer.
    """
    needed = Needed(store)
    with tracking.answered():
        for model in pages(tracking.client().search_registered_models):
            for version in registry.versions(model.name):
                for text in _texts(version):
                    needed.text(text)
    needed.stored |= _lasting(store)
    return needed


def _texts(version: Any) -> Iterator[bytes]:
    """The files of a version that name what it needs; none of a foreign version.

    Raises ValueError if the version cannot be read: what it needs would be removed.
    """
    if "content" not in version.tags:
        return
    name = f"{version.name}/{version.version}"
    try:
        record = json.loads(registry.read(version, RECORD))
        listed = {*record["files"], *record["weights"]}
        for one in (*RELEASED, f"{MODEL}/{CONFIG}"):
            if one in listed:  # imported ones have no data
                yield registry.read(version, one)
    except (OSError, ValueError, KeyError, tracking.mlflow().exceptions.MlflowException) as error:
        raise ValueError(
            f"nothing is removed: {name} does not say what it needs ({shown(str(error))[:200]}); "
            f"restore it (python -m training.release verify {name}), or delete the version"
        ) from error


def _lasting(store: Store) -> set[str]:
    """SHA-256 of what references of `LASTING` name, and of the files that these list."""
    found = set()
    for folder in LASTING:
        for key in store.listing(f"refs/{folder}"):
            name = key.removeprefix("refs/")
            entry = Entry.parse(name, store.reference(name) or "")
            found.add(entry.sha256)
            try:
                manifest = _manifest(store.local(entry))
            except StoreError:  # lost already; a judge is trained again
                continue
            found |= {one.sha256 for one in manifest.entries} if manifest else set()
    return found
