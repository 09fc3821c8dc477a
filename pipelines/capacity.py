"""Whether the pods of a run fit onto a cluster's nodes, by what the compiled pipeline requests."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from training.cluster.job import Request, Shape, manifest
from training.core import pods

GPU = "nvidia.com/gpu"
INPUT = re.compile(r"\{\{\$\.inputs\.parameters\['pipelinechannel--(?:resolve-)?(\w+)'\]\}\}")
SIZES = ("step_cpu", "step_memory", "train_cpu", "train_memory", "launcher", "accelerators")
Amounts = dict[str, Decimal]  # by resource: CPUs, bytes, accelerators


@dataclass
class Need:
    """Pods that run at the same time, each on a node that has all of `amounts` left."""

    name: str
    amounts: Amounts
    limits: Amounts = field(default_factory=dict)
    pods: int = 1
    labels: dict[str, str] = field(default_factory=dict)  # of the node
    tolerated: frozenset[str] = frozenset()  # keys of taints


@dataclass
class Node:
    """A node on which pods may start; `free` is what other pods leave, `lasting` what those leave
    that do not end by themselves."""

    name: str
    labels: dict[str, str]
    taints: frozenset[str]
    lasting: Amounts
    free: Amounts

    def takes(self, need: Need, left: Amounts) -> int:
        """How many pods of `need` fit into `left` of this node."""
        if need.labels.items() - self.labels.items() or self.taints - need.tolerated:
            return 0
        fits = [left.get(name, Decimal(0)) // amount for name, amount in need.amounts.items()]
        return max(0, int(min(fits)))

    def words(self, need: Need) -> str:
        """What this node has of what `need` asks for."""
        zero = Decimal(0)
        has = words({name: self.lasting.get(name, zero) for name in need.amounts})
        refused = sorted(self.taints - need.tolerated)
        return f"{self.name} has {has}{f' and the taint {refused[0]}' if refused else ''}"


def amounts(quantities: dict[str, str]) -> Amounts:
    """Kubernetes' quantities (500m, 16Gi) as numbers; without zeros."""
    from kubernetes.utils.quantity import parse_quantity

    found = {name: parse_quantity(text) for name, text in quantities.items()}
    return {name: value for name, value in found.items() if value}


def needs(documents: list[Any], arguments: dict[str, Any]) -> Iterator[Need]:
    """What the steps of a compiled pipeline (its two YAML documents) and a TrainJob request."""
    chosen = {name: arguments[name] for name in SIZES}
    known = {**arguments, **pods.requests(arguments["preset"], **chosen)._asdict()}

    def filled(text: str) -> str:
        return INPUT.sub(lambda match: str(known[match[1]]), text)

    settings = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in documents[0]["deploymentSpec"]["executors"].items():
        given = executor["container"].get("resources", {})
        asked, most = (
            {key: filled(text)
             for key in ("cpu", "memory") if (text := given.get(f"resource{key.title()}{end}"))}
            for end in ("Request", "Limit")
        )  # fmt: skip
        step = name.removeprefix("exec-")
        need = Need(step, amounts(asked), amounts(most))
        if wanted := given.get("accelerator"):
            need.tolerated = frozenset(one["key"] for one in settings[name].get("tolerations", ()))
            need.labels = dict(arguments["node_selector"])
            kind, count = (filled(wanted[f"resource{end}"]) for end in ("Type", "Count"))
            if kind and count:
                need.amounts |= amounts({kind: count})
        if need.amounts:
            yield need
    if arguments["launcher"] == "trainjob":
        yield _trainjob(arguments)


def _trainjob(arguments: dict[str, Any]) -> Need:
    """The pods of a run's TrainJob."""
    pod = pods.trainer(arguments["preset"], arguments["train_cpu"], arguments["train_memory"])
    shape = Shape(
        arguments["nodes"], arguments["nproc"], arguments["accelerator"],
        arguments["accelerators"], cpu=pod.cpu, memory=pod.memory,
    )  # fmt: skip
    job = manifest(Request("{}", arguments["model"], "{}", "{}"), shape, [])
    node = job["spec"]["trainer"]["resourcesPerNode"]
    return Need(
        "TrainJob", amounts({**node["limits"], **node["requests"]}), amounts(node["limits"]),
        shape.nodes, dict(arguments["node_selector"]), frozenset({GPU}),
    )  # fmt: skip


def nodes(items: Iterable[Any], others: Iterable[Any]) -> list[Node]:
    """The nodes on which pods may start, from the API's nodes and its other pods."""
    running = [pod for pod in others if pod["spec"].get("nodeName")]
    found = []
    for item in items:
        spec, status = item.get("spec", {}), item["status"]
        ready = {one["type"]: one["status"] for one in status.get("conditions", ())}.get("Ready")
        if spec.get("unschedulable") or ready != "True":
            continue
        name = item["metadata"]["name"]
        taints = frozenset(
            one["key"] for one in spec.get("taints") or () if one["effect"] != "PreferNoSchedule"
        )
        lasting = amounts(status["allocatable"])
        free = dict(lasting)
        for pod in running:
            if pod["spec"]["nodeName"] != name:
                continue
            for key, value in requested(pod).items():
                free[key] = free.get(key, Decimal(0)) - value
                if pod["spec"].get("restartPolicy", "Always") == "Always":
                    lasting[key] = lasting.get(key, Decimal(0)) - value
        found.append(Node(name, item["metadata"].get("labels") or {}, taints, lasting, free))
    return found


def requested(pod: Any, what: str = "requests") -> Amounts:
    """What a pod requests (or its `limits`): of its containers together, or of an init container
    if that is more."""
    total: Amounts = {}
    for one in pod["spec"]["containers"]:
        for name, value in amounts((one.get("resources") or {}).get(what) or {}).items():
            total[name] = total.get(name, Decimal(0)) + value
    for one in pod["spec"].get("initContainers") or ():
        for name, value in amounts((one.get("resources") or {}).get(what) or {}).items():
            total[name] = max(total.get(name, Decimal(0)), value)
    return total


def words(found: Amounts) -> str:
    """Amounts for people: 4 CPUs, 16.0 GiB, 1 nvidia.com/gpu."""
    units = {"cpu": ("CPUs", 1), "memory": ("GiB", 2**30)}
    texts = []
    for name, value in sorted(found.items(), key=lambda pair: ("/" in pair[0], pair[0])):
        unit, size = units.get(name, (name, 1))
        texts.append(f"{float(value) / size:.4g} {unit}")
    return ", ".join(texts)
