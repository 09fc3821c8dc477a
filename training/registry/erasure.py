"""The shell commands that delete what has seen forgotten people. Nothing here deletes anything."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.registry import versions as registry
from training.registry.people import RAW, REGISTERED, RUN_FOLDER, TRACKED, Search, Seen


def commands(search: Search, seen: Sequence[Seen]) -> list[str]:
    """Commands in the order in which they are to be run; "#" begins what to do by hand."""
    return [
        *(line for one in seen if one.what == REGISTERED for line in _version(one.where)),
        *_tracked([one.where for one in seen if one.what == TRACKED]),
        *(f"rm -rf -- {shlex.quote(one.where)}" for one in seen if one.what == RUN_FOLDER),
        *(f"rm -rf -- {shlex.quote(folder)}" for folder in _runs(search, seen)),
        *_objects(search, seen),
        *_raw(seen),
    ]


def _version(where: str) -> Iterator[str]:
    name, _, number = where.rpartition("/")
    if registry.champion(name) == number:
        yield (
            f"# {where} is the champion: train and promote another version first, or python -m "
            f"training.release rollback {shlex.quote(name)} --reason WHY"
        )
    code = (
        "from training.tracking.client import client; "
        f"client().delete_model_version({name!r}, {number!r})"
    )
    yield f"python -c {shlex.quote(code)}"


def _tracked(runs: Sequence[str]) -> list[str]:
    last = ["# then `mlflow gc` deletes the files of the deleted runs"] if runs else []
    return [f"mlflow runs delete --run-id {run}" for run in runs] + last


def _runs(search: Search, seen: Sequence[Seen]) -> list[str]:
    """Folders of local runs, whose pages show pictures."""
    paths = [Path(one.where) for one in seen if one.where not in search.versions]
    return list(dict.fromkeys(
        str(path.parents[1]) for path in paths if len(path.parents) > 2 and
        path.parents[2].name == "kfp"
    ))  # fmt: skip


def _objects(search: Search, seen: Sequence[Seen]) -> list[str]:
    """Stored files, but for the raw data and those that other manifests need."""
    places = {one.where for one in seen}
    others = [one.manifest for one in search.kept if one.where not in places]
    needed = {entry.sha256 for manifest in others for entry in manifest.entries}
    found = dict.fromkeys(
        entry.sha256
        for one in seen
        if not one.what.startswith(RAW)
        for entry in one.objects
        if entry.sha256 not in needed
    )
    uri = search.store.uri
    if uri.startswith("s3://"):
        return [f"aws s3 rm {shlex.quote(f'{uri}/sha256/{d[:2]}/{d}')}" for d in found]
    return [f"rm -f -- {shlex.quote(str(search.store.path(digest)))}" for digest in found]


def _raw(seen: Sequence[Seen]) -> list[str]:
    tars = dict.fromkeys(e.name for one in seen if one.what.startswith(RAW) for e in one.objects)
    if not tars:
        return []
    return [
        f"# the raw data still have the pictures, in {', '.join(tars)}: delete them in your folder "
        "of raw data, and adopt it again if DVC has it (python -m training.data adopt)"
    ]
