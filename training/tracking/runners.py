"""The process that began a run, so that a later one can tell whether it was killed."""

import os
import socket
from pathlib import Path

import psutil

CLOCK = 5.0  # s by which a process' start may seem to move with the clock


def this() -> str:
    """This process: host, process namespace, id and start."""
    started = psutil.Process().create_time()
    return f"{socket.gethostname()} {_namespace()} {os.getpid()} {started:.2f}"


def ended(runner: str) -> bool:
    """Whether that process has ended; False if it is not known, or of a host or container that
    this process does not see."""
    host, namespace, pid, started = runner.split() if runner.count(" ") == 3 else ("", "", "", "")
    if (host, namespace) != (socket.gethostname(), _namespace()):
        return False
    try:
        process = psutil.Process(int(pid))
        other = abs(process.create_time() - float(started)) > CLOCK
        return other or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def started(runner: str) -> float | None:
    """When that process started, s since the epoch; None if that is not known."""
    words = runner.split()
    return float(words[3]) if len(words) == 4 else None


def _namespace() -> str:
    """The process namespace of a container, or of the host."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not on Linux
        return "-"
