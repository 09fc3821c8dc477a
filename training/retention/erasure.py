"""The shell commands that delete what has seen forgotten people. Nothing here deletes anything."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from training.data.archive import index_of
from training.registry import versions as registry
from training.retention.leftovers import pages
from training.retention.people import Search
from training.retention.seen import COPIES, RAW, REGISTERED, RUN_FOLDER, SCORES, TRACKED, Seen
from training.storage.store import Store
from training.tracking import client as tracking
from training.tracking import database


def commands(search: Search, seen: Sequence[Seen]) -> list[str]:
    """Commands in the order in which they are to be run; "#" begins what to do by hand."""
    where = {what: [one.where for one in seen if one.what == what]
             for what in (REGISTERED, TRACKED, RUN_FOLDER, COPIES, SCORES)}  # fmt: skip
    folders = _runs(search, seen)
    return [
        *(line for name in where[REGISTERED] for line in _version(name)),
        *_tracked(where[TRACKED]),
        *(f"rm -rf -- {shlex.quote(folder)}" for folder in where[RUN_FOLDER]),
        *(f"aws s3 rm --recursive {shlex.quote(f'{address}/')}" for address in where[COPIES]),
        *(_reference(address) for address in where[SCORES]),
        *pages(search, seen, folders),
        *(f"rm -rf -- {shlex.quote(str(folder))}" for folder in folders),
        *_objects(search, seen),
        *_raw(search, seen),
        *(_copied() if where[REGISTERED] or where[TRACKED] else ()),
    ]


def _version(where: str) -> Iterator[str]:
    name, _, number = where.rpartition("/")
    if registry.champion(name) == number:
        yield (
            f"# {where} is the champion: train and promote another version first, or python -m "
            f"training.release rollback {shlex.quote(name)} --reason WHY"
        )
    code = f"from training.registry.versions import remove; remove({name!r}, {number!r})"
    yield f"python -c {shlex.quote(code)}"


def _tracked(runs: Sequence[str]) -> Iterator[str]:
    """A command for each run, and the one that deletes their files, which MLflow's database has."""
    if not runs:
        return
    uri = f"MLFLOW_TRACKING_URI={shlex.quote(tracking.uri())}"  # mlflow has another default
    yield from (f"{uri} mlflow runs delete --run-id {run}" for run in runs)
    local = database.file_of(tracking.uri())
    place = shlex.quote(tracking.uri()) if local else "THE-DATABASE-OF-THE-SERVER"
    gc = f"{uri} mlflow gc --backend-store-uri {place} --run-ids {','.join(runs)}"
    yield gc if local else f"# then, to delete their files, where the server runs: {gc}"


def _reference(address: str) -> str:
    """The command that deletes a reference; its file is among the stored ones."""
    if address.startswith("s3://"):
        return f"aws s3 rm {shlex.quote(address)}"
    return f"rm -f -- {shlex.quote(address.removeprefix('file://'))}"


def _runs(search: Search, seen: Sequence[Seen]) -> list[Path]:
    """Folders of local pipeline runs, whose pages show pictures."""
    kfp = (search.runs / "kfp").resolve()
    paths = [Path(one.where).resolve() for one in seen if one.where not in search.versions]
    return list(dict.fromkeys(
        search.runs / "kfp" / path.relative_to(kfp).parts[0]
        for path in paths if path.is_relative_to(kfp)
    ))  # fmt: skip


def _objects(search: Search, seen: Sequence[Seen]) -> list[str]:
    """Stored files, but for the raw data and those that others need."""
    found = dict.fromkeys(
        entry.sha256 for one in seen if not one.what.startswith(RAW) for entry in one.objects
    )
    needed = _needed(search, seen)
    return _delete(search.store, [one for one in found if one not in needed])


def _needed(search: Search, seen: Sequence[Seen]) -> set[str]:
    """The stored files of manifests and versions that have not seen them."""
    places = {one.where for one in seen}
    others = [one.manifest.entries for one in search.kept if one.where not in places]
    others += [one.objects for one in search.made if one.where not in places]
    return {entry.sha256 for entries in others for entry in entries}


def _delete(store: Store, digests: Iterable[str]) -> list[str]:
    """Commands that delete stored files, and this machine's copies of those of an object store."""
    remote, lines = store.uri.startswith("s3://"), []
    for digest in digests:
        path = store.path(digest)
        if remote:
            lines.append(f"aws s3 rm {shlex.quote(f'{store.uri}/sha256/{digest[:2]}/{digest}')}")
        if not remote or path.is_file():
            lines.append(f"rm -f -- {shlex.quote(str(path))}")
    return lines


def _raw(search: Search, seen: Sequence[Seen]) -> Iterator[str]:
    """What to do about the raw data: their tars are stored, and other data versions need them."""
    tars = {e.sha256: e.name for one in seen if one.what.startswith(RAW) for e in one.objects}
    if not tars:
        return
    yield (
        f"# the raw data still have the pictures, in {', '.join(dict.fromkeys(tars.values()))}: "
        "delete them in your folder of raw data, and adopt it again if DVC has it (python -m "
        "training.data adopt)"
    )
    needed = _needed(search, seen)
    yield from _delete(search.store, _indexed(search.store, (t for t in tars if t not in needed)))
    shared = _indexed(search.store, (t for t in tars if t in needed))
    if lines := _delete(search.store, shared):
        yield (
            "# then the tars in the store, which later data versions name, too; the next run packs "
            "the raw data anew:"
        )
        yield from (f"#   {line}" for line in lines)


def _indexed(store: Store, tars: Iterable[str]) -> Iterator[str]:
    """Tars, and the stored lists of the names in them."""
    for tar in tars:
        yield tar
        if (index := index_of(tar, store)) is not None:
            yield index.sha256


def _copied() -> Iterator[str]:
    yield (
        "# backups of MLflow (python -m training.backup) keep the files of deleted versions and "
        "runs: delete those below artifacts/ as administrator, all their versions, and save a new "
        "backup: earlier ones are restored with --without-missing"
    )
