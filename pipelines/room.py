"""Whether a cluster has room for a run's pods: on nodes, in the quotas, in Kueue's queue."""

from collections.abc import Iterator

from pipelines import capacity, kueue, quotas
from pipelines.state import UNENDED, Finding, RefusedError, State


def nodes(state: State) -> Iterator[Finding]:
    """CPUs, memory and accelerators for each step, on nodes that take its pod."""
    items = state.read(state.core.list_node)["items"]
    try:
        pods = state.read(state.core.list_pod_for_all_namespaces, field_selector=UNENDED)["items"]
    except RefusedError:
        pods = []
        yield Finding("unchecked", "nodes", "other pods' requests; an administrator may read them")
    found = capacity.nodes(items, pods)
    needs = list(capacity.needs(state.documents, state.arguments))
    whole = True
    alike = {
        (*sorted(n.amounts.items()), *sorted(n.labels.items()), n.pods): n for n in reversed(needs)
    }
    for wanted in alike.values():
        each = f" for each of {wanted.pods} pods" if wanted.pods > 1 else ""
        least = f"{wanted.name}: {capacity.words(wanted.amounts)}{each}"
        if sum(node.takes(wanted, node.lasting) for node in found) < wanted.pods:
            whole = False
            best = "; ".join(node.words(wanted) for node in found[:3])
            yield Finding(
                "missing", "nodes", f"{least}; {best or 'no node takes pods'}; add nodes, or ask "
                "for less (an autoscaler may add them by itself)",
            )  # fmt: skip
        elif sum(node.takes(wanted, node.free) for node in found) < wanted.pods:
            whole = False
            yield Finding("unchecked", "nodes", f"{least}; they wait until other pods have ended")
    if whole:
        yield Finding("ok", "nodes", f"{len(found)} take pods; every step fits")


def quota(state: State) -> Iterator[Finding]:
    """What the namespace's ResourceQuotas leave and its LimitRanges allow."""
    held = state.read(state.core.list_namespaced_resource_quota, state.namespace)["items"]
    ranges = state.read(state.core.list_namespaced_limit_range, state.namespace)["items"]
    needs = list(capacity.needs(state.documents, state.arguments))
    fix = f"kubectl -n {state.namespace} edit"
    whole = True
    for found in quotas.refused(ranges, needs, fix):
        whole = False
        yield found
    if held:
        filled = [quotas.with_defaults(need, ranges) for need in needs]
        lasting = _lasting(state)
        for one in held:
            for found in quotas.exceeded(one, filled, lasting, fix):
                whole = False
                yield found
    if whole:
        counts = f"quotas: {len(held)}, limit ranges: {len(ranges)}"
        yield Finding("ok", "quota", f"every step has room ({counts})")


def _lasting(state: State) -> capacity.Amounts | None:
    """What the namespace's pods that do not end by themselves use, by a quota's names; None if
    they may not be read."""
    try:
        pods = state.read(
            state.core.list_namespaced_pod, state.namespace, field_selector=UNENDED
        )["items"]  # fmt: skip
    except RefusedError:
        return None
    return quotas.used(
        one for one in pods if one["spec"].get("restartPolicy", "Always") == "Always"
    )


def queue(state: State) -> Iterator[Finding]:
    """Kueue's queue of the TrainJob, if one is named."""
    if state.trainjob and state.arguments["queue"]:
        needs = capacity.needs(state.documents, state.arguments)
        job = next(need for need in needs if need.name == "TrainJob")
        yield from kueue.admits(state, str(state.arguments["queue"]), job)
