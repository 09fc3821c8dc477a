"""Train under torchrun, one model per seed; crashed processes are restarted.

python -m training.launch dataset.json --preset demo --nproc 2 --seeds 3 --out model.json \\
    --replicates replicates.json
"""

import contextlib
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import psutil

from training import trainjob
from training.cluster.job import Request, Shape
from training.core import cli, environment, pods
from training.core.cli import means
from training.core.config import to_json
from training.core.files import write_bytes
from training.core.metrics import write_metrics
from training.core.options import MODEL, TRAIN, Changes, Dataset, Model, TrainOptions, read_options
from training.core.temporary import temporary_folder
from training.registry.openlineage import recorded
from training.storage.meta import ReplicatesMeta
from training.storage.store import Manifest

main = cli.program("python -m training.launch", __doc__)
NOTICE = 2.0  # s within which torchrun receives a signal to the process group
GRACE = 60.0  # s for its workers to save and exit
# Restarted processes would otherwise read their peers' old addresses (pytorch issue 135712).
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@recorded("train", ("dataset",), ("out",))
def launch(
    dataset: Path,
    out: Path,
    model: str,
    model_config: str,
    train_config: str,
    *,
    replicates: Path | None = None,
    report: Path | None = None,
    metrics: Path | None = None,
    **options: Any,
) -> None:
    """Train one model per seed, from the config's seed on; `options` as in `TrainOptions`.

    The first seed's manifest goes to `out`, its page to `report` and its times and last losses to
    `metrics`; the other models' files to a manifest of kind "replicates"
    (`<seed>/ema/G.safetensors`, …) at `replicates`. Raises ValueError for wrong options and, with
    the exit code, if training fails; StoppedError after SIGTERM.
    """
    chosen = read_options(options)
    pod = pods.trainer(chosen.preset, chosen.train_cpu, chosen.train_memory)
    shape = Shape(
        chosen.nodes, chosen.nproc, chosen.accelerator, chosen.accelerators,
        cpu=pod.cpu, memory=pod.memory, queue=chosen.queue,
    )  # fmt: skip
    config = json.loads(train_config)
    entries, others = [], []
    with temporary_folder() as temporary:
        for seed in range(config["seed"], config["seed"] + chosen.seeds):
            first = seed == config["seed"]
            target = out if first else Path(temporary) / f"{seed}.json"
            settings = json.dumps({**config, "seed": seed}, sort_keys=True)
            request = Request(
                dataset.read_text(), model, model_config, settings, chosen.init, chosen.experiment,
                chosen.preset, environment.PIPELINE_RUN_ID.get(), child=not first,
                mlflow_run=environment.MLFLOW_RUN_ID.get(),
            )  # fmt: skip
            if chosen.launcher == "local":
                _torchrun(chosen.nproc, dataset, request, target, Path(temporary))
            else:
                _trainjob(request, shape, target)
            if not first:
                others.append(seed)
                entries += [
                    entry.named(f"{seed}/{entry.name}")
                    for entry in Manifest.read(target, "model").entries
                ]
    if replicates:
        Manifest("replicates", tuple(entries), ReplicatesMeta(seeds=tuple(others))).write(
            replicates
        )
    _show(out, report, metrics)


def _show(model: Path, report: Path | None, metrics: Path | None) -> None:
    """Write the page and the numbers of a trained model."""
    if report is None and metrics is None:
        return
    from training.evaluation import trained

    manifest = Manifest.read(model, "model")
    if metrics:
        write_metrics(metrics, trained.numbers(manifest.about))
    if report:
        write_bytes(report, trained.page(manifest).encode())


class TrainingError(ValueError):
    """The training ended for a reason that may pass; another attempt resumes it."""

    transient = True


def _trainjob(request: Request, shape: Shape, out: Path) -> None:
    """Train as a TrainJob. A failure may be that of a node, so another attempt resumes it."""
    trainjob.shared_store(shape)  # a mistake, which no attempt passes
    try:
        trainjob.launch(request, shape, out)
    except ValueError as error:
        raise TrainingError(str(error)) from error


def step(*arguments: Any, **options: Any) -> None:
    """`launch` as a pipeline step; the process exits with 143 if it was stopped."""
    with cli.stoppable():
        launch(*arguments, **options)


def _torchrun(nproc: int, dataset: Path, request: Request, out: Path, logs: Path) -> None:
    """Train under torchrun; StoppedError after a SIGTERM, with the state saved."""
    restarts = "3" if nproc > 1 else "0"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--log-dir", str(logs),
        "--nproc-per-node", str(nproc), "--max-restarts", restarts,
        "-m", "training.train", str(dataset), "--out", str(out), "--model", request.model,
        "--model-config", request.model_config, "--train-config", request.train_config,
        "--init", request.init, "--experiment", request.experiment, "--preset", request.preset,
        *(["--child"] if request.child else []),
    ]  # fmt: skip
    threads = str(max(1, environment.cores() // nproc))
    env = {environment.OMP_NUM_THREADS.name: threads, **OWN_STORE} | environment.whole()
    # Restarted processes keep the id, so that they do not fence each other.
    env[environment.LAUNCH_ID.name] = environment.new_launch()
    # By default torchrun kills its workers 30 s after a stop; before torch 2.12 always.
    env.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", f"{GRACE:.0f}")
    refusal = logs / f"refusal-{request.name}"
    env[environment.REFUSAL_FILE.name] = str(refusal)
    stops: list[float] = []
    previous = signal.signal(signal.SIGTERM, lambda *_: stops.append(time.monotonic()))
    try:
        with subprocess.Popen(command, env=env) as process:
            code = _wait(process, stops, refusal)
    finally:
        signal.signal(signal.SIGTERM, previous)
    if stops:
        raise cli.StoppedError("stopped; run the same command to resume")
    if refusal.is_file():
        raise ValueError(refusal.read_text())
    if code:
        raise TrainingError(
            f"training ended with exit code {code}; see its last lines for the cause"
        )


def _wait(process: "subprocess.Popen[bytes]", stops: list[float], refusal: Path) -> int:
    """Wait for torchrun and, after a stop signal, for its workers; torchrun's exit code.

    `stops` has the times of the stop signals, monotonic, in s. A signal to the process group
    reaches torchrun directly, and a second one would cut its shutdown short; so it is forwarded
    only if torchrun has not exited after `NOTICE`. So is one after a worker wrote the file
    `refusal`: torchrun would start all processes again, and each start repeat the mistake.
    """
    workers: list[psutil.Process] = []
    refused = math.inf  # when the file was seen
    while process.poll() is None:
        if stops and not workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                workers = psutil.Process(process.pid).children(recursive=True)
        if refusal.is_file():
            refused = min(refused, time.monotonic())
        if time.monotonic() - (stops[0] if stops else refused) > NOTICE:
            process.terminate()
            process.wait()
        time.sleep(0.1)
    psutil.wait_procs(workers, timeout=GRACE)
    return process.returncode


@main.default
def command(
    dataset: Dataset,
    /,
    *,
    model: Model = MODEL,
    changes: Changes = "",
    out: Annotated[Path, means("manifest of the first model to write")],
    options: Annotated[TrainOptions, cli.FIELDS] = TRAIN,
    replicates: Annotated[Path | None, means("manifest of the other seeds' models")] = None,
    report: Annotated[Path | None, means("HTML with the last pictures to write")] = None,
    metrics: Annotated[Path | None, means("JSON of times and last losses to write")] = None,
) -> None:
    # Imports torch, which the pipeline's step does not need.
    from training.models.configure import parse, resolve

    config = resolve(model, options.preset, parse(changes))
    texts = to_json(config.model), to_json(config.train)
    launch(
        dataset, out, model, *texts, replicates=replicates, report=report, metrics=metrics,
        **asdict(options),
    )  # fmt: skip


if __name__ == "__main__":
    cli.entry_point(main)
