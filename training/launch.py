"""Step 7: train under torchrun, one model a seed; a crashed process is started again.

python -m training.launch dataset.json --preset demo --nproc 2 --seeds 3 --out model.json \\
    --replicates replicates.json
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from training import cli
from training.config import to_json
from training.presets import parse, resolve
from training.store import Manifest
from training.train import options


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
) -> None:
    """Train `seeds` models, of the config's seed and those after it, on `nproc` processes each.

    The first seed's manifest goes to `out`, the others' files to one of kind "replicates"
    (`<seed>/ema/G.safetensors`, …) at `replicates`. Raises ValueError for numbers below 1, and
    with the exit code where training does not end well.
    """
    for name, number in (("nproc", nproc), ("seeds", seeds)):
        if number < 1:
            raise ValueError(f"{name}={number}: at least 1 is needed")
    config = json.loads(train_config)
    entries, others = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(config["seed"], config["seed"] + seeds):
            first = seed == config["seed"]
            made = out if first else Path(temporary) / f"{seed}.json"
            settings = json.dumps({**config, "seed": seed}, sort_keys=True)
            options = [
                "--model", model, "--model-config", model_config, "--train-config", settings,
                "--init", init, "--experiment", experiment, "--preset", preset,
            ]  # fmt: skip
            _torchrun(nproc, [str(dataset), "--out", str(made), *options])
            if not first:
                others.append(seed)
                entries += [
                    entry.named(f"{seed}/{entry.name}")
                    for entry in Manifest.read(made, "model").entries
                ]
    if replicates:
        Manifest("replicates", tuple(entries), {"seeds": others}).write(replicates)


def _torchrun(nproc: int, arguments: list[str]) -> None:
    restarts = "3" if nproc > 1 else "0"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(nproc), "--max-restarts", restarts,
        "-m", "training.train", *arguments,
    ]  # fmt: skip
    threads = str(max(1, (os.cpu_count() or 1) // nproc))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        raise ValueError(f"training ended with exit code {code}; its last lines say why")


def main(argv: list[str] | None = None) -> None:
    parser = options("launch", __doc__)
    parser.add_argument("--nproc", type=int, default=1, help="processes")
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
    )


if __name__ == "__main__":
    cli.run(main)
