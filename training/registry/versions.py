"""The model registry: versions with their files, and the champion alias with its history.

One alias, `champion`, marks the version in use. It is changed only under the model's lock on the
server, and only if the champion is still the one that was compared; every change is kept as a tag.
"""

import json
import re
import shlex
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import yaml

from training.core.entries import inside, unusual
from training.core.references import split_version
from training.core.shown import shown
from training.core.temporary import temporary_folder
from training.tracking import client as tracking
from training.tracking.names import quoted

ALIAS = "champion"
STALE = 120.0  # s after which the holder of a lock is considered dead
PATIENCE = 150.0  # s to wait for a lock
DELETED = 1.0  # s; MLflow reads a model and then its tags, which a deletion in between empties
HISTORY = f"alias.{ALIAS}."
BACK = ("rollback", "by hand")  # changes of the alias that lead back, if to an earlier champion
LOGGED = "models:/m-"  # begins the source of a version that was made from a logged model
AGAIN = (  # registering alone finds the same content and publishes nothing
    "delete this version in MLflow and register the model again; a champion can be replaced by "
    "another version with a reason to override"
)
META = "registered_model_meta"  # MLflow writes it where it loads or downloads a version


# What a run asks that has nothing to register or promote, of MLflow's own file.
_WITH_CONTENT = """
    SELECT version, run_id FROM model_versions
    JOIN model_version_tags USING (workspace, name, version)
    WHERE name = ? AND key = 'content' AND value = ? AND current_stage != 'Deleted_Internal'
    ORDER BY version LIMIT 1"""
_ALIASED = """
    SELECT version FROM model_versions
    JOIN registered_model_aliases USING (workspace, name, version)
    WHERE name = ? AND alias = ? AND current_stage != 'Deleted_Internal'"""
_TAGS = "SELECT key, value FROM registered_model_tags WHERE name = ?"
_VERSION_TAG = """
    SELECT value FROM model_versions JOIN model_version_tags USING (workspace, name, version)
    WHERE name = ? AND version = ? AND key = ? AND current_stage != 'Deleted_Internal'"""
_TOKEN = re.compile(r"\S+ [0-9a-f]{32}")  # the holder of a lock: host and random digits


class Version(NamedTuple):
    """A registered version, as it is found without MLflow."""

    version: int
    run_id: str | None


class OvertakenError(ValueError):
    """The champion changed since it was read."""

    transient = True


class ForeignLockError(ValueError):
    """The registered model that is a model's lock belongs to somebody else."""


def _missing(error: Any) -> bool:
    """Whether the MLflow error means that a model, version or alias does not exist."""
    absent_alias = error.error_code == "INVALID_PARAMETER_VALUE" and "alias" in str(error)
    return error.error_code == "RESOURCE_DOES_NOT_EXIST" or absent_alias


def champion(name: str) -> str | None:
    """The champion's version number, or None if there is no such model or no champion."""
    if found := tracking.rows(_ALIASED, name, ALIAS):
        return str(found[0][0])
    try:
        return str(tracking.client().get_model_version_by_alias(name, ALIAS).version)
    except tracking.mlflow().exceptions.MlflowException as error:
        if _missing(error):
            return None
        raise


def version(reference: str) -> Any:
    """The MLflow ModelVersion of NAME@ALIAS or NAME/VERSION. Raises ValueError if absent."""
    found = split_version(reference)
    if found is None:
        raise ValueError(f"{reference}: expected NAME@{ALIAS} or NAME/VERSION")
    api = tracking.client()
    try:
        if found.alias:
            return api.get_model_version_by_alias(found.name, found.alias)
        return api.get_model_version(found.name, found.number)
    except tracking.mlflow().exceptions.MlflowException as error:
        if _missing(error):
            raise ValueError(
                f"{reference}: no such version in {shown(tracking.uri())}; python -m "
                f"training.release show {shlex.quote(found.name)} lists those that are there"
            ) from error
        raise


def tag(name: str, number: str, key: str) -> str:
    """A version's tag; empty if it has none. Raises ValueError if there is no such version."""
    if found := tracking.rows(_VERSION_TAG, name, number, key):
        return str(found[0][0])
    return str(version(f"{name}/{number}").tags.get(key, ""))


def versions(name: str) -> list[Any]:
    """All versions, oldest first."""
    query = f"name = {quoted(name)}"
    found = tracking.client().search_model_versions(query, max_results=10_000)
    return sorted(found, key=lambda v: int(v.version))


def with_content(name: str, content: str) -> Any | None:
    """The version whose content has this hash, with its number and run; or None."""
    if rows := tracking.rows(_WITH_CONTENT, name, content):
        return Version(*rows[0])
    query = f"name = {quoted(name)} and tag.content = {quoted(content)}"
    found = tracking.client().search_model_versions(query)
    return min(found, key=lambda v: int(v.version)) if found else None


def log_model(name: str, folder: Path, run_id: str, tags: dict[str, str]) -> str:
    """Log a saved model's folder as a model of the run; returns its MLflow model id."""
    api, status = tracking.client(), tracking.mlflow().entities.LoggedModelStatus
    experiment = api.get_run(run_id).info.experiment_id
    model = api.create_logged_model(experiment, name=name, source_run_id=run_id, tags=tags)
    try:
        api.log_model_artifacts(model.model_id, str(folder))
    except BaseException:
        api.finalize_logged_model(model.model_id, status.FAILED)
        raise
    api.finalize_logged_model(model.model_id, status.READY)
    return str(model.model_id)


def add(
    name: str, model_id: str, run_id: str, content: str, tags: dict[str, str], description: str
) -> tuple[Any, bool]:
    """Register a logged model, unless a version has this content; returns (version, created)."""
    api, errors = tracking.client(), tracking.mlflow().exceptions
    with lock(name) as check_held:
        if known := with_content(name, content):
            _discard(model_id)
            return known, False
        try:
            api.create_registered_model(name)
        except errors.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        check_held()
        with tracking.as_default():
            source = f"models:/{model_id}"
            created = api.create_model_version(
                name, source, run_id, tags=tags, description=description, model_id=model_id
            )
        output = tracking.mlflow().entities.LoggedModelOutput(model_id, 0)
        api.log_outputs(run_id, [output])
        return created, True


def remove(name: str, number: str) -> None:
    """Delete a version with its files, which MLflow alone would keep.

    The version goes last, so that a call that was stopped or failed can be repeated.
    """
    source = str(version(f"{name}/{number}").source)
    try:
        if source.startswith(LOGGED):
            _discard(source.removeprefix("models:/"))
    except tracking.mlflow().exceptions.MlflowException as error:
        if not _missing(error):  # deleted before, or a copy of the version had the same files
            raise
    tracking.client().delete_model_version(name, number)


def _discard(model_id: str) -> None:
    """Delete a logged model with its files, which MLflow alone would keep."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location = str(tracking.client().get_logged_model(model_id).artifact_location)
    try:
        with tracking.as_default():
            get_artifact_repository(location).delete_artifacts()
        if (local := _path(location)) is not None:
            local.parent.rmdir()  # the model's folder, which had nothing else
    except (OSError, tracking.mlflow().exceptions.MlflowException) as error:
        sys.stdout.write(
            f"{shown(location)}: files that no version uses could not be deleted "
            f"({' '.join(shown(error).split())[:300]})\n"
        )
    tracking.client().delete_logged_model(model_id)  # last: it names the files


def _location(found: Any) -> str:
    """The address of a version's files; that of its logged model, if it was made from one."""
    location = str(found.source)
    if location.startswith(LOGGED):
        model = tracking.client().get_logged_model(location.removeprefix("models:/"))
        location = str(model.artifact_location)
    return location


def place(found: Any) -> Path | None:
    """The local folder of a version's files; None if they are on a server."""
    return _path(_location(found))


def _path(location: str) -> Path | None:
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(location) if location.startswith("/") else None


def download(found: Any, folder: Path) -> Path:
    """Copy or download all files of a version, as they are now, into the new `folder`.

    Raises ValueError if they are not there, or are not all plain files.
    """
    what, local = f"{found.name} version {found.version}", place(found)
    if local is not None:
        _copy(what, local, folder)
        _drop_meta(folder / META, found)
        return folder
    errors = tracking.mlflow().exceptions
    with temporary_folder() as temporary, tracking.as_default():
        try:
            downloaded = tracking.mlflow().artifacts.download_artifacts(
                artifact_uri=found.source, dst_path=temporary, tracking_uri=tracking.uri()
            )
        except errors.MlflowException as error:
            text = " ".join(str(error).split())
            if "API request to" in text:
                raise
            raise ValueError(
                f"{what}: its files cannot be read from {found.source} ({text[:300]}); restore "
                f"them, or {AGAIN}"
            ) from error
        (Path(downloaded) / META).unlink(missing_ok=True)  # written by the download
        shutil.copytree(downloaded, folder, symlinks=True)
    return folder


def _copy(what: str, source: Path, folder: Path) -> None:
    """Copy a version's folder, without running into devices and links."""
    if not source.is_dir():
        raise ValueError(
            f"{what}: its files are not found: {source} does not exist; restore that folder, or "
            f"{AGAIN}"
        )
    if odd := unusual(source):
        shown = ", ".join(f"{name} ({kind})" for name, kind in [*odd.items()][:5])
        rest = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise ValueError(
            f"{what}: {len(odd)} entries of {source} are not plain files and were not registered: "
            f"{shown}{rest}; delete them, or {AGAIN}"
        )
    shutil.copytree(source, folder, symlinks=True)


def _drop_meta(path: Path, found: Any) -> None:
    """Delete the file that MLflow writes into a version that it loads in place, if it is that."""
    number = str(found.version)
    texts = [
        yaml.safe_dump({"model_name": name, "model_version": version}, allow_unicode=True)
        for name, version in ((found.name, number), (found.name, int(number)), (None, None))
    ]
    if path.is_file() and path.read_bytes() in [text.encode() for text in texts]:
        path.unlink()


def read(found: Any, name: str) -> bytes:
    """One file of a version, unverified."""
    where, local = _location(found), place(found)
    if local is not None:
        return inside(local, name).read_bytes()
    with temporary_folder() as temporary, tracking.as_default():
        path = tracking.mlflow().artifacts.download_artifacts(
            artifact_uri=f"{where}/{name}", dst_path=temporary, tracking_uri=tracking.uri()
        )
        return Path(path).read_bytes()


@contextmanager
def lock(name: str) -> Iterator[Callable[[], None]]:
    """Hold the model's lock across processes and hosts; yields a check that it is still held.

    Names of registered models are unique in the server's database, so that creating `NAME.lock` is
    an atomic test-and-set. A lock older than two minutes is considered abandoned. Raises
    TimeoutError if another process holds it, ForeignLockError if it is no lock of this project or
    this user may not delete an abandoned one, and OvertakenError from the check if it was lost.
    """
    key, token = f"{name}.lock", f"{socket.gethostname()} {uuid.uuid4().hex}"
    deadline = time.monotonic() + PATIENCE
    observed: tuple[str | None, float] = (None, 0.0)
    while not _claim(key, token):
        observed = _expire_stale(key, observed)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name}: another process holds its lock; try again later")
        time.sleep(0.2)

    def check_held() -> None:
        if _holder(key) != token:
            raise OvertakenError(f"{name}: its lock was lost after {STALE:.0f} s; try again")

    try:
        yield check_held
    finally:
        if _holder(key) == token:
            tracking.client().delete_registered_model(key)


def _claim(key: str, token: str) -> bool:
    """Try to take the lock."""
    api, errors = tracking.client(), tracking.mlflow().exceptions
    try:
        api.create_registered_model(key, tags={"holder": token})
        return True
    except errors.MlflowException as error:
        # "does not exist": deleted again before MLflow could return it
        if error.error_code != "RESOURCE_ALREADY_EXISTS" and not _missing(error):
            raise
    return False


def _expire_stale(key: str, observed: tuple[str | None, float]) -> tuple[str | None, float]:
    """The lock's holder and the time it was first seen; deletes a lock that was held too long.

    The age is measured with the local clock, since the server's may differ.
    """
    holder, where = _holder(key), shown(tracking.uri())
    if holder is None or holder != observed[0]:
        return holder, time.monotonic()
    age = time.monotonic() - observed[1]
    if age > DELETED and not _TOKEN.fullmatch(holder):
        raise ForeignLockError(
            f"{where}: the registered model {key!r} is no lock of this project; rename or delete "
            "it in MLflow, and run this again"
        )
    if age > STALE and _holder(key) == holder:
        try:
            tracking.client().delete_registered_model(key)
        except tracking.mlflow().exceptions.MlflowException as error:
            if not _missing(error):  # else another process deleted it first
                raise ForeignLockError(
                    f"{where}: {holder.split()[0]} left the lock {key!r} behind, and "
                    f"{tracking.user()} may not delete it: let its owner or an administrator "
                    "delete that registered model in MLflow, and run this again"
                ) from error
    return observed


def _holder(key: str) -> str | None:
    """Who holds the lock, empty for a registered model that is no lock; None if there is none."""
    try:
        return str(tracking.client().get_registered_model(key).tags.get("holder", ""))
    except tracking.mlflow().exceptions.MlflowException as error:
        if _missing(error):
            return None
        raise


def history(name: str) -> list[dict[str, Any]]:
    """Every change of the alias, oldest first: kind, from, to, who, when, why."""
    tags = dict(tracking.rows(_TAGS, name)) or _tags(name)
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(HISTORY)]


def _tags(name: str) -> dict[str, str]:
    """A registered model's tags as MLflow gives them; empty if there is no such model."""
    try:
        return dict(tracking.client().get_registered_model(name).tags)
    except tracking.mlflow().exceptions.MlflowException as error:
        if _missing(error):
            return {}
        raise


def previous(name: str, current: str | None) -> str:
    """The champion before `current`, which is it now, further back after rollbacks.

    A change by hand to an earlier champion is a rollback, too. Raises ValueError if there is none.
    """
    stack: list[str] = []
    for move in _happened(history(name), current):
        if move["kind"] in BACK and move["to"] in stack:
            del stack[len(stack) - stack[::-1].index(move["to"]) :]
        elif move["to"]:
            stack.append(move["to"])
    if len(stack) < 2:
        raise ValueError(f"{name}: no earlier champion to roll back to")
    return stack[-2]


def move(name: str, expected: str | None, to: str, kind: str, why: str) -> None:
    """Make version `to` the champion if `expected` still is; raises OvertakenError otherwise.

    The history is written before the alias, so that every change has a record; a record whose
    process died before it changed the alias is overwritten.
    """
    api = tracking.client()
    with lock(name) as check_held:
        current = champion(name)
        if current != expected:
            raise OvertakenError(f"{name}: version {current} became champion meanwhile")
        moves = history(name)
        happened = _happened(moves, current)
        if len(happened) > len(moves):
            _record(name, len(happened), happened[-1])
        _record(name, len(happened) + 1, _entry(current, to, kind, why))
        check_held()
        api.set_registered_model_alias(name, ALIAS, to)


def _happened(moves: list[dict[str, Any]], current: str | None) -> list[dict[str, Any]]:
    """The recorded changes up to `current`: with one by hand, or without an unfinished one."""
    if not moves or moves[-1]["to"] == current:
        return moves
    if moves[-1]["from"] == current:
        return moves[:-1]  # recorded, but the alias was not changed
    return [*moves, _entry(moves[-1]["to"], current, "by hand", "found moved")]


def _entry(old: str | None, new: str | None, kind: str, why: str) -> dict[str, Any]:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"kind": kind, "from": old, "to": new, "who": tracking.user(), "when": when, "why": why}


def _record(name: str, number: int, entry: Mapping[str, Any]) -> None:
    text = json.dumps(entry)
    tracking.client().set_registered_model_tag(name, f"{HISTORY}{number:06d}", text)
