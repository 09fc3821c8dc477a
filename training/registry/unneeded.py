"""What takes space and is needed by no registered version, cache entry or recent run.

Kept are: everything that a registered version of any name lists (its data, model and evaluation)
and the model that it started from; every judge and every list of people to be forgotten; what the
step cache lists; and whatever was used within some days. A process that reuses stored bytes marks
them as used, and each thing is looked at again when it is removed, so that runs may go on.
"""

import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from training.core import environment
from training.core.files import read_json
from training.core.references import split_digest, split_start
from training.core.shown import shown
from training.registry import versions as registry
from training.registry.lineage import DATASET, MODEL, RECORD
from training.storage.store import Entry, Manifest, Store, StoreError
from training.tracking import client as tracking
from training.tracking import runners

DAY = 86_400.0  # s
DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
LARGEST = 64 << 20  # bytes of a manifest
# References that stay however old: scores are comparable with the same judge only, and whom people
# asked to be forgotten must not come back.
LASTING = ("judges/", "forgotten/")
RELEASED = (DATASET, "release/model.json", "release/evaluation.json")


class Item(NamedTuple):
    """Something that nothing needs: what it is, its folder or keys, bytes, last use (s), why."""

    kind: str
    place: str
    size: int
    used: float
    why: str
    keys: tuple[str, ...] = ()  # in the store; empty: `place` is a path


@dataclass
class Needed:
    """What must stay: SHA-256 of stored files, and folders and files of `runs`."""

    stored: set[str]
    paths: set[Path]


def find(store: Store, days: float, root: Path | None = None) -> list[Item]:
    """What was not used for `days` and nothing needs; `root`: the folder `runs`.

    Raises ValueError if MLflow, which has the versions, is off or a version cannot be read, and
    TrackingError if it does not answer.
    """
    root = (root or environment.runs()).absolute()
    before = _before(root, time.time() - days * DAY)
    with tracking.answered():
        needed = _versions(store)
    needed.stored |= _lasting(store)
    items = [*_cache(root, before, needed)]
    items += _runs(root, before, needed)
    items += _stored(store, before, needed)
    return sorted(items, key=lambda item: -item.size)


def remove(store: Store, item: Item, root: Path | None = None) -> bool:
    """Remove an item unless it was used meanwhile; whether it is gone."""
    if item.keys:
        return sum(store.remove(key, item.used) for key in item.keys) == len(item.keys)
    path = Path(item.place)
    lock = FileLock(path / ".lock" if path.is_dir() else path.with_suffix(".lock"))
    try:
        with lock.acquire(blocking=False):
            if _used(path)[1] > item.used:
                return False
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except Timeout:
        return False
    return True


def _before(root: Path, before: float) -> float:
    """The time before which a thing is old: not within a day of the start of a run that goes on."""
    for path in root.glob("parents/*.json"):
        runner = str(read_json(path).get("runner", ""))
        if runner and not runners.ended(runner):
            before = min(before, path.stat().st_mtime - DAY)
    return before


def _versions(store: Store) -> Needed:
    """What the registered versions list, and the models that they started from."""
    needed, api = Needed(set(), set()), tracking.client()
    token = None
    while True:
        page = api.search_registered_models(max_results=100, page_token=token)
        for model in page:
            for version in registry.versions(model.name):
                for text in _texts(version):
                    _add(needed, text)
        token = page.token
        if not token:
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
        for one in (*RELEASED, f"{MODEL}/config.json"):
            if one in listed:  # imported ones have no data
                yield registry.read(version, one)
    except (OSError, ValueError, KeyError, tracking.mlflow().exceptions.MlflowException) as error:
        raise ValueError(
            f"nothing is removed: {name} does not say what it needs ({shown(str(error))[:200]}); "
            f"restore it (python -m training.release verify {name}), or delete the version"
        ) from error


def _add(needed: Needed, text: bytes) -> None:
    content = json.loads(text)
    needed.stored |= {str(entry["sha256"]) for entry in content.get("entries", ())}
    _start(needed, str(content.get("init", "")))


def _start(needed: Needed, init: str) -> None:
    """The folder or manifest that a training started from."""
    path = Path(split_digest(split_start(init).reference)[0])
    if init and path.exists():
        needed.paths.add(path.resolve())
        needed.stored |= _entries(path)


def _lasting(store: Store) -> set[str]:
    """SHA-256 of what references of `LASTING` name, and of the files that these list."""
    found = set()
    for folder in LASTING:
        for key in store.listing(f"refs/{folder}"):
            name = key.removeprefix("refs/")
            entry = Entry.parse(name, store.reference(name) or "")
            found.add(entry.sha256)
            try:
                found |= _entries(store.local(entry))
            except StoreError:  # lost already; a judge is trained again
                continue
    return found


def _entries(path: Path) -> set[str]:
    """SHA-256 of the files that a manifest lists; empty for another file."""
    if not path.is_file() or path.stat().st_size > LARGEST:
        return set()
    try:
        return {entry.sha256 for entry in Manifest.read(path).entries}
    except ValueError:
        return set()


def _used(path: Path) -> tuple[int, float]:
    """Bytes of a file or of a folder's files, and the time of the last change in it, s."""
    paths = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    stats = [one.stat() for one in paths if one.name != ".lock"]
    return sum(s.st_size for s in stats), max((s.st_mtime for s in stats), default=0.0)


def _cache(root: Path, before: float, needed: Needed) -> Iterator[Item]:
    """Old entries of the step cache; what the others list is needed."""
    for path in root.glob("cache/*.json"):
        size, used = _used(path)
        if used < before:
            yield Item("cache entry", str(path), size, used, "its step was not used since")
            continue
        for row in read_json(path)["files"]:
            file = Path(row["path"])
            needed.paths.add(file.resolve())
            needed.stored |= _entries(file)


def _runs(root: Path, before: float, needed: Needed) -> Iterator[Item]:
    """Old folders of pipeline runs and trainings; the manifests in the others are needed."""
    kinds = {
        "kfp": "outputs of a pipeline run that no cache entry names",
        "train": "checkpoints of a training; its model is in the store",
        "search": "",  # small, and a result: it stays
    }
    for kind, why in kinds.items():
        for folder in sorted((root / kind).glob("*")):
            size, used = _used(folder)
            inside = folder.resolve()
            kept = any(path.is_relative_to(inside) for path in needed.paths)
            if used >= before or kept or not why:
                if used >= before:
                    needed.stored |= _manifests(folder)
                    _inits(needed, folder)
                continue
            yield Item(kind, str(folder), size, used, why)


def _manifests(folder: Path) -> set[str]:
    return set().union(*(_entries(p) for p in folder.rglob("*") if p.suffix in ("", ".json")))


def _inits(needed: Needed, folder: Path) -> None:
    config = folder / "config.json"
    if config.is_file():
        _start(needed, str(read_json(config).get("init", "")))


def _stored(store: Store, before: float, needed: Needed) -> Iterator[Item]:
    """Old files, references and checkpoints in the store."""
    references = store.listing("refs/")
    texts = {key: store.reference(key.removeprefix("refs/")) or "" for key in references}
    for key, (_, used) in references.items():
        if used >= before:
            needed.stored |= set(DIGEST.findall(texts[key]))
    files = store.listing("sha256/")
    for key, (size, used) in files.items():
        if used < before and key.rpartition("/")[2] not in needed.stored:
            yield Item("stored file", f"{store.uri}/{key}", size, used,
                       "no version, judge, cache entry or recent run lists it", (key,))  # fmt: skip
    kept = needed.stored | {
        k.rpartition("/")[2] for k, (_, used) in files.items() if used >= before
    }
    for key, (size, used) in references.items():
        file = DIGEST.findall(texts[key])[:1]
        if used < before and not (file and file[0] in kept):
            yield Item("reference", f"{store.uri}/{key}", size, used,
                       "its file is removed, or its run has ended", (key,))  # fmt: skip
    yield from _checkpoints(store, before)


def _checkpoints(store: Store, before: float) -> Iterator[Item]:
    """Trainings' copies of their checkpoints, each as one item."""
    runs: dict[str, list[tuple[str, int, float]]] = defaultdict(list)
    for key, (size, used) in store.listing("checkpoints/").items():
        runs[key.split("/")[1]].append((key, size, used))
    for run, rows in runs.items():
        used = max(row[2] for row in rows)
        if used < before:
            yield Item("checkpoints", f"{store.uri}/checkpoints/{run}", sum(r[1] for r in rows),
                       used, "copies of a training's checkpoints; its model is in the store",
                       tuple(row[0] for row in rows))  # fmt: skip


def table(items: Iterable[Item]) -> list[str]:
    """A line for each item, and the sum of each kind."""
    lines, sums = [], dict[str, tuple[int, int]]()
    for item in items:
        day = time.strftime("%Y-%m-%d", time.localtime(item.used))
        lines.append(f"{item.size / 1e6:10.1f} MB  {item.kind:<12} {day}  {item.place}: {item.why}")
        count, size = sums.get(item.kind, (0, 0))
        sums[item.kind] = count + 1, size + item.size
    lines += [f"{size / 1e6:10.1f} MB  in all     {count} x {kind}"
              for kind, (count, size) in sums.items()]  # fmt: skip
    return lines
