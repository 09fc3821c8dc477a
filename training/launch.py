"""Step 7: train under torchrun, one model a seed; a crashed process is started again.

python -m training.launch dataset.json --preset demo --nproc 2 --seeds 3 --out model.json \\
    --replicates replicates.json
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from training import trainjob
from training.cluster.job import Request, Shape
from training.core import cli
from training.core.config import to_json
from training.core.environment import new_launch
from training.storage.meta import ReplicatesMeta
from training.storage.store import Manifest

LAUNCHERS = ("local", "trainjob")
NOTICE = 2.0  # s for torchrun to have had the signal that reached us
GRACE = 60.0  # s for its processes to save and end
# Restarted processes otherwise find their peers' old addresses (pytorch issue 135712).
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def launch(
    dataset: Path,
    out: Path,
    model: str,
    model_config: str,
    train_config: str,
    *,
    nproc: int = 1,
    seeds: int = 1,
    init: str = "",
    experiment: str = "stargan",
    preset: str = "demo",
    replicates: Path | None = None,
    launcher: str = "local",
    nodes: int = 1,
    queue: str = "",
    accelerator: str = "nvidia.com/gpu",
    accelerators: int = 0,
) -> None:
    """Train `seeds` models, of the config's seed and those after it, on `nproc` processes each.

    `launcher`: "local", or "trainjob" for a Kubeflow TrainJob on `nodes` nodes of `nproc` processes
    and accelerators each, in Kueue's `queue` if one is named. `accelerators` are those of this pod.

    The first seed's manifest goes to `out`, the others' files to one of kind "replicates"
    (`<seed>/ema/G.safetensors`, …) at `replicates`. Raises ValueError for numbers below 1, and
    with the exit code where training does not end well.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"launcher={launcher}: {' or '.join(LAUNCHERS)} is needed")
    for name, number in (("nproc", nproc), ("seeds", seeds), ("nodes", nodes)):
        if number < 1:
            raise ValueError(f"{name}={number}: at least 1 is needed")
    if launcher == "trainjob" and accelerators:
        raise ValueError(
            f"accelerators={accelerators}: this pod only starts a TrainJob, whose pods have nproc "
            "each; set accelerators=0"
        )
    if accelerators and nproc > accelerators:
        raise ValueError(f"nproc={nproc}: one for each of {accelerators} accelerators at most")
    shape = Shape(nodes, nproc, accelerator, nproc, queue=queue)
    config = json.loads(train_config)
    entries, others = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(config["seed"], config["seed"] + seeds):
            first = seed == config["seed"]
            made = out if first else Path(temporary) / f"{seed}.json"
            settings = json.dumps({**config, "seed": seed}, sort_keys=True)
            request = Request(
                dataset.read_text(), model, model_config, settings, init, experiment, preset,
                os.environ.get("PIPELINE_RUN_ID", ""), child=not first,
            )  # fmt: skip
            if launcher == "local":
                _torchrun(nproc, dataset, request, made, Path(temporary))
            else:
                trainjob.launch(request, shape, made)
            if not first:
                others.append(seed)
                entries += [
                    entry.named(f"{seed}/{entry.name}")
                    for entry in Manifest.read(made, "model").entries
                ]
    if replicates:
        Manifest("replicates", tuple(entries), ReplicatesMeta(seeds=tuple(others))).write(
            replicates
        )


def _torchrun(nproc: int, dataset: Path, request: Request, out: Path, logs: Path) -> None:
    """Train under torchrun; a SIGTERM saves the state and ends with SystemExit(143)."""
    restarts = "3" if nproc > 1 else "0"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--log-dir", str(logs),
        "--nproc-per-node", str(nproc), "--max-restarts", restarts,
        "-m", "training.train", str(dataset), "--out", str(out), "--model", request.model,
        "--model-config", request.model_config, "--train-config", request.train_config,
        "--init", request.init, "--experiment", request.experiment, "--preset", request.preset,
    ]  # fmt: skip
    threads = str(max(1, (os.cpu_count() or 1) // nproc))
    # A run that the platform injects is the first seed's; the others are its children.
    child = {"RUN_AS_CHILD": "1"} if request.child else {}
    launch = {"LAUNCH_ID": new_launch()}  # its restarted processes are no rivals of each other
    environment = {"OMP_NUM_THREADS": threads, **OWN_STORE, **os.environ, **child, **launch}
    asked: list[float] = []
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.append(time.monotonic()))
    try:
        with subprocess.Popen(command, env=environment) as process:
            code = _follow(process, asked)
    finally:
        signal.signal(signal.SIGTERM, previous)
    if asked:
        raise SystemExit(cli.STOPPED)
    if code:
        raise ValueError(f"training ended with exit code {code}; its last lines say why")


def _follow(process: "subprocess.Popen[bytes]", asked: list[float]) -> int:
    """Wait for torchrun and, once it is `asked` to stop, for what it started; its exit code.

    A signal to the whole group reaches torchrun by itself, and a second one would cut its own
    shutdown short; so it is passed on only where torchrun has not ended after `NOTICE`.
    """
    workers: list[psutil.Process] = []
    while process.poll() is None:
        if asked and not workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                workers = psutil.Process(process.pid).children(recursive=True)
        if asked and time.monotonic() - asked[0] > NOTICE:
            process.terminate()
            process.wait()
        time.sleep(0.1)
    psutil.wait_procs(workers, timeout=GRACE)
    return process.returncode


def main(argv: list[str] | None = None) -> None:
    from training.models.presets import (  # bring torch, which the pipeline's step does without
        parse,
        resolve,
    )
    from training.train import options

    parser = options("launch", __doc__)
    parser.add_argument("--nproc", type=int, default=1, help="processes")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="local")
    parser.add_argument("--nodes", type=int, default=1, help="of a TrainJob")
    parser.add_argument("--queue", default="", help="Kueue's local queue, for a TrainJob")
    parser.add_argument("--seeds", type=int, default=1, help="models, of seeds one apart")
    parser.add_argument("--replicates", type=Path, help="manifest of the other seeds' models")
    args = parser.parse_args(argv)
    config = resolve(args.model, args.preset, parse(args.set))
    launch(
        args.dataset,
        args.out,
        args.model,
        to_json(config.model),
        to_json(config.train),
        nproc=args.nproc,
        seeds=args.seeds,
        init=args.init,
        experiment=args.experiment,
        preset=args.preset,
        replicates=args.replicates,
        launcher=args.launcher,
        nodes=args.nodes,
        queue=args.queue,
    )


if __name__ == "__main__":
    cli.run(main)
