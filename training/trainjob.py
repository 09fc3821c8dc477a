"""Training on several nodes: a Kubeflow TrainJob made, followed and cleaned up by its launcher.

    python -m training.trainjob submit request.json model.json   what the pipeline's step does
    python -m training.trainjob render request.json | kubectl apply -f -    the same job, by hand
    python -m torch.distributed.run -m training.trainjob run NAME    what the job's pods run

What is to be trained goes through the store (`refs/jobs/<name>/request`), as does the result
(`refs/jobs/<name>/model`); a job's name is the hash of its request, so that a launcher that died
finds its job again, and the same training is never started twice. Other code is another training.
"""

import argparse
import json
import logging
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from training.cluster.job import Request, Shape, manifest
from training.cluster.kubernetes import Cluster, ClusterError
from training.cluster.watch import Watch, condition, leaving, say
from training.core import cli, environment
from training.core.files import canonical_json, write_bytes
from training.storage.store import Store, open_store

log = logging.getLogger(__name__)
POLL = 5.0  # s between looks at the job
FORMER = {"ask": "render", "start": "submit", "work": "run"}  # names of commands


def launch(request: Request, shape: Shape, out: Path) -> None:
    """Train `request` in a TrainJob and write the model's manifest to `out`.

    Goes on with the job of this name where one exists. SIGTERM deletes the job and raises
    StoppedError. Raises ValueError with the cause where the job fails, or cannot start.
    """
    store, name = _stored(request, shape), request.name
    if store.reference(f"jobs/{name}/model") is None:
        stops: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
        try:
            _through(Cluster(stops), request, shape, stops)
        finally:
            signal.signal(signal.SIGTERM, before)
    made = store.reference(f"jobs/{name}/model")
    if made is None:
        raise ValueError(f"{name}: the job ended without a model; its log says why")
    write_bytes(out, made.encode())


def _through(cluster: Cluster, request: Request, shape: Shape, stops: list[int]) -> None:
    """Make or join the job and follow it to its end; one that is stopped is deleted."""
    cut: ClusterError | None = None
    try:
        owner, own = cluster.itself()
        _start(cluster, manifest(request, shape, owner, shape.image or own), stops)
        _follow(cluster, request.name, shape.deadline, stops)
    except ClusterError as error:
        if not stops:
            raise
        cut = error  # a request that the signal cut short
    finally:
        if stops:
            cluster.delete(request.name)
            say(f"{request.name} deleted")
    if stops:
        raise cli.StoppedError(f"{request.name}: stopped; the same command goes on") from cut


def render(request: Request, shape: Shape) -> str:
    """Store `request` for a job that a person makes; its YAML. Raises ValueError if it is done."""
    store, name = _stored(request, shape), request.name
    if store.reference(f"jobs/{name}/model") is not None:
        raise ValueError(f"{name}: trained already; `submit` the same request for its model")
    return str(yaml.safe_dump(manifest(request, shape, [], shape.image), sort_keys=False))


def _stored(request: Request, shape: Shape) -> Store:
    """The store, with `request` in it where the job's pods look for it."""
    store = open_store()
    if not store.uri.startswith("s3://") and not shape.template:
        raise ValueError(
            f"STORE_URI={store.uri}: other nodes cannot read it; set an s3:// one, or name a "
            "template whose pods mount that folder"
        )
    store.refer(f"jobs/{request.name}/request", canonical_json(asdict(request)).decode())
    return store


def _start(cluster: Cluster, job: dict[str, Any], stops: list[int]) -> None:
    """Create the job, or join the one that stands; one that failed before makes way."""
    name = job["metadata"]["name"]
    while not stops and not cluster.create(job):
        standing = cluster.get(name)
        if standing and not condition(standing, "Failed") and not leaving(standing):
            say(f"{name} stands already; following it")
            return
        if standing and not leaving(standing):
            say(f"{name} failed before; starting it again, from its last checkpoint")
            cluster.delete(name)
        time.sleep(min(POLL, 1.0))
    say(f"{name} created: {job['spec']['trainer']['numNodes']} nodes")


def _follow(cluster: Cluster, name: str, deadline: int, stops: list[int]) -> None:
    """Wait for the job's end, with what it does and what rank 0 says."""
    watch = Watch(cluster, name, deadline)
    while not stops and not watch.look():
        if why := watch.overdue():
            cluster.delete(name)
            raise ValueError(f"{name}: {why}; job deleted")
        end = time.monotonic() + POLL
        while not stops and time.monotonic() < end:
            time.sleep(min(0.1, POLL))


def run(name: str) -> None:
    """In a job's pod, under torchrun: train what the request says; rank 0 stores the result."""
    from training.train import train  # brings torch, which the launcher does without

    store = open_store()
    text = store.reference(f"jobs/{name}/request")
    if text is None:
        raise ValueError(f"{store.uri}: no request {name}; start it with the launcher")
    request = Request(**json.loads(text))
    same = {environment.PIPELINE_RUN_ID.name: request.pipeline_run} if request.pipeline_run else {}
    with tempfile.TemporaryDirectory() as temporary, environment.changed(**same):
        dataset, out = Path(temporary) / "dataset.json", Path(temporary) / "model.json"
        dataset.write_text(request.dataset)
        train(
            dataset, out, request.model, request.model_config, request.train_config,
            init=request.init, experiment=request.experiment, preset=request.preset,
            child=request.child,
        )  # fmt: skip
        if out.is_file():  # rank 0
            store.refer(f"jobs/{name}/model", out.read_text())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.trainjob", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("submit", help="make the job and follow it")
    three = commands.add_parser("render", help="store the request and print the job's YAML")
    for command in (one, three):
        command.add_argument("request", type=Path, help="JSON with the fields of a request")
        command.add_argument("--nodes", type=int, default=Shape.nodes)
        command.add_argument("--nproc", type=int, default=Shape.nproc, help="processes a node")
        command.add_argument("--accelerators", type=int, default=Shape.accelerators, help="a node")
        command.add_argument("--image", default="")
        command.add_argument("--queue", default="", help="Kueue's local queue")
        command.add_argument("--template", default="", help="a TrainJob's YAML, instead of ours")
    one.add_argument("out", type=Path, help='manifest of kind "model"')
    two = commands.add_parser("run", help="in the job's pods, under torchrun")
    two.add_argument("name")
    args = parser.parse_args(cli.renamed(argv, FORMER))
    if args.command == "run":
        run(args.name)
        return
    shape = Shape(
        nodes=args.nodes, nproc=args.nproc, accelerators=args.accelerators, image=args.image,
        queue=args.queue, template=args.template,
    )  # fmt: skip
    request = Request(**json.loads(args.request.read_text()))
    if args.command == "submit":
        launch(request, shape, args.out)
        return
    sys.stdout.write(render(request, shape))
    sys.stderr.write(f"{request.name}: request stored\n")


if __name__ == "__main__":
    cli.entry_point(main)
