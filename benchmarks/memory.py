"""Measure the peak memory of each step of a run; the requests in `training/core/pods.py` follow.

    python benchmarks/memory.py preset=smoke

A step's memory is the sum over its processes of the proportional set size (PSS), read from /proc
every 0.1 s: what a pod is charged for, but for files in the page cache. The run is a real one, with
all its results under ./runs; a step that comes from the cache is not measured.
"""

import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Annotated

import psutil

from training.core import cli
from training.core.cli import means

main = cli.program("python benchmarks/memory.py", __doc__)
HEAD = re.compile(r"\[\d+/\d+\] ([\w-]+)(: from cache)?")
INTERVAL = 0.1  # s


def pss(process: psutil.Process) -> int:
    """Bytes of one process, 0 if it has ended; shared pages count in proportion."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return int(process.memory_full_info().pss)
    return 0


@main.default
def measure(*pairs: Annotated[str, means("key=value, as for python -m pipelines run")]) -> None:
    command = [sys.executable, "-u", "-m", "pipelines", "run", *pairs]
    peaks: dict[str, int] = {}
    current = ""

    def sample(run: psutil.Process) -> None:
        while run.is_running() and run.status() != psutil.STATUS_ZOMBIE:
            found = sum(pss(child) for child in run.children(recursive=True))
            if current:
                peaks[current] = max(peaks.get(current, 0), found)
            time.sleep(INTERVAL)

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        sampler = threading.Thread(target=sample, args=(psutil.Process(run.pid),), daemon=True)
        sampler.start()
        for line in run.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            if head := HEAD.match(line):
                current = "" if head[2] else head[1]
    sampler.join(10)
    for name, peak in peaks.items():
        print(f"{name:20} {peak / 2**20:6.0f} MiB")
    sys.exit(run.returncode)


if __name__ == "__main__":
    cli.entry_point(main)
