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
from typing import Any

import psutil

from training import trainjob
from training.cluster.job import Request, Shape
from training.core import cli, environment
from training.core.config import to_json
from training.core.options import NAMES, read_options
from training.storage.meta import ReplicatesMeta
from training.storage.store import Manifest

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
    replicates: Path | None = None,
    **options: Any,
) -> None:
    """Train models of the config's seed and those after it; `options` are those of `TrainOptions`.

    The first seed's manifest goes to `out`, the others' files to one of kind "replicates"
    (`<seed>/ema/G.safetensors`, …) at `replicates`. Raises ValueError for wrong options and, with
    the exit code, where training does not end well; StoppedError after SIGTERM.
    """
    how = read_options(options)
    shape = Shape(how.nodes, how.nproc, how.accelerator, how.nproc, queue=how.queue)
    config = json.loads(train_config)
    entries, others = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(config["seed"], config["seed"] + how.seeds):
            first = seed == config["seed"]
            made = out if first else Path(temporary) / f"{seed}.json"
            settings = json.dumps({**config, "seed": seed}, sort_keys=True)
            request = Request(
                dataset.read_text(), model, model_config, settings, how.init, how.experiment,
                how.preset, environment.PIPELINE_RUN_ID.get(), child=not first,
            )  # fmt: skip
            if how.launcher == "local":
                _torchrun(how.nproc, dataset, request, made, Path(temporary))
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


def step(*arguments: Any, **options: Any) -> None:
    """`launch` as the pipeline's step; the process ends with 143 where it was stopped."""
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
    threads = str(max(1, (os.cpu_count() or 1) // nproc))
    given = {environment.OMP_NUM_THREADS.name: threads, **OWN_STORE} | environment.whole()
    given[environment.LAUNCH_ID.name] = environment.new_launch()  # restarted ones are no rivals
    asked: list[float] = []
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.append(time.monotonic()))
    try:
        with subprocess.Popen(command, env=given) as process:
            code = _follow(process, asked)
    finally:
        signal.signal(signal.SIGTERM, previous)
    if asked:
        raise cli.StoppedError("stopped; the same command goes on")
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

    parser = options("launch", __doc__, NAMES)
    parser.add_argument("--replicates", type=Path, help="manifest of the other seeds' models")
    args = parser.parse_args(argv)
    config = resolve(args.model, args.preset, parse(args.set))
    launch(
        args.dataset,
        args.out,
        args.model,
        to_json(config.model),
        to_json(config.train),
        replicates=args.replicates,
        **{name: getattr(args, name) for name in NAMES},
    )


if __name__ == "__main__":
    cli.entry_point(main)
