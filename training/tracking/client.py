"""MLflow client: runs, metrics and pictures.

The address is MLFLOW_TRACKING_URI: a server, an SQLite file, or `off`. Unset, it is the file
runs/mlflow.db with artifacts in runs/mlartifacts. One pipeline run is one parent run, found by the
tag `pipeline_run` (PIPELINE_RUN_ID); every training is a child of it. If the platform injects
MLFLOW_RUN_ID, a run of this MLflow, that run is joined instead.
"""

import functools
import getpass
import io
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from training.core import environment
from training.core.entries import inside
from training.core.options import EXPERIMENT
from training.core.shown import has_login, shown
from training.core.temporary import temporary_folder
from training.tracking import database, moved, names, parents, runners
from training.tracking.parents import ALONE, PARENT

# Errors for a run that a server does not have, the second for an id of another form.
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
DIGEST_LENGTH = 36  # MLflow's limit for a data set's digest
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI then opens on the runs


def mlflow() -> Any:
    """The mlflow module, imported on first use (2 s) with its telemetry off."""
    environment.put_default(
        MLFLOW_DISABLE_TELEMETRY="true",
        DO_NOT_TRACK="true",
        MLFLOW_LOGGING_LEVEL="WARNING",
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    )
    import mlflow as module

    return module


def uri() -> str:
    """The tracking URI; `off` if tracking is disabled.

    A user and password in a server's address are handed to MLflow apart from it, as it repeats the
    address in its errors. Those of MLFLOW_TRACKING_USERNAME come first.
    """
    given = environment.MLFLOW_TRACKING_URI.get() or f"sqlite:///{_runs() / 'mlflow.db'}"
    parts = urlsplit(given) if given.startswith("http") and has_login(given) else None
    if parts is None:
        return given
    if not environment.MLFLOW_TRACKING_USERNAME.get():
        environment.put(
            MLFLOW_TRACKING_USERNAME=unquote(parts.username or ""),
            MLFLOW_TRACKING_PASSWORD=unquote(parts.password or ""),
        )
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def check_address() -> None:
    """Raise ValueError for an MLFLOW_TRACKING_URI that MLflow's registry cannot use."""
    address = uri()
    if address != "off" and ("://" not in address or address.startswith("file:")):
        raise ValueError(
            f"MLFLOW_TRACKING_URI={address}: a folder; MLflow no longer registers models in files. "
            f"Give an SQLite file, sqlite:///{Path(address.removeprefix('file://')).absolute()}"
            "/mlflow.db, a server's http:// address, or off"
        )


def _runs() -> Path:
    return environment.runs().absolute()


def client() -> Any:
    """An MlflowClient for `uri()`, whose SQLite file is made and checked first.

    Raises ValueError if tracking is off or the file cannot be used.
    """
    if uri() == "off":
        raise ValueError("MLFLOW_TRACKING_URI=off: runs and models are not recorded; unset it")
    module = mlflow()
    if path := database.file_of(uri()):
        database.ready(path)
        moved.follow(path.absolute())
    return module.MlflowClient(uri(), uri())


def rows(query: str, *values: str) -> list[tuple[Any, ...]]:
    """The rows of a query to MLflow's SQLite file, read without MLflow; empty: ask MLflow."""
    path = database.file_of(uri())
    if path is None:
        return []
    if not database.rows(path, query, values):
        return []
    moved.follow(path.absolute())  # only a file that MLflow's schema describes
    return database.rows(path, query, values)


class TrackingError(ValueError):
    """The MLflow server is unreachable, refuses the credentials, or fails."""

    transient = True


@contextmanager
def answered() -> Iterator[None]:
    """Convert a failed request, after MLflow's own retries, into a TrackingError with the fix."""
    try:
        yield
    except (OSError, mlflow().exceptions.MlflowException) as error:
        import requests

        text = " ".join(shown(error).split())
        if not isinstance(error, requests.RequestException) and "API request to" not in text:
            raise
        if re.search(r"error code 401|\b401 Client Error", text):
            fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        elif re.search(r"error code 403|\b403 Client Error", text):
            fix = (
                f"{user()} may not do this: let its owner or an administrator permit it, use "
                "another name, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        else:
            fix = "start it and its storage, or set MLFLOW_TRACKING_URI"
            fix += environment.proxied(uri())
        raise TrackingError(
            f"MLflow at {shown(uri())}: {text[:300]}; {fix}, then run this again"
        ) from error


@contextmanager
def as_default() -> Iterator[None]:
    """Set MLflow's global tracking URI to `uri()` in the block: some of its parts use only that."""
    with environment.changed(MLFLOW_TRACKING_URI=uri()):  # MLflow sets it and later removes it
        mlflow().set_tracking_uri(uri())
        try:
            yield
        finally:
            mlflow().set_tracking_uri(None)


def user() -> str:
    """The current user's name, for records."""
    try:
        return environment.MLFLOW_TRACKING_USERNAME.get() or getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"


def experiment_id(name: str = EXPERIMENT) -> str:
    """The experiment's id; the experiment is created if it does not exist."""
    api, errors = client(), mlflow().exceptions
    experiment = api.get_experiment_by_name(name)
    if experiment is None:
        # A server chooses the artifact location itself.
        local = None if uri().startswith("http") else (_runs() / "mlartifacts").as_uri()
        try:
            return str(api.create_experiment(name, artifact_location=local, tags=KIND))
        except errors.MlflowException:  # another process was first
            experiment = api.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise ValueError(f"MLflow experiment {name!r} is deleted; restore it or name another")
    return str(experiment.experiment_id)


@functools.cache
def pipeline_run_id() -> str:
    """The name that joins the steps of one pipeline run; a random one outside a pipeline."""
    return environment.PIPELINE_RUN_ID.get() or f"{ALONE}{uuid.uuid4().hex[:12]}"


def injected() -> tuple[str, str]:
    """Ids of the run that the platform created for this step and of its parent; empty if none.

    A run that this MLflow does not have counts as none: the platform then logs to another one.
    """
    run_id = environment.MLFLOW_RUN_ID.get()
    if not run_id:
        return "", ""
    try:
        return run_id, client().get_run(run_id).data.tags.get(PARENT, "")
    except mlflow().exceptions.MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise
        sys.stderr.write(
            f"tracking: {shown(uri())} has no run {run_id} (MLFLOW_RUN_ID): the platform logs to "
            "another MLflow, and this step to runs of its own\n"
        )
        return "", ""


def parent_run(experiment: str = EXPERIMENT) -> str:
    """The id of this pipeline run's parent run: joined, found or created.

    Parents of runs that were killed on this machine are closed first.
    """
    step, parent = injected()
    if step:
        return parent or step
    id_, name, api = experiment_id(experiment), pipeline_run_id(), client()
    runner = environment.PIPELINE_RUNNER.get() or (runners.this() if alone() else "")
    if runner or _local():
        path = parents.note(_notes(), name)
        parents.Note(path, experiment, runner, shown(uri())).write()
    if existing := parents.find(api, id_, name):
        return existing
    parents.close(api, parents.killed(_notes(), shown(uri()), name))
    tags = {"pipeline_run": name, "role": "pipeline", "mlflow.user": user()}
    run = api.create_run(id_, tags=tags, run_name=f"pipeline {name}")
    created = str(run.info.run_id)
    winner = parents.find(api, id_, name) or created
    if winner != created:  # two steps started at once
        api.delete_run(created)
    return winner


def alone() -> bool:
    """Whether this process is no step of a pipeline run."""
    return not environment.PIPELINE_RUN_ID.get()


def _local() -> bool:
    return database.file_of(uri()) is not None


def _notes() -> Path:
    """Folder of the notes on open parents; without one in it, MLflow need not be imported."""
    return _runs() / "parents"


def end_parent(status: str, experiment: str = EXPERIMENT) -> str:
    """Close the pipeline run's parent as FINISHED, FAILED or KILLED; returns its id, or empty.

    The platform's run, if it was joined, is left to it. A pipeline run that logged nothing has no
    parent, unless it completes one that was killed: that one's is closed as KILLED.
    """
    if uri() == "off" or injected()[0]:
        return ""
    name = pipeline_run_id()
    note, killed = parents.note(_notes(), name), parents.killed(_notes(), shown(uri()), name)
    if _local() and not note.is_file() and not killed:
        return ""
    if killed:
        run_id = parent_run(experiment)
        parents.close(client(), killed)
    else:
        run_id = parents.find(client(), experiment_id(experiment), name)
    if run_id:
        client().set_terminated(run_id, status)
    note.unlink(missing_ok=True)
    return run_id


def _dataset(name: str, digest: str, source: str) -> Any:
    entities = mlflow().entities
    kind = "s3" if source.startswith("s3://") else "local"
    data = entities.Dataset(name, digest, kind, json.dumps({"uri": source}))
    return entities.DatasetInput(data, [entities.InputTag("mlflow.data.context", "training")])


def log_results(run_id: str, metrics: Mapping[str, float], files: Mapping[str, Path]) -> None:
    """Log final metrics and files (name within the run -> path) to a run."""
    api, entities = client(), mlflow().entities
    points = [entities.Metric(names.key(k), v, now(), 0) for k, v in metrics.items()]
    for start in range(0, len(points), 1000):
        api.log_batch(run_id, points[start : start + 1000])
    with temporary_folder() as folder:
        for name, path in files.items():
            copy = inside(Path(folder), name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        if files:
            api.log_artifacts(run_id, folder)


def read_png(data: bytes) -> Any:
    """A picture for MLflow. Raises OSError, SyntaxError or ValueError for what is no PNG."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
        return opened.convert("RGB")


def log_pictures(run_id: str, files: Mapping[str, Path]) -> None:
    """Log PNG files (key -> path) as pictures, which the page shows in its grid of images."""
    for key, path in files.items():
        picture = read_png(path.read_bytes())
        client().log_image(run_id, picture, key=names.picture_key(key), step=0)


def log_run(
    experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, str],
    metrics: Mapping[str, float], files: Mapping[str, Path],
) -> str:  # fmt: skip
    """Create a finished run with all its data; returns its id."""
    api, entities = client(), mlflow().entities
    run = api.create_run(
        experiment_id(experiment), tags={"mlflow.user": user(), **tags}, run_name=name
    )
    run_id = str(run.info.run_id)
    api.log_batch(run_id, params=[entities.Param(names.key(k), v) for k, v in params.items()])
    log_results(run_id, metrics, files)
    api.set_terminated(run_id, "FINISHED")
    return run_id


def experiment_of(run_id: str) -> str:
    """The name of a run's experiment, or the default one if the server does not have the run."""
    api, errors = client(), mlflow().exceptions
    try:
        return str(api.get_experiment(api.get_run(run_id).info.experiment_id).name)
    except errors.MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise
        return EXPERIMENT


def log_dataset(run_id: str, name: str, digest: str, source: str) -> None:
    """Log the data set of a run; `digest` is cut to 36 characters (a DVC md5.dir fits)."""
    client().log_inputs(run_id, [_dataset(name, digest[:DIGEST_LENGTH], source)])


def now() -> int:
    return int(time.time() * 1000)
