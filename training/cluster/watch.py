"""A TrainJob under way: what it does, and what its rank 0 says, each line once and in order."""

import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from training.cluster.kubernetes import Cluster, Line, rank

STUCK = 1800.0  # s that a job may be neither queued nor running
OVERLAP = 10.0  # s of log that are read again, for lines that came late
LAST = 3  # times that an ended job's log is asked for, where it breaks


class Tail:
    """One pod's log, read again and again: every line is said once, as it stands in the log."""

    def __init__(self, cluster: Cluster, pod: str) -> None:
        self.cluster, self.pod = cluster, pod
        self.said: dict[Line, tuple[int, float]] = {}  # how many such lines, and when
        self.heard: float | None = None  # when something new came in a log that arrived whole
        self.restarts = 0  # of its container

    def listen(self, restarts: int) -> bool:
        """Say what is new; whether the log arrived whole."""
        if restarts > self.restarts:
            if not self._read(previous=True):
                return False  # first its last words
            self.restarts = restarts
        return self._read()

    def _read(self, previous: bool = False) -> bool:
        now = time.monotonic()
        # By this machine's clock, since the nodes' may be another; what comes twice is left out.
        age = None if self.heard is None else math.ceil(now - self.heard + OVERLAP)
        lines, whole = self.cluster.logs(self.pod, age, previous)
        counts: Counter[Line] = Counter()
        new, arrived = False, time.monotonic()
        for line in lines:
            counts[line] += 1
            if counts[line] > self.said.get(line, (0, 0.0))[0]:
                self.said[line] = counts[line], arrived
                new = True
                say(line[1])
        if whole and new and not previous:
            self.heard = now
            # Older ones are not asked for again.
            self.said = {k: v for k, v in self.said.items() if v[1] > now - 2 * OVERLAP}
        return whole


class Watch:
    """A job under way: what was last seen of it, and since when it has not moved."""

    def __init__(self, cluster: Cluster, name: str, deadline: int) -> None:
        self.cluster, self.name, self.deadline = cluster, name, deadline
        self.state = ""
        self.tails: dict[str, Tail] = {}  # of each pod that was rank 0's
        self.idle = self.began = time.monotonic()

    def look(self) -> bool:
        """Tell what is new; whether the job is done. Raises ValueError where it cannot end well."""
        job = self.cluster.get(self.name)
        if job is None or leaving(job):
            raise ValueError(f"{self.name}: somebody deleted the job; run the step again")
        pods = self.cluster.pods(self.name)
        failed, complete = condition(job, "Failed"), condition(job, "Complete")
        for _ in range(LAST if failed or complete else 1):
            if self._listen(pods):
                break
        if failed:
            why = f"{failed.get('reason')}: {failed.get('message')}"
            raise ValueError(f"{self.name} failed: {why}")
        state, moving = describe(job, list({rank(pod): pod for pod in pods}.values()))
        if state != self.state:
            self.state = state
            say(f"{self.name}: {state}")
        self.idle = time.monotonic() if moving else self.idle
        return bool(complete)

    def _listen(self, pods: list[Any]) -> bool:
        """Say what rank 0's pods have said since, the older one first; whether that is all."""
        whole = True
        for pod in pods:
            if rank(pod) == 0:
                key = f"{pod.metadata.name} {pod.metadata.uid}"
                tail = self.tails.setdefault(key, Tail(self.cluster, pod.metadata.name))
                restarts = sum(c.restart_count for c in pod.status.container_statuses or ())
                whole = tail.listen(restarts) and whole
        return whole

    def overdue(self) -> str:
        """Why the job should not be waited for any longer, or the empty text."""
        now = time.monotonic()
        if now - self.idle > STUCK:
            return f"stuck for {STUCK / 60:.0f} min ({self.state})"
        # The job's own deadline comes first; it starts to count when the job does.
        if now - self.began > self.deadline + STUCK and not self.state.startswith("queued"):
            return f"not ended {self.deadline} s after its start"
        return ""


def condition(job: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The condition of this type that holds, or an empty one."""
    for found in job.get("status", {}).get("conditions", ()):
        if found["type"] == kind and found["status"] == "True":
            return dict(found)
    return {}


def leaving(job: Mapping[str, Any]) -> bool:
    """Whether the job is being deleted."""
    return bool(job["metadata"].get("deletionTimestamp"))


def describe(job: Mapping[str, Any], pods: list[Any]) -> tuple[str, bool]:
    """What the job does, for a person; and whether it is in good order (queued, or running)."""
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
            f"{found.reason}: {found.message}"
            for found in pod.status.conditions or ()
            if found.type == "PodScheduled" and found.status == "False"
        ]
        for found in pod.status.container_statuses or ():
            waiting = found.state and found.state.waiting
            if waiting and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
                reasons.append(f"{waiting.reason}: {waiting.message}")
    started = sum(phase in ("Running", "Succeeded") for phase in phases)
    why = f" ({'; '.join(sorted(set(reasons)))})" if reasons else ""
    return f"waiting: {started} of {len(pods)} pods run{why}", False


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
