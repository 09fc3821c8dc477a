"""What takes space and is needed by no registered version, cache entry or recent run.

Kept are: everything that a registered version of any name lists (its data, model and evaluation)
and the model that it started from; every judge and every list of people to be forgotten; what the
step cache lists; trainings whose model is not in the store; and whatever was used within some days,
with the models that it started from. A process that reuses stored bytes marks them as used, and
each thing is looked at again when it is removed, so that runs may go on.
"""

import re
import shlex
import shutil
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from training.core import environment
from training.core.files import read_json
from training.retention import finished
from training.retention.needed import Needed, always
from training.storage.store import Store
from training.tracking import runners

DAY = 86_400.0  # s
DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
ENTRY, CHECKPOINTS, UNFINISHED = "cache entry", "checkpoints", "unfinished"
FOLDERS = {
    "kfp": "outputs of a pipeline run that no cache entry names",
    "train": "a training whose model is in the store, or that has no checkpoint",
}


class Item(NamedTuple):
    """Something that nothing needs: what it is, its folder or keys, bytes, last use (s), why.

    One of kind `UNFINISHED` is a training that is never removed.
    """

    kind: str
    place: str
    size: int
    used: float
    why: str
    keys: tuple[str, ...] = ()  # in the store; empty: `place` is a path


def find(
    store: Store, days: float, root: Path | None = None, in_use: Collection[str] = ()
) -> list[Item]:
    """What was not used for `days` and nothing needs; `root`: the folder `runs`.

    Cache entries `in_use`, by their paths, count as used now. Raises ValueError if MLflow, which
    has the versions, is off or a version cannot be read, and TrackingError if it does not answer.
    """
    root = (root or environment.runs()).absolute()
    before = _before(root, time.time() - days * DAY)
    needed = always(store)
    items = [*_cache(root, before, needed, in_use)]
    files = store.listing("sha256/")
    stored = {key.rpartition("/")[2] for key in files}
    items += _runs(root, before, needed, stored)
    items += _stored(store, before, needed, files)
    items += _checkpoints(store, before, stored)
    return sorted(items, key=lambda item: -item.size)


def clear(store: Store, days: float, root: Path | None = None) -> tuple[list[Item], list[Item]]:
    """Remove what is found; gives what was removed, and what was kept: unfinished, or in use again.

    Cache entries go first, each under its lock. A run that takes one from the cache meanwhile uses
    all that it lists, so that what is unneeded is found anew without that. Raises as `find` does.
    """
    removed, kept = list[Item](), list[Item]()
    while True:
        items = find(store, days, root, {item.place for item in kept})
        entries = [item for item in items if item.kind == ENTRY]
        gone = [item for item in entries if remove(store, item)]
        removed += gone
        kept += [item for item in entries if item not in gone]
        if len(gone) == len(entries):
            break
    for item in items:
        if item.kind != ENTRY:
            (removed if remove(store, item) else kept).append(item)
    return removed, kept


def remove(store: Store, item: Item) -> bool:
    """Remove an item unless it is unfinished or was used meanwhile; whether it is gone."""
    if item.kind == UNFINISHED:
        return False
    if item.keys:
        if item.kind == CHECKPOINTS and _used_again(store, item):
            return False
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


def _used_again(store: Store, item: Item) -> bool:
    """Whether a training has written other copies since: they need the older ones, too."""
    now = store.listing(f"checkpoints/{item.keys[0].split('/')[1]}/")
    return now.keys() != set(item.keys) or any(used > item.used for _, used in now.values())


def _before(root: Path, before: float) -> float:
    """The time before which a thing is old: not within a day of the start of a run that goes on."""
    for path in root.glob("parents/*.json"):
        runner = str(read_json(path).get("runner", ""))
        if runner and not runners.ended(runner):
            # Every step writes the note anew: its time is not that of the start.
            before = min(before, (runners.started(runner) or path.stat().st_mtime) - DAY)
    return before


def _used(path: Path) -> tuple[int, float]:
    """Bytes of a file or of a folder's files, and the time of the last change in it, s."""
    stats = []
    for one in path.rglob("*") if path.is_dir() else [path]:
        with suppress(FileNotFoundError):  # a training replaced its checkpoint
            if one.is_file() and one.name != ".lock":
                stats.append(one.stat())
    return sum(s.st_size for s in stats), max((s.st_mtime for s in stats), default=0.0)


def _cache(root: Path, before: float, needed: Needed, in_use: Collection[str]) -> Iterator[Item]:
    """Old entries of the step cache; what the others list is needed."""
    for path in root.glob("cache/*.json"):
        size, used = _used(path)
        if used < before and str(path) not in in_use:
            yield Item(ENTRY, str(path), size, used, "its step was not used since")
            continue
        for row in read_json(path)["files"]:
            needed.add(Path(row["path"]))


def _runs(root: Path, before: float, needed: Needed, stored: set[str]) -> list[Item]:
    """Old folders of pipeline runs and trainings; those of searches are small, and a result.

    What recent ones and unfinished trainings need can be in any other, so that all are read before
    one is chosen.
    """
    old = []
    for kind, why in FOLDERS.items():
        for folder in sorted((root / kind).glob("*")):
            size, used = _used(folder)
            if used >= before:
                needed.folder(folder)
            else:
                old.append(Item(kind, str(folder), size, used, why))
    for folder in (root / "search").glob("*"):
        if _used(folder)[1] >= before:
            needed.search(folder)
    old = [item for item in old if not needed.within(Path(item.place))]
    kept = [
        _unfinished(item, f"rm -r -- {shlex.quote(item.place)}")
        for item in old
        if item.kind == "train" and not finished.of_folder(Path(item.place), stored)
    ]
    for item in kept:
        needed.folder(Path(item.place))
    return kept + [item for item in old if not needed.within(Path(item.place))]


def _unfinished(item: Item, command: str) -> Item:
    """A training that is kept: losing hours of it is worse than a full disk."""
    why = "kept, as its model is not in the store and these may be the only weights; to delete it: "
    return item._replace(kind=UNFINISHED, why=why + command)


def _stored(
    store: Store, before: float, needed: Needed, files: Mapping[str, tuple[int, float]]
) -> Iterator[Item]:
    """Old files and references in the store."""
    references = store.listing("refs/")
    texts = {key: store.reference(key.removeprefix("refs/")) or "" for key in references}
    for key, (_, used) in references.items():
        if used >= before:
            needed.stored |= set(DIGEST.findall(texts[key]))
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


def _checkpoints(store: Store, before: float, stored: set[str]) -> Iterator[Item]:
    """Trainings' copies of their checkpoints, each as one item."""
    runs: dict[str, list[tuple[str, int, float]]] = defaultdict(list)
    for key, (size, used) in store.listing("checkpoints/").items():
        runs[key.split("/")[1]].append((key, size, used))
    for run, rows in runs.items():
        used = max(row[2] for row in rows)
        if used >= before:
            continue
        place, keys = f"{store.uri}/checkpoints/{run}", tuple(row[0] for row in rows)
        item = Item(CHECKPOINTS, place, sum(row[1] for row in rows), used,
                    "copies of a training whose model is in the store, or that has no checkpoint",
                    keys)  # fmt: skip
        if not finished.of_copies(keys, store, stored):
            remote = f"aws s3 rm --recursive {shlex.quote(f'{place}/')}"
            local = f"rm -r -- {shlex.quote(place.removeprefix('file://'))}"
            item = _unfinished(item, remote if place.startswith("s3://") else local)
        yield item


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
