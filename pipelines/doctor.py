"""Say what a cluster lacks for a run before the run fails, one line each, with the fix.

    python -m pipelines doctor preset=celeba-128 accelerators=4 nproc=4

The parameters are those of `submit`. Nothing is changed. The Kubernetes cluster is that of
KUBECONFIG or of the pod; what its user may not read is said to be unchecked.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pipelines import checks, compiled, room
from pipelines.arguments import parse
from pipelines.credentials import NAMESPACE
from pipelines.rights import rights
from pipelines.state import Finding, RefusedError, State
from training.cluster.kubernetes import ClusterError
from training.core import environment
from training.core.cli import means

WHOLE = (checks.storage, room.nodes, checks.images)  # of the cluster, not the namespace
OWN = (checks.secrets, checks.addresses, checks.storage, checks.trainer, rights,
       room.quota, room.queue, room.nodes, checks.images)  # fmt: skip


def report(namespace: str, package: Path, arguments: dict[str, Any]) -> Iterator[Finding]:
    """Every finding, in the order in which a cluster is set up.

    Without a cluster that answers the last one says so.
    """
    try:
        state = State(namespace, package, arguments)
    except ClusterError as error:
        if environment.KF_PIPELINES_ENDPOINT.get():
            yield from checks.pipelines(None)
        yield Finding("missing", "kubernetes", str(error))
        return
    try:
        yield from checked(checks.kubernetes, state)
        yield from checks.pipelines(state)
        there = list(checked(checks.namespace, state))
        yield from there
        for check in WHOLE if there[0].state == "missing" else OWN:
            yield from checked(check, state)
    except ClusterError as error:
        yield Finding("missing", "kubernetes", str(error))


def checked(check: Callable[[State], Iterator[Finding]], state: State) -> Iterator[Finding]:
    """The findings of a check, and that it was refused."""
    try:
        yield from check(state)
    except RefusedError:
        yield Finding(
            "unchecked", check.__name__, "this login may not read them; ask an administrator"
        )


def examine(
    *pairs: Annotated[str, means("key=value")],
    package: Annotated[Path | None, compiled.CHOSEN] = None,
    namespace: Annotated[str, means("the profile's namespace", "--namespace", "-n")] = NAMESPACE,
) -> None:
    """What the cluster lacks for this run; 1 if anything is missing."""
    known = compiled.parameters(package or compiled.PACKAGE)
    arguments = {name: one.default for name, one in known.items()} | parse(list(pairs), known)
    missing = 0
    for found in report(namespace, package or compiled.fitting(arguments), arguments):
        sys.stdout.write(f"{found.state:<10} {found.what:<11} {found.text}\n")
        sys.stdout.flush()
        missing += found.state == "missing"
    if missing:
        raise SystemExit(1)
