"""Whether Kueue's queue of a TrainJob exists, is active, and could ever admit it."""

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from pipelines.capacity import Amounts, Need, words
from pipelines.state import Finding, State

GROUP = "kueue.x-k8s.io"


def admits(state: State, queue: str, need: Need) -> Iterator[Finding]:
    """The findings on local queue `queue`, for all pods of `need` together."""
    version = _version(state)
    if not version:
        yield _missing(f"{GROUP}; install Kueue, or leave out queue={queue}")
        return
    where = GROUP, version
    local = state.read(
        state.objects.get_namespaced_custom_object, *where, state.namespace, "localqueues", queue
    )
    if local is None:
        names = [one["metadata"]["name"] for one in state.read(
            state.objects.list_namespaced_custom_object, *where, state.namespace, "localqueues"
        )["items"]]  # fmt: skip
        yield _missing(
            f"the LocalQueue {queue} in {state.namespace}; there is {', '.join(names) or 'none'}: "
            "give its name as queue=, or create it"
        )
        return
    name = local["spec"]["clusterQueue"]
    if why := _stopped(local):
        yield _missing(f"LocalQueue {queue}: {why}")
    whole = state.read(state.objects.get_cluster_custom_object, *where, "clusterqueues", name)
    if whole is None:
        yield _missing(f"the ClusterQueue {name} of the LocalQueue {queue}; create it")
        return
    faults = [
        text for text in (_stopped(whole), _selects(state, whole), _fits(whole, need)) if text
    ]
    for text in faults:
        yield _missing(f"ClusterQueue {name}: {text}")
    if not why and not faults:
        yield Finding("ok", "queue", f"{queue}, of ClusterQueue {name}, could admit the TrainJob")


def _missing(text: str) -> Finding:
    return Finding("missing", "queue", text)


def _version(state: State) -> str:
    """The version of Kueue's kinds that the server prefers; empty without Kueue."""
    from kubernetes import client

    groups = state.read(client.ApisApi(state.api).get_api_versions)["groups"]
    found = [one["preferredVersion"]["version"] for one in groups if one["name"] == GROUP]
    return str(found[0]) if found else ""


def _stopped(queue: Any) -> str:
    """Why a queue takes no job, with the fix; empty if it does."""
    policy = queue["spec"].get("stopPolicy") or "None"
    if policy != "None":
        return f"stopPolicy is {policy}; set it to None"
    for one in (queue.get("status") or {}).get("conditions") or ():
        if one["type"] == "Active" and one["status"] != "True":
            return f"not active ({one.get('reason')}: {one.get('message')}); correct that"
    return ""


def _selects(state: State, queue: Any) -> str:
    """Why a ClusterQueue does not take the namespace's jobs; expressions are not evaluated."""
    selector = queue["spec"].get("namespaceSelector")
    if selector is None:
        return "namespaceSelector is not set, which selects no namespace; set it to {}"
    labels = state.read(state.core.read_namespace, state.namespace)["metadata"].get("labels") or {}
    lacks = (selector.get("matchLabels") or {}).items() - labels.items()
    if lacks:
        text = ", ".join(f"{key}={value}" for key, value in sorted(lacks))
        return f"takes namespaces with {text}; kubectl label namespace {state.namespace} {text}"
    return ""


def _fits(queue: Any, need: Need) -> str:
    """Why no flavor could ever hold all pods of `need`; empty if one could."""
    total = {name: value * need.pods for name, value in need.amounts.items()}
    groups = queue["spec"].get("resourceGroups") or ()
    covered = {name for group in groups for name in group["coveredResources"]}
    if "pods" in covered:
        total["pods"] = Decimal(need.pods)
    if lacks := sorted(total.keys() - covered):
        return (
            f"its resourceGroups do not cover {', '.join(lacks)}, which the TrainJob requests; "
            "add a quota of it"
        )
    cohort = queue["spec"].get("cohortName") or queue["spec"].get("cohort")
    for group in groups:
        wanted = {name: total[name] for name in group["coveredResources"] if name in total}
        offers = [_offer(flavor, bool(cohort)) for flavor in group["flavors"]]
        if not any(all(offer[n] >= value for n, value in wanted.items()) for offer in offers):
            held = "; ".join(
                f"{flavor['name']} {words({n: offer[n] for n in wanted if offer[n] < wanted[n]})}"
                for flavor, offer in zip(group["flavors"], offers, strict=True)
            )
            return (
                f"no flavor could ever hold {words(wanted)} ({need.pods} pods): {held}; raise "
                "nominalQuota, or ask for less (nodes, accelerators, train_cpu, train_memory)"
            )
    return ""


def _offer(flavor: Any, cohort: bool) -> Amounts:
    """The most of each resource of a flavor: its own, and what may be borrowed in a cohort."""
    from kubernetes.utils.quantity import parse_quantity

    found: Amounts = {}
    for one in flavor["resources"]:
        own, more = parse_quantity(str(one["nominalQuota"])), one.get("borrowingLimit")
        borrowed = Decimal(0) if not cohort else Decimal(math.inf)
        found[one["name"]] = own + (borrowed if more is None else parse_quantity(str(more)))
    return found
