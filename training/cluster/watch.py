"""Watch a running TrainJob: its state, and the log of rank 0, each line once and in order."""

import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from training.cluster.kubernetes import Cluster, Line, rank

STUCK = 1800.0  # s that a job may be neither queued nor running
OVERLAP = 10.0  # s of log that are read again, for late lines
LAST = 3  # attempts to read the log of a finished job


class LogTail:
    """One pod's log, polled: every line is printed once, in the order of the log."""

    def __init__(self, cluster: Cluster, pod: str) -> None:
        self.cluster, self.pod = cluster, pod
        self.printed: dict[Line, tuple[int, float]] = {}  # line -> number of prints, last time
        self.updated: float | None = None  # time of the last complete read with new lines
        self.restarts = 0  # of its container

    def poll(self, restarts: int) -> bool:
        """Print the new lines; whether the log was read completely."""
        if restarts > self.restarts:
            if not self._read(previous=True):
                return False  # the log before the restart comes first
            self.restarts = restarts
        return self._read()

    def _read(self, previous: bool = False) -> bool:
        now = time.monotonic()
        # By this machine's clock, since the nodes' clocks may differ; repeated lines are dropped.
        age = None if self.updated is None else math.ceil(now - self.updated + OVERLAP)
        lines, whole = self.cluster.logs(self.pod, age, previous)
        counts: Counter[Line] = Counter()
        new, arrived = False, time.monotonic()
        for line in lines:
            counts[line] += 1
            if counts[line] > self.printed.get(line, (0, 0.0))[0]:
                self.printed[line] = counts[line], arrived
                new = True
                say(line[1])
        if whole and new and not previous:
            self.updated = now
            # Older lines are not read again.
            self.printed = {k: v for k, v in self.printed.items() if v[1] > now - 2 * OVERLAP}
        return whole


class JobWatcher:
    """Watches one job: its last state, and since when it has made no progress."""

    def __init__(self, cluster: Cluster, name: str, deadline: int) -> None:
        self.cluster, self.name, self.deadline = cluster, name, deadline
        self.state = ""
        self.tails: dict[str, LogTail] = {}  # one for each pod that is or was rank 0
        self.idle = self.began = time.monotonic()

    def poll(self) -> bool:
        """Print news; whether the job is complete. ValueError if it failed or was deleted."""
        job = self.cluster.get(self.name)
        if job is None or terminating(job):
            raise ValueError(f"{self.name}: the job was deleted; run the step again")
        pods = self.cluster.pods(self.name)
        failed, complete = condition(job, "Failed"), condition(job, "Complete")
        for _ in range(LAST if failed or complete else 1):
            if self._poll_logs(pods):
                break
        if failed:
            why = f"{failed.get('reason')}: {failed.get('message')}"
            raise ValueError(f"{self.name} failed: {why}")
        state, moving = describe(job, list({rank(pod): pod for pod in pods}.values()))
        if state != self.state:
            self.state = state
            say(f"{self.name}: {state}")
        now = time.monotonic()
        self.idle = now if moving else self.idle
        self.began = now if state.startswith("queued") else self.began
        return bool(complete)

    def _poll_logs(self, pods: list[Any]) -> bool:
        """Print new log lines of rank 0's pods, the older pod first; whether all were read."""
        whole = True
        for pod in pods:
            if rank(pod) == 0:
                key = f"{pod.metadata.name} {pod.metadata.uid}"
                tail = self.tails.setdefault(key, LogTail(self.cluster, pod.metadata.name))
                restarts = sum(c.restart_count for c in pod.status.container_statuses or ())
                whole = tail.poll(restarts) and whole
        return whole

    def overdue(self) -> str:
        """Why waiting for the job should stop, or empty text."""
        now = time.monotonic()
        if now - self.idle > STUCK:
            return f"stuck for {STUCK / 60:.0f} min ({self.state})"
        # The job's own deadline comes first; it starts to count when the job leaves its queue.
        if now - self.began > self.deadline + STUCK:
            return f"not ended {self.deadline} s after its start"
        return ""


def condition(job: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The condition of this type if it is true, else an empty dict."""
    for item in job.get("status", {}).get("conditions", ()):
        if item["type"] == kind and item["status"] == "True":
            return dict(item)
    return {}


def terminating(job: Mapping[str, Any]) -> bool:
    """Whether the job is being deleted."""
    return bool(job["metadata"].get("deletionTimestamp"))


def describe(job: Mapping[str, Any], pods: list[Any]) -> tuple[str, bool]:
    """The job's state as text, and whether it is healthy (queued or running)."""
    if job["spec"].get("suspend") or condition(job, "Suspended"):
        return "queued: suspended until its queue has room", True
    if not pods:
        return "waiting: no pods yet", False
    phases = [pod.status.phase for pod in pods]
    if all(phase in ("Running", "Succeeded") for phase in phases):
        return f"running on {len(pods)} nodes", True
    reasons = []
    for pod in pods:
        reasons += [
            f"{item.reason}: {item.message}"
            for item in pod.status.conditions or ()
            if item.type == "PodScheduled" and item.status == "False"
        ]
        for container in pod.status.container_statuses or ():
            waiting = container.state and container.state.waiting
            if waiting and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
                reasons.append(f"{waiting.reason}: {waiting.message}")
    started = sum(phase in ("Running", "Succeeded") for phase in phases)
    why = f" ({'; '.join(sorted(set(reasons)))})" if reasons else ""
    return f"waiting: {started} of {len(pods)} pods run{why}", False


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
