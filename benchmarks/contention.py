"""Benchmark the training step beside other work on the machine, with both ways of waiting.

    python benchmarks/contention.py

A thread of OpenMP that waits for the others spins (OpenMP's default), sleeps, or sleeps after a
brief spin (ours). Each measurement is the training step of StarGAN's demo in a process of its own,
alone or beside one process of torch that computes all the time. The cases alternate, so that a
slow period affects all.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

from training.core import cli
from training.core.cli import means

main = cli.program("python benchmarks/contention.py", __doc__)
# libgomp's own default; given explicitly it overrides the passive policy.
WAITS = {
    "spinning": {"GOMP_SPINCOUNT": "300000"},
    "sleeping": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
    "brief": {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": ""},
}
STEPS = 5  # of a cycle
BUSY = "import torch\na = torch.rand(512, 512)\nwhile True:\n    a @ a"


def measure(size: int, batch: int, cycles: int) -> float:
    """Images per second of the training step in this process."""
    import torch
    from step import make_job, ours, timed

    from training.models.configure import resolve

    device = torch.device("cpu")
    step = ours(make_job(size, batch, device, resolve("stargan", "demo", {}).model))
    timed(step, device, STEPS)  # warms up
    return STEPS * batch / statistics.median(timed(step, device, STEPS).wall for _ in range(cycles))


def rate(wait: str, beside: bool, settings: list[str]) -> float:
    """Images per second of one measurement in a process of its own."""
    busy = [sys.executable, "-c", BUSY]
    other = subprocess.Popen(busy) if beside else None
    try:
        time.sleep(2)
        command = [sys.executable, str(Path(__file__)), "--once", *settings]
        return float(subprocess.check_output(command, text=True, env=os.environ | WAITS[wait]))
    finally:
        if other:
            other.kill()
            other.wait()


@main.default
def command(
    *,
    size: Annotated[int, means("side of the images, px")] = 64,
    batch: Annotated[int, means("images of a batch")] = 8,
    cycles: Annotated[int, means("timed cycles of five iterations")] = 3,
    rounds: Annotated[int, means("measurements of each case")] = 3,
    once: Annotated[bool, means("only print the images/s of this process")] = False,
) -> None:
    if once:
        print(measure(size, batch, cycles))
        return
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.processor() or platform.machine()}, {cores} cores, {size} px, batch {batch}")
    settings = [f"--size={size}", f"--batch={batch}", f"--cycles={cycles}"]
    cases = [(wait, beside) for beside in (False, True) for wait in WAITS]
    rates: dict[tuple[str, bool], list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            rates[case].append(rate(*case, settings))
    for (wait, beside), measured in rates.items():
        print(
            f"waiting threads {wait}, {'beside one busy process' if beside else 'alone':24s} "
            f"{statistics.median(measured):7.2f} images/s; each: "
            + " ".join(f"{value:.2f}" for value in measured)
        )


if __name__ == "__main__":
    main()
