"""Multi-node training: create, watch and clean up a Kubeflow TrainJob.

    python -m training.trainjob submit request.json model.json   what the pipeline's step does
    python -m training.trainjob render request.json | kubectl apply -f -    the same job, by hand
    python -m torch.distributed.run -m training.trainjob run NAME    what the job's pods run

Request and result are passed through the store (`refs/jobs/<name>/request` and
`refs/jobs/<name>/model`). A job's name is the hash of its request, code hash included, so that a
restarted launcher finds its job again and the same training never starts twice. The fields about
the caller are no part of it and stored for each launch (`refs/jobs/<name>/caller-<LAUNCH_ID>`).
"""

import json
import logging
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import yaml

from training.cluster.job import Request, Shape, launch_id, manifest
from training.cluster.kubernetes import RUN, STOP_PATIENCE, Cluster, ClusterError
from training.cluster.watch import JobWatcher, condition, say, terminating
from training.core import cli, environment
from training.core.cli import means
from training.core.files import canonical_json, read_json, write_bytes
from training.core.temporary import temporary_folder
from training.storage.store import Store, open_store

app = cli.program("python -m training.trainjob", __doc__)
RequestFile = Annotated[Path, means("JSON with the fields of a request")]
log = logging.getLogger(__name__)
SHAPE = Shape()
POLL = 5.0  # s between polls of the job
LEFT = "left running, as another run started it"
NONE, UNKNOWN = "", "?"  # instead of a workflow's name: outside of one, and not yet known
FORMER = {"ask": "render", "start": "submit", "work": "run"}  # former names of commands


def launch(request: Request, shape: Shape, out: Path) -> None:
    """Train `request` in a TrainJob and write the model's manifest to `out`.

    Joins the job of this name if one exists. SIGTERM raises StoppedError and deletes the job,
    unless another run started it, or SIGTERM comes to a pod whose run goes on. Raises ValueError
    with the cause if the job fails or cannot start.
    """
    store, name = _stored(request, shape), request.name
    if store.reference(f"jobs/{name}/model") is None:
        _run_job(Cluster(), store, request, shape)
    model = store.reference(f"jobs/{name}/model")
    if model is None:
        raise ValueError(f"{name}: the job ended without a model; see its log for the cause")
    write_bytes(out, model.encode())


class _Stop(BaseException):
    """SIGTERM. Raised by its handler, so that no pending request delays the answer to it."""


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the deletion
    raise _Stop


def _run_job(cluster: Cluster, store: Store, request: Request, shape: Shape) -> None:
    """Create or join the job and follow it to its end."""
    name, workflow = request.name, UNKNOWN if environment.POD_NAME.get() else NONE
    own = True
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, _stop)
        owner, image, labels = cluster.itself()
        workflow = next((one["name"] for one in owner if one["kind"] == "Workflow"), NONE)
        job = manifest(request, shape, owner, shape.image or image, labels)
        _store_caller(store, request, job)
        own = _start(cluster, job)
        _follow(cluster, name, shape.deadline)
    except _Stop:
        did = _leave_or_delete(cluster, name, workflow) if own else LEFT
        raise cli.StoppedError(f"{name}: {did}; run the same command to resume") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave_or_delete(cluster: Cluster, name: str, workflow: str) -> str:
    """Delete the job of a launcher that is stopped, unless its run goes on; what was done.

    A container has a second or less for it. So nothing is printed before, as its reader may be
    gone, and a job whose run's state is not known is left to the run's last step, `ending`.
    """
    cluster.patience = STOP_PATIENCE
    try:
        if workflow == UNKNOWN or (workflow and cluster.goes_on(workflow)):
            return "left running, as its run goes on; the step's next attempt follows it"
    except ClusterError as error:
        return f"left running, as the state of its run is not known ({error})"
    cluster.delete(name)
    return "deleted"


def render(request: Request, shape: Shape) -> str:
    """Store `request` and return its job's YAML. Raises ValueError if it is trained already."""
    store, name = _stored(request, shape), request.name
    if store.reference(f"jobs/{name}/model") is not None:
        raise ValueError(f"{name}: trained already; `submit` the same request for its model")
    job = manifest(request, shape, [], shape.image)
    _store_caller(store, request, job)
    return str(yaml.safe_dump(job, sort_keys=False))


def shared_store(shape: Shape) -> Store:
    """The store; ValueError unless the job's nodes can read it, too."""
    store = open_store()
    if not store.uri.startswith("s3://") and not shape.template:
        raise ValueError(
            f"STORE_URI={store.uri}: other nodes cannot read it; set an s3:// URI, or give a "
            "template whose pods mount that folder"
        )
    return store


def _stored(request: Request, shape: Shape) -> Store:
    """The store, with `request` under the reference that the job's pods read."""
    store = shared_store(shape)
    store.refer(f"jobs/{request.name}/request", canonical_json(asdict(request)).decode())
    return store


def _store_caller(store: Store, request: Request, job: dict[str, Any]) -> None:
    """For the pods of `job`: the stored request may be that of an earlier run."""
    text = canonical_json(request.caller).decode()
    store.refer(f"jobs/{request.name}/caller-{launch_id(job)}", text)


def _start(cluster: Cluster, job: dict[str, Any]) -> bool:
    """Create the job, or join the existing one; a failed one is deleted and created again.

    False: another run started the job that is joined.
    """
    name = job["metadata"]["name"]
    while not cluster.create(job):
        existing = cluster.get(name)
        if existing and not condition(existing, "Failed") and not terminating(existing):
            say(f"{name} exists already; following it")
            own = existing["metadata"].get("labels") or {}
            return bool(own.get(RUN) == job["metadata"]["labels"][RUN])
        if existing and not terminating(existing):
            say(f"{name} failed before; restarting it from its last checkpoint")
            cluster.delete(name)
        time.sleep(min(POLL, 1.0))
    say(f"{name} created: {job['spec']['trainer']['numNodes']} nodes")
    return True


def _follow(cluster: Cluster, name: str, deadline: int) -> None:
    """Wait for the job's end; print its state and the log of rank 0."""
    watcher = JobWatcher(cluster, name, deadline)
    while not watcher.poll():
        if why := watcher.overdue():
            cluster.delete(name)
            raise ValueError(f"{name}: {why}; job deleted")
        time.sleep(POLL)


@app.command
def run(name: Annotated[str, means("name of the job")], /) -> None:
    """In a job's pod, under torchrun: train the stored request; rank 0 stores the result."""
    environment.share_cores()  # before torch reads it
    from training.train import train  # imports torch, which the launcher does not need

    store = open_store()
    text = store.reference(f"jobs/{name}/request")
    if text is None:
        raise ValueError(f"{store.uri}: no request {name}; start the job with the launcher")
    launch = environment.LAUNCH_ID.get()  # none in a PyTorchJob
    caller = store.reference(f"jobs/{name}/caller-{launch}") if launch else None
    request = Request(**{**json.loads(text), **json.loads(caller or "{}")})
    given = {
        environment.PIPELINE_RUN_ID.name: request.pipeline_run,
        environment.MLFLOW_RUN_ID.name: request.mlflow_run,
    }
    same = {name: value for name, value in given.items() if value}
    with temporary_folder() as temporary, environment.changed(**same):
        dataset, out = Path(temporary) / "dataset.json", Path(temporary) / "model.json"
        dataset.write_text(request.dataset)
        train(
            dataset, out, request.model, request.model_config, request.train_config,
            init=request.init, experiment=request.experiment, preset=request.preset,
            child=request.child,
        )  # fmt: skip
        if out.is_file():  # rank 0
            store.refer(f"jobs/{name}/model", out.read_text())


@app.command(name="submit")
def _submit(
    request: RequestFile,
    out: Annotated[Path, means('manifest of kind "model" to write')],
    /,
    *,
    shape: Annotated[Shape, cli.FIELDS] = SHAPE,
) -> None:
    """Create the job and follow it."""
    launch(Request(**read_json(request)), shape, out)


@app.command(name="render")
def _render(request: RequestFile, /, *, shape: Annotated[Shape, cli.FIELDS] = SHAPE) -> None:
    """Store the request and print the job's YAML."""
    stored = Request(**read_json(request))
    sys.stdout.write(render(stored, shape))
    sys.stderr.write(f"{stored.name}: request stored\n")


def main(argv: list[str] | None = None) -> None:
    app(cli.renamed(argv, FORMER))


if __name__ == "__main__":
    cli.entry_point(main)
