"""The model registry: versions with their files, and the champion's alias with its history.

One alias, `champion`, says which version is in use. Whoever moves it holds the model's lock on the
server and finds the champion that was compared against, or gives way; every move is a tag.
"""

import json
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.core.references import split_version
from training.tracking import client as tracking

ALIAS = "champion"
STALE = 120.0  # s after which a lock belongs to a process that died
PATIENCE = 150.0  # s to wait for a lock
HISTORY = f"alias.{ALIAS}."


class OvertakenError(ValueError):
    """The champion changed since it was read."""


def _missing(error: Any) -> bool:
    """Whether MLflow says that a model or version is not there, or an alias not set."""
    absent_alias = error.error_code == "INVALID_PARAMETER_VALUE" and "alias" in str(error)
    return error.error_code == "RESOURCE_DOES_NOT_EXIST" or absent_alias


def champion(name: str) -> str | None:
    """The champion's version number, or None where there is no model or no champion."""
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
        raise ValueError(f"{reference}: NAME@{ALIAS} or NAME/VERSION is needed")
    api = tracking.client()
    try:
        if found.alias:
            return api.get_model_version_by_alias(found.name, found.alias)
        return api.get_model_version(found.name, found.number)
    except tracking.mlflow().exceptions.MlflowException as error:
        if _missing(error):
            raise ValueError(f"{reference}: no such version in {tracking.uri()}") from error
        raise


def versions(name: str) -> list[Any]:
    """All versions, oldest first."""
    found = tracking.client().search_model_versions(f"name = '{name}'", max_results=10_000)
    return sorted(found, key=lambda v: int(v.version))


def with_content(name: str, content: str) -> Any | None:
    """The version whose content has this hash, or None."""
    wanted = f"name = '{name}' and tag.content = '{content}'"
    found = tracking.client().search_model_versions(wanted)
    return min(found, key=lambda v: int(v.version)) if found else None


def log_model(name: str, folder: Path, run_id: str, tags: dict[str, str]) -> str:
    """Log a saved model's folder as a model of the run; returns MLflow's id of it."""
    api, status = tracking.client(), tracking.mlflow().entities.LoggedModelStatus
    where = api.get_run(run_id).info.experiment_id
    model = api.create_logged_model(where, name=name, source_run_id=run_id, tags=tags)
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
    """Make a logged model a version, unless one of this content came first: (version, made)."""
    api, errors = tracking.client(), tracking.mlflow().exceptions
    with lock(name) as held:
        if known := with_content(name, content):
            api.delete_logged_model(model_id)
            return known, False
        try:
            api.create_registered_model(name)
        except errors.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        held()
        with tracking.as_default():
            source = f"models:/{model_id}"
            made = api.create_model_version(
                name, source, run_id, tags=tags, description=description, model_id=model_id
            )
        output = tracking.mlflow().entities.LoggedModelOutput(model_id, 0)
        api.log_outputs(run_id, [output])
        return made, True


def download(found: Any, folder: Path) -> Path:
    """Every file of a version, put into the empty `folder` just as it lies in the registry."""
    with tempfile.TemporaryDirectory() as temporary, tracking.as_default():
        got = tracking.mlflow().artifacts.download_artifacts(
            artifact_uri=found.source, dst_path=temporary, tracking_uri=tracking.uri()
        )
        (Path(got) / "registered_model_meta").unlink(missing_ok=True)  # added on the way
        shutil.copytree(got, folder, dirs_exist_ok=True)
    return folder


@contextmanager
def lock(name: str) -> Iterator[Callable[[], None]]:
    """Hold the model's lock, wherever the other processes run; yields a check that it is held.

    A registered model's name is unique in the server's database, so that creating `NAME.lock` is
    a test and set in one. A lock older than two minutes is one whose holder died. Raises
    TimeoutError where another process keeps it.
    """
    key, token = f"{name}.lock", f"{socket.gethostname()} {uuid.uuid4().hex}"
    end, seen = time.monotonic() + PATIENCE, ("", 0.0)
    while not _claim(key, token):
        seen = _watch(key, seen)
        if time.monotonic() > end:
            raise TimeoutError(f"{name}: another process is changing it; try again later")
        time.sleep(0.2)

    def held() -> None:
        if _holder(key) != token:
            raise OvertakenError(f"{name}: its lock was lost after {STALE:.0f} s; try again")

    try:
        yield held
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
        # "Does not exist": it was there and gone again before MLflow could describe it.
        if error.error_code != "RESOURCE_ALREADY_EXISTS" and not _missing(error):
            raise
    return False


def _watch(key: str, seen: tuple[str, float]) -> tuple[str, float]:
    """Who holds the lock and since when we see that; one held too long is thrown away.

    The age is by our own clock, since the server's may go otherwise.
    """
    holder = _holder(key)
    if not holder or holder != seen[0]:
        return holder, time.monotonic()
    if time.monotonic() - seen[1] > STALE and _holder(key) == holder:
        with suppress(tracking.mlflow().exceptions.MlflowException):  # another was quicker
            tracking.client().delete_registered_model(key)
    return seen


def _holder(key: str) -> str:
    try:
        return str(tracking.client().get_registered_model(key).tags.get("holder", ""))
    except tracking.mlflow().exceptions.MlflowException as error:
        if _missing(error):
            return ""
        raise


def history(name: str) -> list[dict[str, Any]]:
    """Every move of the alias, oldest first: kind, from, to, who, when, why."""
    try:
        tags = tracking.client().get_registered_model(name).tags
    except tracking.mlflow().exceptions.MlflowException as error:
        if _missing(error):
            return []
        raise
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(HISTORY)]


def previous(name: str) -> str:
    """The champion before the present one; a rollback leads further back each time."""
    stack: list[str] = []
    for move in history(name):
        if move["kind"] == "rollback" and move["to"] in stack:
            del stack[len(stack) - stack[::-1].index(move["to"]) :]
        elif move["to"]:
            stack.append(move["to"])
    if len(stack) < 2:
        raise ValueError(f"{name}: there is no earlier champion to go back to")
    return stack[-2]


def move(name: str, expected: str | None, to: str, kind: str, why: str) -> None:
    """Make version `to` the champion if `expected` still is; raises OvertakenError otherwise.

    The history is written before the alias, so that no move is without a record; one that was
    recorded and never done, because its process died, is overwritten.
    """
    api = tracking.client()
    with lock(name) as held:
        present = champion(name)
        if present != expected:
            raise OvertakenError(f"{name}: version {present} became champion meanwhile")
        past = history(name)
        number = len(past) + 1
        if past and past[-1]["to"] != present:
            if past[-1]["from"] == present:
                number -= 1  # recorded, never done
            else:
                _record(name, number, past[-1]["to"], present, "by hand", "found moved")
                number += 1
        _record(name, number, present, to, kind, why)
        held()
        api.set_registered_model_alias(name, ALIAS, to)


def _record(name: str, number: int, old: str | None, new: str | None, kind: str, why: str) -> None:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"kind": kind, "from": old, "to": new, "who": tracking.user(), "when": when, "why": why}
    text = json.dumps(entry)
    tracking.client().set_registered_model_tag(name, f"{HISTORY}{number:06d}", text)
